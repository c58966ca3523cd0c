"""Names of the bridges and ports this agent makes, and the mark by which it knows its own.

Names are functions of identities, so an agent that restarts without memory finds the same ones. They fit the kernel's
15 characters. A name alone proves nothing: only the ownership mark in OVSDB's `external_ids` does, and whatever lacks
it is somebody else's, even under a name that would be ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final
from uuid import UUID

from netmgr.contract.types import NetworkType

__all__ = [
    "ADDRESSES_KEY",
    "IFACE_ID",
    "OVS_TYPE",
    "OWNER",
    "PNICS_KEY",
    "SUBPORT_KEY",
    "SWITCH_KEY",
    "TAGGED_KEY",
    "bond_port",
    "exit_port",
    "is_ours",
    "is_switch_bridge",
    "is_tap_of",
    "is_uplink_bridge",
    "network_key",
    "ovs_type",
    "patch_port",
    "subport_end",
    "switch_bridge",
    "tagged_end",
    "trunk_port",
    "tunnel_port",
    "uplink_bridge",
]

_OWNER_KEY, _OWNER_VALUE = "opaque-owner", "hostagent"
OWNER: Final[Mapping[str, str]] = {_OWNER_KEY: _OWNER_VALUE}
"""The mark: every bridge, port and interface of ours carries it in external_ids."""

SWITCH_KEY: Final = "opaque-switch"
"""On an integration bridge: UUID of the switch it realizes."""

PNICS_KEY: Final = "opaque-pnics"
"""On an uplink bridge: its PNICs, sorted, joined by commas."""

ADDRESSES_KEY: Final = "opaque-addresses"
"""On an uplink bridge: the addresses that we put on its LOCAL port; no other is ever removed."""

SUBPORT_KEY: Final = "opaque-subport"
"""On an interface of ours that stands for a sub-port's tap: UUID of the port, which is its VIF's too."""

TAGGED_KEY: Final = "opaque-tagged"
"""On the other end of its patch, where the parent's frames with the tag go: UUID of the sub-port."""

IFACE_ID: Final = "iface-id"
"""On an interface: the VIF's UUID, written by the virtualization software."""

OVS_TYPE: Final[Mapping[NetworkType, str]] = {
    NetworkType.VXLAN: "vxlan",
    NetworkType.GENEVE: "geneve",
    NetworkType.NVGRE: "gre",  # NVGRE is GRE whose key is VSID << 8 (RFC 7637)
}
"""Interface type in OVSDB of each tunnel type, over IPv4 and in the userspace datapath; see `ovs_type`."""

_GRE_OVER_IPV6: Final = "ip6gre"  # of the kernel's datapath, where the device of "gre" speaks IPv4 only

_TUNNEL_PREFIX: Final[Mapping[NetworkType, str]] = {
    NetworkType.VXLAN: "vxlan-",
    NetworkType.GENEVE: "genev-",
    NetworkType.NVGRE: "nvgre-",
}


def ovs_type(network_type: NetworkType, *, vtep: str, datapath: str) -> str:
    """Interface type in OVSDB of a tunnel port whose local address is *vtep*."""
    if network_type is NetworkType.NVGRE and ":" in vtep and datapath != "netdev":
        return _GRE_OVER_IPV6
    return OVS_TYPE[network_type]


def switch_bridge(switch_uuid: UUID) -> str:
    """Integration bridge of a switch: `osw-` and the first 10 hex digits of its UUID."""
    return f"osw-{switch_uuid.hex[:10]}"


def uplink_bridge(pnics: Iterable[str]) -> str:
    """Uplink bridge of a set of PNICs, in whatever order they are given."""
    return f"upl-{_digest(pnics)[:10]}"


def bond_port(pnics: Iterable[str]) -> str:
    """Port that bonds *pnics* on their uplink bridge."""
    return f"bond-{_digest(pnics)[:8]}"


def tunnel_port(network_type: NetworkType, switch_uuid: UUID) -> str:
    """The one flow-based tunnel port of a type on a switch's bridge."""
    return f"{_TUNNEL_PREFIX[network_type]}{switch_uuid.hex[:8]}"


def patch_port(switch_uuid: UUID) -> str:
    """The port on a switch's bridge that leads to its uplink bridge, for networks on VLANs."""
    return f"patch-{switch_uuid.hex[:8]}"


def trunk_port(switch_uuid: UUID) -> str:
    """The other end of `patch_port`, on the uplink bridge: a trunk of the VLANs of the switch's networks."""
    return f"trunk-{switch_uuid.hex[:8]}"


def subport_end(port_uuid: UUID) -> str:
    """The port that stands for a sub-port's tap."""
    return f"sub-{port_uuid.hex[:10]}"


def tagged_end(port_uuid: UUID) -> str:
    """The other end of `subport_end`, on the bridge of the parent."""
    return f"tag-{port_uuid.hex[:10]}"


def exit_port(network_type: NetworkType, switch_uuid: UUID) -> str:
    """The port by which networks of a type leave a switch's bridge."""
    return patch_port(switch_uuid) if network_type is NetworkType.VLAN else tunnel_port(network_type, switch_uuid)


def is_ours(external_ids: Mapping[str, str]) -> bool:
    """True when *external_ids* carry our mark."""
    return external_ids.get(_OWNER_KEY) == _OWNER_VALUE


def is_switch_bridge(external_ids: Mapping[str, str]) -> bool:
    """True when they are of an integration bridge of ours."""
    return is_ours(external_ids) and SWITCH_KEY in external_ids


def is_uplink_bridge(external_ids: Mapping[str, str]) -> bool:
    """Whether these are the external_ids of an uplink bridge of ours."""
    return is_ours(external_ids) and PNICS_KEY in external_ids


def is_tap_of(mac: str, *, tap: str) -> bool:
    """Whether a link with the MAC *tap* is the tap that libvirt makes for a guest's interface with *mac*: the same, but
    it begins with 0xfe, which libvirt allows no guest (`virNetDevTapCreateInBridgePort`)."""
    return len(mac) > 2 and tap == "fe" + mac[2:]


def network_key(network_uuid: UUID) -> int:
    """First 64 bits of a network's UUID: its metadata in the pipeline and the cookie of its flows.

    It is an identity on this host only; on the wire a network goes by its segment id.
    """
    return network_uuid.int >> 64


def _digest(pnics: Iterable[str]) -> str:
    return hashlib.sha256(",".join(sorted(pnics)).encode()).hexdigest()

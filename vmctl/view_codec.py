"""From OpaqueView's messages to `HostView`. Pure.

Only what placement needs is taken: identity, name, zone, status, health, and under which name libvirt knows a network.
How a network is carried between hosts stays on the other side of this border. A message that does not fit raises
`ContractError`, and the host then counts as unread, not as empty.
"""

from __future__ import annotations

from uuid import UUID

from netmgr.contract.codec import ContractError, decode
from netmgr.contract.proto import opaque_view_pb2 as pb
from netmgr.contract.types import Status, TransportZone, VifStatus
from vmctl.model import HostView, NetworkView, SwitchView, VifView, Zone

__all__ = ["decode_host", "find_host"]


def find_host(view: pb.View, *, uuid: UUID | None = None, name: str = "") -> pb.HostView | None:
    """The host of that UUID, or of that name, in *view*; None when it is not there."""
    wanted = str(uuid) if uuid else None
    return next((h for h in view.hosts if (h.host_uuid == wanted if wanted else h.host_name == name)), None)


def decode_host(message: pb.HostView, *, name: str) -> HostView:
    """The view of the host that vmctl calls *name*.

    Raises:
        ContractError: a field does not fit; the sentence names it.
    """
    try:
        zones = (decode(TransportZone, zone) for zone in message.zones)
        vifs = (decode(VifStatus, vif) for vif in message.vifs)
        return HostView(
            host=name,
            host_uuid=UUID(message.host_uuid),
            in_sync=message.in_sync,
            manager_connected=message.manager_connected,
            sync_age_s=message.sync_age_s,
            zones=tuple(Zone(uuid=zone.uuid, name=zone.name) for zone in zones),
            switches=tuple(_switch(switch) for switch in message.switches),
            networks=tuple(_network(network) for network in message.networks),
            vifs=tuple(VifView(uuid=vif.vif_uuid, state=vif.state, reason=vif.reason) for vif in vifs),
        )
    except ContractError:
        raise
    except ValueError as error:
        raise ContractError(f"HostView of {name}: {error}") from None


def _switch(message: pb.OpaqueSwitchInfo) -> SwitchView:
    return SwitchView(
        uuid=UUID(message.key),
        name=message.name,
        status=Status(message.status),
        health=message.health,
        reasons=tuple(message.reasons),
        userspace=message.extra_config.get("datapath", "") == "netdev",
        zone_uuids=tuple(UUID(zone) for zone in message.pnic_zone),
        link_mbps=_number(message.extra_config.get("link_mbps", "")),
        free_ports=_number(message.extra_config.get("free_ports", "")),
        pnics=tuple(message.pnic),
        load_mbps=_number(message.extra_config.get("load_mbps", "")),
    )


def _network(message: pb.OpaqueNetworkInfo) -> NetworkView:
    return NetworkView(
        uuid=UUID(message.opaque_network_id),
        name=message.opaque_network_name,
        type=message.opaque_network_type,
        zone_uuids=tuple(UUID(zone) for zone in message.pnic_zone),
        switch_uuid=UUID(message.switch_key) if message.switch_key else None,
        status=Status(message.status),
        health=message.health,
        reasons=tuple(message.reasons),
        libvirt_network=message.extra_config.get("libvirt_network", "") or message.opaque_network_name,
        mtu=int(message.extra_config.get("mtu", "0") or 0),
    )


def _number(text: str) -> int | None:
    return int(text) if text else None

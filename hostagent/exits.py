"""How networks leave their switch's bridge: by a tunnel port for each type, VLANs by a patch to the uplink. Pure."""

from __future__ import annotations

from hostagent.model import Bridge
from hostagent.names import exit_port
from hostagent.pipeline.network import Trunk, Wire
from hostagent.resolve import SwitchIntent, tunnel_key
from netmgr.contract.types import NetworkType, OpaqueNetwork

__all__ = ["exit_ofport", "wire_of"]

_VSID_MASK = 0xFFFF_FFFF_FFFF_FF00
"""A peer may send flow ids, which spread the frames of one network over links (RFC 7637, 3.2)."""


def exit_ofport(kind: NetworkType, intent: SwitchIntent, bridge: Bridge) -> int:
    """The number of the port by which networks of a type leave *bridge*; 0 while it is not there."""
    name = exit_port(kind, intent.switch.uuid)
    for port in bridge.ports:
        if port.name == name:
            return next((one.ofport for one in port.interfaces if one.ofport is not None and one.ofport > 0), 0)
    return 0


def wire_of(network: OpaqueNetwork, intent: SwitchIntent, ofport: int) -> Wire | Trunk | None:
    """How *network* leaves its switch by the port *ofport*; None while that is 0."""
    if not network.type.tunneled:
        return Trunk(patch=ofport, vlan=network.segment_id) if ofport else None
    if not ofport or not intent.vtep:
        return None
    cut = intent.cut.get(network.type, frozenset())
    mask = _VSID_MASK if network.type is NetworkType.NVGRE else None
    return Wire(vtep=intent.vtep_address, tunnel=ofport, tun_id=tunnel_key(network), tun_mask=mask, cut=cut)

"""What would come of claims now: pure, so that a host is told to ask again only when that helps, and is sent what it
will need before its claim is decided.

The host decides what it asks and the arbiter what it grants; here the arbiter is asked the same question in advance,
and nothing comes of the answer but a hint. A VIF that the host holds already is dark for reasons of its own.
"""

from __future__ import annotations

from uuid import UUID

from netmgr.arbiter import Grant, decide_claim
from netmgr.contract.types import Claim, ClaimIntent, HostReport, VifState
from netmgr.model import World

__all__ = ["dark_vifs", "grantable", "likely", "network_of"]

_NOBODY = UUID(int=0)


def dark_vifs(report: HostReport) -> frozenset[UUID]:
    """The VIFs that a host reports dark."""
    return frozenset(vif.vif_uuid for vif in report.vifs if vif.state is VifState.DARK)


def grantable(world: World, host_uuid: UUID, vif_uuid: UUID) -> bool:
    """True when *host_uuid* would get the port of the VIF if it asked now, and has not got it yet."""
    claim = Claim(vif_uuid=vif_uuid, intent=ClaimIntent.START)
    decided = decide_claim(world, host=host_uuid, claim=claim, new_port_uuid=_NOBODY)
    return isinstance(decided, Grant) and decided.location != world.locations.get(decided.port.uuid)


def network_of(world: World, claim: Claim) -> UUID | None:
    """The network of the VIF's port, or the one that the claim names; None for neither."""
    port_uuid = world.port_by_vif.get(claim.vif_uuid)
    return world.ports[port_uuid].network_uuid if port_uuid is not None else claim.network_uuid


def likely(world: World, host_uuid: UUID, claim: Claim) -> bool:
    """True when *claim* would be granted if nothing changes."""
    return isinstance(decide_claim(world, host=host_uuid, claim=claim, new_port_uuid=_NOBODY), Grant)

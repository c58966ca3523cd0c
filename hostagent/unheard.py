"""Networks with VIFs here whose ports elsewhere this host was not told of, with no manager to ask. Pure.

A host is told of ports elsewhere for the networks that it subscribes to: those on which it has VIFs, and those of which
the last VIF has gone a moment ago (`presence`). So a guest that is started again later, on its recorded holder and with
the manager away, is lit without them. In tunnels it then reaches nobody on other hosts: a frame for a MAC that is not
known goes to the hosts that are known to have ports, which are none, and what comes from there is not believed, since
nobody has said who may speak at that VTEP. On a VLAN the physical network delivers; only questions for addresses are
not answered here. Guests of this host reach each other on both.

That few or no ports elsewhere are known says nothing, for there may be none. What does is which networks were
subscribed to when the manager last told the whole (`State.told`); it is on disk with what was told.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from uuid import UUID

from hostagent.presence import SeenVif
from netmgr.contract.types import LogicalPort, OpaqueNetwork

__all__ = ["unheard_networks", "unheard_sentence"]


def unheard_networks(
    *,
    told: Collection[UUID] | None,
    vifs: Iterable[SeenVif],
    port_by_vif: Mapping[UUID, UUID],
    ports: Mapping[UUID, LogicalPort],
    networks: Collection[UUID],
    away_since: str,
) -> Mapping[UUID, str]:
    """By one of *networks*: since when no manager has been reached. Empty while one is there (*away_since* is empty),
    and where it is not known what was *told*: to an older version of the agent."""
    if not away_since or told is None:
        return {}
    found = (ports.get(port_by_vif[vif.vif_uuid]) for vif in vifs if vif.plugged and vif.vif_uuid in port_by_vif)
    here = {port.network_uuid for port in found if port is not None}
    return dict.fromkeys(here.intersection(networks).difference(told), away_since)


def unheard_sentence(network: OpaqueNetwork, since: str) -> str:
    """What it means for the guests of *network* on this host."""
    means = (
        "guests there are not reached, nor do they reach guests here,"
        if network.type.tunneled
        else "guests there are reached, but all questions for their addresses are flooded,"
    )
    return (
        f"network {network.name}: no manager has been reached since {since}, and its ports on other hosts are not known"
        f" here; {means} until a manager is back"
    )

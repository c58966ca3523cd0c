"""What is wanted and what was read, put into the form that the pure rooms take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from hostagent.identity import Identity
from hostagent.model import Desired, LibvirtNetwork, Observed, Unread
from hostagent.presence import SeenVif, unpark
from hostagent.state import State

__all__ = ["desired_of", "is_whole", "with_plugged", "without_libvirt"]


def desired_of(state: State, identity: Identity, **more: Any) -> Desired:
    """What *state* says is wanted on this host, and *more* of `Desired` that it does not know."""
    pushed = dict[str, Any](
        host=state.host,
        zones=state.zones,
        switches=state.switches,
        networks=state.networks,
        ports=state.ports,
        locations=state.locations,
        learned=state.learned,
        port_by_vif=state.port_by_vif,
        withdrawals=state.hidden(),
        groups=state.groups,
        ct_zones=state.ct_zones,
        offered_pnics=identity.pnics,
        datapath=identity.datapath,
    )
    return Desired(**pushed | more)


def with_plugged(pushed: Desired, *, vifs: Sequence[SeenVif], ports: Mapping[UUID, UUID]) -> Desired:
    """*pushed*, where what this host holds parked counts as running while it is plugged (see `presence.unpark`)."""
    if pushed.host is None:
        return pushed
    locations = unpark(
        pushed.locations, vifs=vifs, host=pushed.host.uuid, ports=ports, hidden=pushed.withdrawals.keys()
    )
    return pushed if locations is pushed.locations else replace(pushed, locations=locations)


def is_whole(observed: Observed) -> bool:
    """True when everything that the data plane consists of could be read."""
    return not (
        isinstance(observed.bridges, Unread)
        or isinstance(observed.links, Unread)
        or any(isinstance(flows, Unread) for flows in observed.flows.values())
    )


def without_libvirt(desired: Desired, observed: Observed) -> Observed:
    """For the report of a host that has no libvirt: there is nothing to define there, so nothing is missing."""
    networks = tuple(
        LibvirtNetwork(uuid=network.uuid, name=network.name, ours=True, active=True, autostart=True)
        for network in desired.networks.values()
    )
    return replace(observed, libvirt_networks=networks)

"""Flows of ports whose VIFs are about to come, compiled before they are due.

Theory of operation. A guest that is let in waits for nothing but its flows, and to compile them takes as long as the
switch needs to open its tap. What they follow from is mostly known before: the port, that it will be this host's, and
the number that the switch will probably give its tap, since Open vSwitch counts. So they are compiled while nobody
waits, and kept with all that they follow from (`fastpath.arrival_basis`). Once the tap is there, has its number, and
the port is granted, they are taken if everything is as it was thought it would be, and compiled as ever if anything is
not. So a wrong guess costs time and nothing else: nothing is done to a switch here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from uuid import UUID

from hostagent.fastpath import arrival_basis, arrival_flows
from hostagent.host import Host
from hostagent.indexed import Overlaid
from hostagent.model import ChangeFlows, Desired, Observed
from hostagent.motion import Motion
from hostagent.names import switch_bridge
from hostagent.resolve import resolve
from hostagent.state import State

__all__ = ["Anticipated"]

_KEPT_MAX = 16  # ports; the oldest goes


class Anticipated:
    """*desired* gives what is wanted now."""

    def __init__(self, *, host: Host, state: State, desired: Callable[[], Desired], motion: Motion) -> None:
        self._host = host
        self._state = state
        self._desired = desired
        self._motion = motion
        self._kept: dict[UUID, tuple[tuple[object, ...], tuple[ChangeFlows, ...]]] = {}

    def prepare(self, port: UUID, *, granted: bool) -> None:
        """Compile what *port* will need when its tap has come; one that is not *granted* yet, as if it were."""
        wanted, location = self._state.ports.get(port), self._state.locations.get(port)
        network = self._state.networks.get(location.network_uuid) if location is not None else None
        if wanted is None or wanted.vif_uuid is None or network is None or self._motion.in_motion((port,)):
            return
        observed = self._host.with_guess(switch_bridge(network.switch_uuid), wanted.vif_uuid)
        desired = self._desired()
        if not granted:
            desired = as_granted(port, desired=desired, observed=observed)
        basis = arrival_basis(port, desired=desired, observed=observed)
        if basis is None or (port in self._kept and self._kept[port][0] == basis):
            return
        self._kept.pop(port, None)
        changes = arrival_flows((port,), trunks=self._state.subports, desired=desired, observed=observed)
        if changes:
            while len(self._kept) >= _KEPT_MAX:
                del self._kept[next(iter(self._kept))]
            self._kept[port] = (basis, changes)
            for change in changes:
                self._host.switches.encode_ahead(change.bridge, change.add)

    def take(self, ports: Sequence[UUID], *, desired: Desired, observed: Observed) -> tuple[ChangeFlows, ...] | None:
        """What was compiled for *ports*, if all is as it was thought it would be; it is not kept any more."""
        found: list[ChangeFlows] = []
        for port, (basis, changes) in [(port, self._kept.pop(port, ((), ()))) for port in ports]:
            if not changes or basis != arrival_basis(port, desired=desired, observed=observed):
                return None
            found += changes
        return tuple(found)


def as_granted(port: UUID, *, desired: Desired, observed: Observed) -> Desired:
    """*desired*, where this host holds *port*; as it is where the port has a holder, and must be asked for first."""
    location = desired.locations.get(port)
    network = desired.networks.get(location.network_uuid) if location is not None else None
    switch = desired.switches.get(network.switch_uuid) if network is not None else None
    if location is None or location.holder_host is not None or switch is None or network is None or not desired.host:
        return desired
    one = replace(desired, switches={switch.uuid: switch}, networks={network.uuid: network}, plugs={})
    vtep = resolve(one, observed).switches[switch.uuid].vtep_address
    held = replace(location, holder_host=desired.host.uuid, holder_vtep=vtep, parked=False)
    return replace(desired, locations=Overlaid(desired.locations, {port: held}))

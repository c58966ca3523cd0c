"""Flows of ports whose VIFs are about to come, compiled before they are due.

Theory of operation. A guest that is let in waits for nothing but its flows, and to compile them takes as long as the
switch needs to open its tap. What they follow from is mostly known before: the port, that it will be this host's, and
the number that the switch will probably give its tap, since Open vSwitch counts. So they are compiled while nobody
waits, packed for the switch, and kept with all that they follow from (`fastpath.arrival_basis`). Once the tap is there,
has its number, and the port is granted, they are taken if everything is as it was thought it would be, and compiled as
ever if anything is not. So a wrong guess costs time and nothing else: nothing is done to a switch here.

What a tap changes by coming is itself worked out in more time than a guest should wait. So what was looked at is kept,
too: while it is the same, and the tap and its number are all that has come, everything is as it was thought (`due`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple
from uuid import UUID

from hostagent.fastpath import arrival_basis, arrival_flows, arrival_inputs
from hostagent.first_words import in_two
from hostagent.host import Host
from hostagent.indexed import Overlaid
from hostagent.model import ChangeFlows, Desired, Observed, Unread
from hostagent.motion import Motion
from hostagent.names import switch_bridge
from hostagent.realize.openflow_bundle import Bundle
from hostagent.resolve import resolve
from hostagent.state import State
from hostagent.vifs import entered_by, vif_of

__all__ = ["ANY_MOMENT_S", "Anticipated", "Compiled"]

_KEPT_MAX = 16  # ports; the oldest goes
ANY_MOMENT_S = 1.0  # from when it was known to come


class Compiled(NamedTuple):
    """A change of flows, the same as bytes where they could be packed beforehand, the ports that it lets in with the
    types of their frames (`entered_by`), and the change that follows if that was not all."""

    change: ChangeFlows
    bundle: Bundle | None
    entries: Mapping[int, frozenset[int] | None]
    rest: ChangeFlows | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """A port's flows, compiled before they are due, and what they hold for."""

    inputs: tuple[object, ...] | None
    basis: tuple[object, ...]
    ofport: int  # what was compiled holds for this number of a tap that was nowhere when *inputs* were looked at; or 0
    compiled: tuple[Compiled, ...]
    since: float  # time.monotonic()


class Anticipated:
    """*desired* gives what is wanted now."""

    def __init__(self, *, host: Host, state: State, desired: Callable[[], Desired], motion: Motion) -> None:
        self._host = host
        self._state = state
        self._desired = desired
        self._motion = motion
        self._kept: dict[UUID, _Kept] = {}

    def prepare(self, port: UUID, *, granted: bool) -> None:
        """Compile what *port* will need when its tap has come; one that is not *granted* yet, as if it were."""
        wanted, location = self._state.ports.get(port), self._state.locations.get(port)
        network = self._state.networks.get(location.network_uuid) if location is not None else None
        if wanted is None or wanted.vif_uuid is None or network is None or self._motion.in_motion((port,)):
            return
        bridge = switch_bridge(network.switch_uuid)
        desired, observed = self._desired(), self._host.with_guess(bridge, wanted.vif_uuid)
        inputs = arrival_inputs(port, desired=desired, observed=self._host.cached())
        ofport = self._host.next_ofport(bridge) if not self._is_plugged(wanted.vif_uuid) else 0
        if not granted:
            desired = as_granted(port, desired=desired, observed=observed)
        basis = arrival_basis(port, desired=desired, observed=observed)
        kept = self._kept.pop(port, None)
        if basis is None:
            return
        if kept is not None and kept.basis == basis:
            self._kept[port] = replace(kept, inputs=inputs, ofport=ofport)
            return
        changes = arrival_flows((port,), trunks=self._state.subports, desired=desired, observed=observed)
        if changes:
            while len(self._kept) >= _KEPT_MAX:
                del self._kept[next(iter(self._kept))]
            self._kept[port] = _Kept(
                inputs=inputs,
                basis=basis,
                ofport=ofport,
                compiled=tuple(self._packed(change, wanted.ips) for change in changes),
                since=time.monotonic(),
            )

    def due(self, port: UUID, bridge: str, ofport: int = 0) -> Compiled | None:
        """What was compiled for *port*, if *bridge* gives its tap the number that was thought of (*ofport*, or 0: it
        has not said it yet) and nothing else has changed; None where it takes more than a glance to tell.

        That the port is held here, and not in motion, is for the caller to know.
        """
        kept = self._kept.get(port)
        if kept is None or not kept.ofport or kept.ofport != (ofport or self._host.next_ofport(bridge)):
            return None
        if len(kept.compiled) != 1 or kept.compiled[0].change.bridge != bridge:
            return None
        inputs = arrival_inputs(port, desired=self._desired(), observed=self._host.cached())
        return kept.compiled[0] if inputs is not None and inputs == kept.inputs else None

    def awaits(self, bridge: str | None = None, ofport: int = 0) -> bool:
        """Whether a tap is awaited any moment (which *bridge* would give the number *ofport*)."""
        since = time.monotonic() - ANY_MOMENT_S
        awaited = [one for one in self._kept.values() if one.ofport and one.since > since]
        return any(bridge in (None, one.compiled[0].change.bridge) and ofport in (0, one.ofport) for one in awaited)

    def take(self, ports: Sequence[UUID], *, desired: Desired, observed: Observed) -> tuple[Compiled, ...] | None:
        """What was compiled for *ports*, if all is as it was thought it would be; it is not kept any more."""
        found: list[Compiled] = []
        for port, kept in [(port, self._kept.pop(port, None)) for port in ports]:
            if kept is None or kept.basis != arrival_basis(port, desired=desired, observed=observed):
                return None
            found += kept.compiled
        return tuple(found)

    def forget(self, port: UUID) -> None:
        """It was made use of: a bundle is sent once."""
        self._kept.pop(port, None)

    def _packed(self, change: ChangeFlows, addresses: Collection[str]) -> Compiled:
        first, rest = in_two(change, addresses) or (change, None)
        return Compiled(first, self._host.switches.pack(first.bridge, first.add), entered_by(first.add), rest)

    def _is_plugged(self, vif: UUID) -> bool:
        bridges = self._host.bridges()
        return isinstance(bridges, Unread) or any(
            vif_of(one) == vif for bridge in bridges for port in bridge.ports for one in port.interfaces
        )


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

"""Numbers that a switch has given ports, before OVSDB shows them. Pure.

ovs-vswitchd tells an OpenFlow connection of a new port at once. Into OVSDB it writes the number with all else that it
has to write, and there it is told to others once it is on disk: milliseconds in which a guest would be dark for want of
a number that is known. What OVSDB says of a port ends what was told here, and so does the port's end: a number is
used again, and must not outlive what it was given to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from hostagent.model import Bridge, Interface, OvsPort, Unread
from hostagent.names import IFACE_ID
from hostagent.vifs import vif_of

__all__ = ["EarlyOfports"]

_COMING = "?"  # name of a tap that is not there yet
_LIFE_S = 5.0  # of a number for which OVSDB shows no row


@dataclass(slots=True, kw_only=True)
class _Told:
    """A number that the switch has told, and until when that is news (monotonic)."""

    ofport: int
    until: float
    seen: bool = False  # OVSDB has shown its row


class EarlyOfports:
    """What was told, for as long as it is news."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], _Told] = {}
        self._newest: dict[str, int] = {}  # number by bridge
        self._last: tuple[tuple[Bridge, ...], tuple[Bridge, ...]] | None = None

    def told(self, bridge: str, name: str, ofport: int, *, now: float) -> None:
        """*bridge* has the port *name* as *ofport*, or not any more where that is 0."""
        self._last = None
        self._told.pop((bridge, name), None)
        if ofport:
            self._told[bridge, name] = _Told(ofport=ofport, until=now + _LIFE_S)
            self._newest[bridge] = ofport

    def of(self, bridge: str, name: str, *, now: float) -> int:
        """What was told of the port *name*; 0 where nothing was, or it is no news any more."""
        told = self._told.get((bridge, name))
        return told.ofport if told is not None and told.until > now else 0

    def next_of(self, bridge: str) -> int:
        """The number that *bridge* will probably give its next port (Open vSwitch counts); 0: there is no telling."""
        return self._newest.get(bridge, -1) + 1

    def lost(self, bridge: str) -> None:
        """The switch of *bridge* is not heard any more."""
        self._last = None
        self._newest.pop(bridge, None)
        self._told = {key: one for key, one in self._told.items() if key[0] != bridge}

    def with_guess(self, bridges: tuple[Bridge, ...], bridge: str, vif: UUID) -> tuple[Bridge, ...]:
        """*bridges* as if *vif* were plugged into *bridge* with the number that it will probably get; where it has one,
        or there is no telling, as they are."""
        number = self.next_of(bridge)
        return tuple(_guessed(one, vif, number) if one.name == bridge and number else one for one in bridges)

    def put_into(self, bridges: tuple[Bridge, ...] | Unread, *, now: float) -> tuple[Bridge, ...] | Unread:
        """*bridges* as OVSDB shows them, with the numbers that it does not show yet; the same for the same."""
        if not self._told or isinstance(bridges, Unread):
            return bridges
        if self._last is not None and self._last[0] is bridges:
            return self._last[1]
        self._told = {key: one for key, one in self._told.items() if one.seen or one.until > now}
        result = tuple(self._of_bridge(bridge) for bridge in bridges)
        self._last = (bridges, result)
        return result

    def _of_bridge(self, bridge: Bridge) -> Bridge:
        names = [name for of, name in self._told if of == bridge.name]
        if not names:
            return bridge
        ports = {port.name: port for port in bridge.ports}
        for name in names:
            told, port = self._told[bridge.name, name], ports.get(name)
            row = _single(port.interfaces) if port is not None else None
            if port is not None and row is not None and row.ofport is None and not row.error:
                told.seen = True
                ports[name] = _numbered(port, row, told.ofport)
            elif port is not None or told.seen:
                del self._told[bridge.name, name]
        return replace(bridge, ports=tuple(ports.values()))


def _guessed(bridge: Bridge, vif: UUID, ofport: int) -> Bridge:
    rows = [(port, one) for port in bridge.ports for one in port.interfaces if vif_of(one) == vif]
    if not rows:
        coming = Interface(name=_COMING, ofport=ofport, external_ids={IFACE_ID: str(vif)})
        return replace(bridge, ports=(*bridge.ports, OvsPort(name=_COMING, interfaces=(coming,))))
    ((tap, row), *others) = rows
    if others or row.ofport is not None or _single(tap.interfaces) is None:
        return bridge
    ports = tuple(_numbered(tap, row, ofport) if port is tap else port for port in bridge.ports)
    return replace(bridge, ports=ports)


def _single(interfaces: Sequence[Interface]) -> Interface | None:
    return interfaces[0] if len(interfaces) == 1 else None


def _numbered(port: OvsPort, row: Interface, ofport: int) -> OvsPort:
    return replace(port, interfaces=(replace(row, ofport=ofport),))

"""What a guest says between its plug and its flows: held, and given to the switch anew once they are in. Pure.

Theory of operation. A tap that is plugged is heard by the switch at once, and its port is dark until its flows are in,
some milliseconds later. What the guest says meanwhile would be lost, and more than that: the switch remembers that
such frames are dropped, and looks again whether they still should be no sooner than 5 ms after the last time, which was
when the tap came. So of a port that this host holds, whose tap is awaited, frames with its MAC come here (CLASSIFY),
the first few are kept, and handed to the switch as if they had just come in by the same port when its flows are on
their way: it takes them after these, and they pass all tables, as every frame. So nothing passes that would not have
passed a moment later, and nothing twice: what comes here was delivered to nobody.

A port may be lit for some types of frames first (`first_words`): others are kept until it is lit for all.

While the switch still remembers, frames come here of a port that is lit already. They are handed back at once, for a
moment, and not without end. And should a guest that stays dark say too much, nothing of the bridge is held for a while.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hostagent.first_words import type_of
from hostagent.learning import HUSH_S

__all__ = ["Held"]


_FRAMES_MAX = 32  # of a port, the first
_PORTS_MAX = 64
_LIFE_S = 1.0  # of a frame
_AFTER_S = 0.05  # for which frames of a lit port may still come here
_AFTER_MAX = 64  # of these
_FLOOD_MAX = 1000  # frames of a bridge in a second; of more a guest that stays dark means no good


@dataclass(slots=True, kw_only=True)
class _Port:
    """What a guest has said before its flows were in; times are monotonic."""

    began: float
    frames: list[bytes] = field(default_factory=list)
    lit: float | None = None
    after: int = 0
    types: frozenset[int] | None = None  # of frames that it is lit for; None: all

    def passes(self, frame: bytes) -> bool:
        """Whether the flows that are in let *frame* pass."""
        return self.lit is not None and (self.types is None or type_of(frame) in self.types)


@dataclass(slots=True, kw_only=True)
class _Flood:
    """How much has come lately from a bridge whose frames are held."""

    began: float
    frames: int = 0
    hushed_until: float = 0.0


class Held:
    """By bridge and number of the port."""

    def __init__(self) -> None:
        self._ports: dict[tuple[str, int], _Port] = {}
        self._floods: dict[str, _Flood] = {}

    def frame(self, bridge: str, ofport: int, frame: bytes, *, now: float) -> bool:
        """A frame came here. True: it is for the switch at once; else it is kept, or there were too many."""
        flood = self._floods.setdefault(bridge, _Flood(began=now))
        if now >= flood.began + 1:
            flood.began, flood.frames = now, 0
        flood.frames += 1
        if flood.frames > _FLOOD_MAX:
            flood.hushed_until = now + HUSH_S
            return False
        port = self._ports.get((bridge, ofport))
        if port is not None and port.passes(frame):
            assert port.lit is not None
            port.after += 1
            return port.after <= _AFTER_MAX and now < port.lit + _AFTER_S
        if port is None or now >= port.began + _LIFE_S:
            port = self._put(bridge, ofport, _Port(began=now))
        if len(port.frames) < _FRAMES_MAX:
            port.frames.append(frame)
        return False

    def hushed(self, *, now: float) -> frozenset[str]:
        """Bridges where too much came for the agent to be asked for more."""
        return frozenset(bridge for bridge, flood in self._floods.items() if now < flood.hushed_until)

    def take(self, bridge: str, ofport: int, *, now: float) -> tuple[bytes, ...]:
        """Its flows are on their way: what the port has said, the first first. It is not kept any more."""
        port = self._ports.get((bridge, ofport))
        if port is None or now >= port.began + _LIFE_S:
            return ()
        frames, port.frames = tuple(port.frames), []
        return frames

    def lit(self, bridge: str, ofport: int, *, now: float, types: frozenset[int] | None = None) -> tuple[bytes, ...]:
        """Its flows are in, those for frames of *types* or (None) all: what of these the port has said and was not
        taken."""
        frames = self.take(bridge, ofport, now=now)
        port = self._put(bridge, ofport, _Port(began=now, lit=now, types=types))
        port.frames = [frame for frame in frames if not port.passes(frame)]
        return tuple(filter(port.passes, frames))

    def forget(self, bridge: str, ofport: int | None = None) -> None:
        """The number is given to a new port, or (None) the switch is gone: what was said was said by another."""
        self._ports = {key: one for key, one in self._ports.items() if key[0] != bridge or ofport not in (None, key[1])}

    def _put(self, bridge: str, ofport: int, port: _Port) -> _Port:
        self._ports.pop((bridge, ofport), None)
        if len(self._ports) >= _PORTS_MAX:
            del self._ports[next(iter(self._ports))]
        self._ports[bridge, ofport] = port
        return port

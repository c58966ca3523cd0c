"""Meters to OpenFlow 1.5 bytes and back: changes, descriptions, statistics. Pure: bytes in, values out.

Our form has one band, which drops what exceeds a rate in kbit/s beyond a burst. What a band has met, it has dropped.
Layouts: OpenFlow 1.5.1, `ofp_meter_mod`, `ofp_meter_desc`, `ofp_meter_stats`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final

from hostagent.model import MeterLimit

__all__ = ["ASK_DROPS", "ASK_METERS", "drops_in", "meter_changes", "meters_in"]

_STATISTICS, _DESCRIPTIONS = 9, 10
_ALL: Final = 0xFFFFFFFF
_ADD, _MODIFY, _DELETE = 0, 1, 2
_KBPS_BURST, _WITH_STATISTICS = 1 | 4, 8
_BAND_DROP: Final = 1
_BAND: Final = struct.Struct("!HHII4x")  # type, length, rate, burst
_METER: Final = struct.Struct("!IH34x")  # number, length; then flows, packets and bytes that came, and its age
_MET: Final = struct.Struct("!Q8x")  # packets and bytes that a band has met

ASK_METERS: Final = struct.pack("!HH4xI4x", _DESCRIPTIONS, 0, _ALL)
"""Body of the multipart request for all meters."""
ASK_DROPS: Final = struct.pack("!HH4xI4x", _STATISTICS, 0, _ALL)
"""Body of the one for what they have dropped."""


def meter_changes(*, put: Iterable[MeterLimit], remove: Iterable[int]) -> list[bytes]:
    """Bodies of meter-mods that delete the meters *remove*, with all flows that use them, and make those of *put*.

    A meter that is there must be changed, one that is not must be added: of each both is sent, and the switch says
    which was which.
    """
    bodies = [struct.pack("!HHI", _DELETE, 0, number) for number in remove]
    for limit in put:
        band = _BAND.pack(_BAND_DROP, _BAND.size, limit.rate_kbps, limit.burst_kbit)
        bodies += [struct.pack("!HHI", command, _KBPS_BURST, limit.number) + band for command in (_ADD, _MODIFY)]
    return bodies


def meters_in(parts: Sequence[bytes]) -> frozenset[MeterLimit]:
    """The meters in the bodies of an answer to ASK_METERS; one that is not of our form has no rate."""
    found = set()
    for body in parts:
        at = 0
        while at < len(body):
            length, flags, number = struct.unpack_from("!HHI", body, at)
            kind = rate = burst = 0
            if length == 24 and flags & ~_WITH_STATISTICS == _KBPS_BURST:
                kind, _, rate, burst = _BAND.unpack_from(body, at + 8)
            ours = kind == _BAND_DROP
            found.add(MeterLimit(number=number, rate_kbps=rate if ours else 0, burst_kbit=burst if ours else 0))
            at += max(length, 8)
    return frozenset(found)


def drops_in(parts: Sequence[bytes]) -> dict[int, int]:
    """By number of the meter: the packets it has dropped, from the bodies of an answer to ASK_DROPS."""
    found = {}
    for body in parts:
        at = 0
        while at < len(body):
            number, length = _METER.unpack_from(body, at)
            end = at + max(length, _METER.size)
            found[number] = sum(packets for (packets,) in _MET.iter_unpack(body[at + _METER.size : end]))
            at = end
    return found

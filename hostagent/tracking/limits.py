"""How many connections a port's zone of the tracker may hold: what vswitchd is told, and what it says. Pure.

All ports of a host share one tracker. Without a limit one guest can fill it (by default with 3,000,000 connections in
user space, with `nf_conntrack_max` in the kernel), and no other's new connections are known then. Open vSwitch counts
and limits by zone, in both datapaths. `dpctl/ct-get-limits` (ovs-vswitchd(8)) prints a line for each zone that has a
limit:

    zone=40960,limit=65536,count=12
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from hostagent.tracking.zones import ZONES

__all__ = ["CONNECTIONS_MAX", "Held", "changes", "limits_in"]

CONNECTIONS_MAX: Final = 65_536
"""By default, of a port: as many as its host can read in one go when the guest migrates (`unixctl`), IPv6 included."""

_LINE: Final = re.compile(r"zone=(\d+),limit=(\d+),count=(\d+)")


class Held(NamedTuple):
    """What vswitchd says of a zone."""

    limit: int
    connections: int


def limits_in(text: str) -> dict[int, Held]:
    """By zone of ours that has a limit."""
    rows = ((int(zone), int(limit), int(connections)) for zone, limit, connections in _LINE.findall(text))
    return {zone: Held(limit, connections) for zone, limit, connections in rows if zone in ZONES}


def changes(zones: Collection[int], *, limit: int, found: Mapping[int, Held]) -> tuple[list[int], list[int]]:
    """Of *zones*, which ports have, those to be given *limit* (0: none has one); and zones whose limit is to go."""
    wanted = set(zones) if limit else set()
    give = [zone for zone in sorted(wanted) if zone not in found or found[zone].limit != limit]
    return give, sorted(found.keys() - wanted)

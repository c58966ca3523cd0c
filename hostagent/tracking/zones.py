"""Zones of the connection tracker: one for each port of this host that has stateful groups. Pure.

The tracker keeps the connections of different zones apart, so a port's are its own, whatever addresses it shares with
ports of other networks. A zone is tied to the logical port and not to its tap's number, which is used again soon. What
an earlier port left in a zone must be flushed before another uses it; and it is not given again at once, because the
earlier port's last flows may still be on their way out.

All who use Open vSwitch on a host share 65,536 numbers: OVN counts from 1, the kernel's own tracker uses 0. Ours are
8,192 in a row, far from both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from uuid import UUID

from hostagent.indexed import select
from hostagent.model import Desired
from hostagent.vifs import is_stateful
from netmgr.contract.types import LogicalPort

__all__ = ["ZONES", "assign", "tracked_ports"]

ZONES = range(40960, 49152)


def tracked_ports(desired: Desired) -> frozenset[UUID]:
    """Ports that need a zone on this host: it holds them or they are coming, and their groups are stateful."""
    host = desired.host.uuid if desired.host is not None else None
    return frozenset(
        uuid
        for uuid, port in select(desired.ports, _has_groups).items()
        if (location := desired.locations.get(uuid)) is not None
        and host in (location.holder_host, location.incoming_host)
        and is_stateful(port, desired.groups)
    )


def _has_groups(port: LogicalPort) -> bool:
    return bool(port.security_groups)


def assign(ports: Iterable[UUID], *, held: Mapping[UUID, int], last: int) -> dict[UUID, int]:
    """A zone for each of *ports* that is not among those of *held*: the next free ones after *last*, round and round.

    Ports beyond the number of zones get none.
    """
    taken = set(held.values())
    free = (zone for zone in chain(_after(last), _until(last)) if zone not in taken)
    return dict(zip(sorted(port for port in ports if port not in held), free, strict=False))


def _after(last: int) -> range:
    return range(max(last + 1, ZONES.start), ZONES.stop)


def _until(last: int) -> range:
    return range(ZONES.start, min(max(last + 1, ZONES.start), ZONES.stop))

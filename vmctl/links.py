"""Which moves may copy memory at once, and how fast: by the links they use on both ends, not by a count. Pure.

A move goes over one link of its source and one or more of its destination: the link of the migration address where its
speed is known, else the PNICs of the switches that carry the VM's networks. It *needs* enough of each to copy the VM's
memory in `COPY_S`, never more than a link can give; when all its links have that to spare, it gets them, all at once.

That is why two opposite moves cannot deadlock: nobody holds one link while it waits for another. And nobody starves:
requests are looked at in the order in which they came, and what an earlier one waits for is closed to later ones; a
request on idle links is always granted.

What is granted is then shared out anew whenever a move begins or ends: each gets its need, and an equal part of what is
left of its tightest link, up to its own limit. A quarter of a link stays with the guests, and more where they use more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from vmctl.model import Candidate, Host, HostView, Migration, Vm

__all__ = ["MBPS_A_MIB_S", "Link", "Request", "admit", "links_of", "need_mbps", "shares", "waits_for"]

COPY_S = 20.0
GUESTS_PART = 0.25
FLOOR_PART = 0.1  # of a link that guests fill: moves go on, slowly
UNKNOWN_MBPS = 1000  # a PNIC whose speed nobody tells
MBPS_A_MIB_S = 8.388608


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One end's way for memory; `mbps` is what moves may use of it together."""

    host: str
    name: str
    mbps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a move asks for. `limit_mbps` is the most that it may use, 0 for no limit of its own."""

    id: int
    links: tuple[Link, ...]
    need_mbps: float
    limit_mbps: float = 0.0


def links_of(
    vm: Vm, *, ends: Sequence[tuple[Host, Candidate]], moves_use: Callable[[str, str], float]
) -> tuple[Link, ...]:
    """The links of a move of *vm* between *ends*, each with its newest word; none where nothing is known of them.

    *moves_use* is what moves already use of a host's link: it is part of the load that the host tells, and not guests'.
    """
    found: dict[tuple[str, str], Link] = {}
    for host, view in ends:
        for name, speed, load in _ways(vm, host, view):
            guests = max(0.0, load - moves_use(host.name, name))
            spare = max(speed * (1 - GUESTS_PART), 0.0) if guests < speed * GUESTS_PART else speed - guests
            found[host.name, name] = Link(host=host.name, name=name, mbps=max(spare, speed * FLOOR_PART))
    return tuple(found[key] for key in sorted(found))


def need_mbps(*, memory_mib: int, links: Iterable[Link], limit_mib_s: int) -> float:
    """What a move of that much memory needs of each of *links*."""
    wanted = memory_mib * MBPS_A_MIB_S / COPY_S
    if limit_mib_s:
        wanted = min(wanted, limit_mib_s * MBPS_A_MIB_S)
    return min([wanted, *(link.mbps for link in links)])


def admit(*, holding: Sequence[Request], waiting: Sequence[Request]) -> tuple[int, ...]:
    """Numbers of the *waiting* (in order of arrival) that may begin beside those *holding*."""
    used: dict[tuple[str, str], float] = {}
    for request in holding:
        _use(used, request)
    closed: set[tuple[str, str]] = set()
    granted = []
    for request in waiting:
        keys = [(link.host, link.name) for link in request.links]
        fits = all(
            used.get(key, 0.0) == 0.0 or used[key] + request.need_mbps <= link.mbps * (1 + 1e-9)
            for key, link in zip(keys, request.links, strict=True)
        )
        if fits and not closed.intersection(keys):
            granted.append(request.id)
            _use(used, request)
        else:
            closed.update(keys)
    return tuple(granted)


def shares(holding: Sequence[Request]) -> dict[int, float]:
    """Mbit/s that each of *holding* may use now; 0 means as fast as it goes."""
    used: dict[tuple[str, str], float] = {}
    count: dict[tuple[str, str], int] = {}
    for request in holding:
        _use(used, request)
        for link in request.links:
            count[link.host, link.name] = count.get((link.host, link.name), 0) + 1
    found = {}
    for request in holding:
        spare = [
            max(link.mbps - used[link.host, link.name], 0.0) / count[link.host, link.name] for link in request.links
        ]
        share = request.need_mbps + min(spare) if spare else 0.0
        limits = [x for x in (share, request.limit_mbps) if x]
        found[request.id] = min(limits, default=0.0)
    return found


def waits_for(row: Migration, request: Request) -> str:
    """The sentence of a move that waits for its links."""
    names = ", ".join(f"{link.name} of {link.host}" for link in request.links)
    return f"{row.vm_name} waits until other moves leave {request.need_mbps:.0f} Mbit/s of {names}"


def _use(used: dict[tuple[str, str], float], request: Request) -> None:
    for link in request.links:
        used[link.host, link.name] = used.get((link.host, link.name), 0.0) + request.need_mbps


def _ways(vm: Vm, host: Host, view: Candidate) -> list[tuple[str, float, float]]:
    """Name, speed and guests' load of each link of one end."""
    if host.migration_mbps:
        return [("migration", float(host.migration_mbps), 0.0)]
    if not isinstance(view, HostView):
        return []
    ways = []
    for uuid in dict.fromkeys(vif.network_uuid for vif in vm.vifs if vif.opaque and vif.network_uuid):
        network = view.network(uuid)
        switch = view.switch_of(network) if network is not None else None
        if switch is not None:
            name = ",".join(sorted(switch.pnics)) or switch.name
            ways.append((name, float(switch.link_mbps or UNKNOWN_MBPS), float(switch.load_mbps or 0)))
    return ways

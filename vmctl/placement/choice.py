"""The one decision: where a VM goes. Masks first, then a score; the same for power-on, moves, evacuation, balancing.

The score of a host is what its load, PNIC bandwidth, network health and free ports would be worth with the VM on it,
each times its weight, 100 at most (and the bonus of a VM's home on top). Under the policy `consolidate` load counts the
other way round, so that full hosts are filled before empty ones. What a host does not tell counts half. Equal scores
are decided by name, so the same question has the same answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from vmctl.eligibility import Atlas
from vmctl.placement.fleet import Fleet
from vmctl.placement.masks import Bits, masks
from vmctl.placement.model import Choice, Policy, Purpose, Request, networks_of
from vmctl.placement.sentences import FleetAtlas, refusals

__all__ = ["best", "explain", "explain_hosts", "ordered", "ranking", "scores"]

_PORTS_ENOUGH = 64  # more free ports than this are worth nothing more
Array = npt.NDArray[Any]


def best(fleet: Fleet, request: Request) -> Choice | None:
    """The host with the highest score, None when every host refuses."""
    bits = masks(fleet, request)
    if not (bits == 0).any():
        return None
    worth = scores(fleet, request, bits)
    column = min(np.flatnonzero(worth == worth.max()).tolist(), key=fleet.names.__getitem__)
    return Choice(host=fleet.names[column], score=round(float(worth[column]), 2))


def ranking(fleet: Fleet, request: Request, *, limit: int) -> tuple[Choice, ...]:
    """At most *limit* eligible hosts, best first."""
    bits = masks(fleet, request)
    worth = scores(fleet, request, bits)
    eligible = np.flatnonzero(bits == 0)
    if eligible.size > limit:
        cut = np.partition(worth[eligible], eligible.size - limit)[eligible.size - limit]
        eligible = eligible[worth[eligible] >= cut]
    ranked = sorted(eligible.tolist(), key=lambda column: (-worth[column], fleet.names[column]))
    return tuple(Choice(host=fleet.names[c], score=round(float(worth[c]), 2)) for c in ranked[:limit])


def explain(fleet: Fleet, request: Request) -> tuple[Choice, ...]:
    """Every host: those that may, best first, then those that refuse, each with all its reasons, by name."""
    return ordered(explain_hosts(fleet, request, fleet.column, atlas=FleetAtlas(fleet)))


def explain_hosts(fleet: Fleet, request: Request, hosts: Iterable[str], *, atlas: Atlas) -> list[Choice]:
    """The same of some hosts, in no order; one that is not there (any more) is left out."""
    bits = masks(fleet, request)
    worth = scores(fleet, request, bits)
    found = []
    for host in hosts:
        if (column := fleet.column.get(host)) is None:
            continue
        if bits[column] == 0:
            found.append(Choice(host=host, score=round(float(worth[column]), 2)))
        else:
            why = refusals(fleet, request, host, bits=int(bits[column]), atlas=atlas)
            found.append(Choice(host=host, refusals=why))
    return found


def ordered(choices: Iterable[Choice]) -> tuple[Choice, ...]:
    """Those that may, best first, then those that refuse, by name."""
    return tuple(sorted(choices, key=lambda c: (c.score is None, -(c.score or 0.0), c.host)))


def scores(fleet: Fleet, request: Request, bits: Bits) -> Array:
    """The score of each column, -inf where *bits* refuse."""
    s, vm = fleet.settings, request.vm
    found = s.weight_load * _load(fleet, request)
    bandwidth = np.ones(fleet.width)
    health = np.ones(fleet.width)
    ports = np.ones(fleet.width)
    for uuid, nics in networks_of(vm).items():
        limit, used, free = fleet.of_switch(fleet.switch_rows(uuid), besides=vm.uuid)
        left = np.where(np.isinf(limit), 0.5, 1.0 - (used + request.needs.bandwidth_mbps) / np.maximum(limit, 1.0))
        np.minimum(bandwidth, np.maximum(left, 0.0), out=bandwidth)
        np.minimum(health, fleet.health(uuid) / 100.0, out=health)
        np.minimum(ports, np.where(np.isinf(free), 0.5, (free - nics) / _PORTS_ENOUGH), out=ports)
    found += s.weight_bandwidth * bandwidth + s.weight_health * health + s.weight_ports * np.maximum(ports, 0.0)
    home = fleet.column.get(request.home) if request.purpose is Purpose.POWER_ON else None
    if home is not None:
        found[home] += s.home_bonus
    found[bits != 0] = -np.inf
    return found


def _load(fleet: Fleet, request: Request) -> Array:
    wanted = np.array([[request.vm.vcpus], [request.vm.memory_mib]], float)
    limits = fleet.limits()[:2]
    shares = (fleet.used(besides=request.vm.uuid)[:2] + wanted) / limits
    load = np.minimum(shares.max(axis=0), 1.0)
    unknown = np.isinf(limits).all(axis=0)
    worth: Array = load if fleet.settings.policy is Policy.CONSOLIDATE else 1.0 - load
    if fleet.settings.policy is Policy.CONSOLIDATE:
        worth = np.where(fleet.running > 0, worth, 0.0)
    return np.where(unknown, 0.5, worth)

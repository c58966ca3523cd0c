"""Follows a frame from host to host: asks one, then those to whom it sends copies, level by level.

A frame crosses the underlay twice at most, and a flood goes to each host with a live port of its network once. So depth
and number of questions are bounded, and a bound that is met is said, not passed over.

Where physical switches take a frame on a VLAN, nobody here knows: it is followed to the host that holds the port it is
meant for, as one of those that it may reach.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from uuid import UUID

from netmgr.contract.types import TraceAnswer, TraceEndKind, TraceQuestion
from netmgr.service.tracing import Hop, Plan, own_vtep

__all__ = ["Ask", "follow"]

Ask = Callable[[UUID, TraceQuestion], Awaitable[TraceAnswer]]

_DEPTH_MAX = 6
_HOSTS_MAX = 200


async def follow(plan: Plan, ask: Ask) -> Hop:
    """The tree of answers, from the host of the source on."""
    budget = _Budget(_HOSTS_MAX)
    return await _visit(plan, ask, plan.host, plan.question, f"VIF {plan.source.vif_uuid}", budget, 1)


class _Budget:
    def __init__(self, left: int) -> None:
        self._left = left

    def take(self) -> bool:
        self._left -= 1
        return self._left >= 0


async def _visit(
    plan: Plan, ask: Ask, host: UUID, question: TraceQuestion, via: str, budget: _Budget, depth: int
) -> Hop:
    if depth > _DEPTH_MAX or not budget.take():
        cut = f"more than {_DEPTH_MAX} hosts in a row" if depth > _DEPTH_MAX else f"more than {_HOSTS_MAX} hosts to ask"
        return Hop(host=host, via=via, answer=TraceAnswer(), onward={}, cut=cut)
    answer = await ask(host, question)
    sender = own_vtep(plan, host)
    onward: dict[int, Awaitable[Hop]] = {}
    for number, end in enumerate(answer.ends):
        if end.kind is TraceEndKind.TUNNEL:
            onward[number] = _onward(plan, ask, end.vtep, sender, budget, depth + 1)
        elif end.kind is TraceEndKind.UPLINK and plan.behind_vlan not in (None, host) and depth == 1:
            assert plan.behind_vlan is not None
            vlan = replace(plan.question, vif_uuid=None)
            uplink = f"VLAN {plan.network.segment_id} of the uplink"
            onward[number] = _visit(plan, ask, plan.behind_vlan, vlan, uplink, budget, depth + 1)
    hops = await asyncio.gather(*onward.values())
    return Hop(host=host, via=via, answer=answer, onward=dict(zip(onward, hops, strict=True)))


async def _onward(plan: Plan, ask: Ask, vtep: str, sender: str, budget: _Budget, depth: int) -> Hop:
    host = plan.hosts_by_vtep.get(vtep)
    if host is None:
        cut = f"VTEP {vtep} is no host's on the switch of network {plan.network.name}"
        return Hop(host=UUID(int=0), via=f"tunnel from {sender}", answer=TraceAnswer(), onward={}, cut=cut)
    question = replace(plan.question, vif_uuid=None, from_vtep=sender)
    return await _visit(plan, ask, host, question, f"tunnel from {sender}", budget, depth)

"""What every route needs, and the helpers they share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Query

from netmgr.api.ports import Authority, FleetReader, HostQuestions
from netmgr.api.waiting import TIMEOUT_S_MAX, looked, realization_view, wait_realized
from netmgr.contract.types import Kind
from netmgr.model import Change
from netmgr.service.realization import targets_of
from netmgr.store import Store

__all__ = ["Context", "Timeout", "Wait"]

Wait = Annotated[
    Literal["realized"] | None,
    Query(description="Hold the answer until every reachable host has confirmed; it then has `realization`."),
]
Timeout = Annotated[float, Query(ge=0, le=TIMEOUT_S_MAX, description="Seconds to wait at most.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The parts of the manager that routes use."""

    store: Store
    fleet: FleetReader
    authority: Authority
    hosts: HostQuestions
    sync_port: int

    def acked(self) -> dict[UUID, int]:
        """The revision each host has acknowledged."""
        return {uuid: live.acked_revision for uuid, live in self.fleet.lives().items()}

    async def waited(
        self,
        view: dict[str, Any],
        *,
        keys: Iterable[tuple[Kind, UUID]] = (),
        changes: Iterable[Change] = (),
        timeout_s: float,
    ) -> dict[str, Any]:
        """*view* with `realization` of these objects and changes, waited for."""
        targets = await looked(self.store, partial(targets_of, keys=keys, changes=changes))
        found, _ = await wait_realized(self.store, self.fleet, targets, timeout_s=timeout_s)
        return {**view, "realization": realization_view(found)}

    async def answer(
        self, show: Callable[[], dict[str, Any]], *, key: tuple[Kind, UUID], wait: str | None, timeout_s: float
    ) -> dict[str, Any]:
        """What *show* says; with `realization` of the object *key*, waited for, if *wait* says so."""
        if wait is None:
            return await looked(self.store, lambda _world: show())
        targets = await looked(self.store, partial(targets_of, keys=[key]))
        found, view = await wait_realized(self.store, self.fleet, targets, timeout_s=timeout_s, show=show)
        return {**view, "realization": realization_view(found)}

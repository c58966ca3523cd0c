"""Who is waited for: what is sure without the store is so with it, and a host's word costs a look at that host."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from netmgr.api.waiting import wait_realized
from netmgr.contract.types import Kind
from netmgr.model import HostLive
from netmgr.service.realization import HostState, realization_of, surely_waiting, targets_of
from netmgr.store import Store
from netmgr.sync.fleet import Fleet
from tests.support.netmgr_store import migrated_sqlite
from tests.support.netmgr_worlds import BASE, H1, NET_A, world_of

KEY = (Kind.NETWORK, NET_A.uuid)


def test_a_host_is_surely_waited_for_until_it_has_confirmed_or_rejected_or_is_gone() -> None:
    world = world_of()
    targets = {H1.uuid: targets_of(world, keys=[KEY])[H1.uuid]}
    revision = targets[H1.uuid].revision
    sure = []
    for connected, acked, rejected in product(
        (True, False), (revision - 1, revision), ({}, {("network", NET_A.uuid): "no"})
    ):
        live = HostLive(
            host_uuid=H1.uuid, connected=connected, acked_revision=acked, wanted_revision=revision, rejected=rejected
        )
        (found,) = realization_of(world, targets, {H1.uuid: live})
        if surely_waiting(targets[H1.uuid], live):
            assert found.state is HostState.WAITING
            sure.append((connected, acked, rejected))
    assert sure == [(True, revision - 1, {})]
    assert not surely_waiting(targets[H1.uuid], None)


class Watched(Fleet):
    """Counts who is looked at."""

    looks = 0

    def live(self, host_uuid: UUID) -> HostLive | None:
        self.looks += 1
        return super().live(host_uuid)

    def lives(self) -> Any:
        found = super().lives()
        self.looks += len(found)
        return found


def waited(directory: Path, hosts: int, last: Callable[[Fleet, UUID, int], None]) -> tuple[list[Any], int]:
    """What is found of *hosts* hosts after all have confirmed but one, of which *last* tells; and the looks it took."""
    many = [replace(H1, uuid=uuid4(), name=f"m{n:03}", vteps=()) for n in range(hosts)]
    network = replace(NET_A, uuid=uuid4(), name="n", zone_uuid=NET_A.zone_uuid, segment_id=7000)
    store = Store.open(migrated_sqlite(directory))
    with store.transaction() as tx:
        for row in (*(row for row in BASE if row.uuid != H1.uuid), *many, network):  # type: ignore[union-attr]
            tx.put(row)
    mine = {one.uuid for one in many}

    async def run() -> tuple[list[Any], int]:
        fleet = Watched()
        with store.read() as world:
            found = targets_of(world, keys=[(Kind.NETWORK, network.uuid)])
            revision = world.revision
        targets = {host: target for host, target in found.items() if host in mine}
        for one in many:
            fleet.connect(one.uuid, agent_version="", now_s=0)
            fleet.sent(one.uuid, revision=revision)
        waiting = asyncio.ensure_future(wait_realized(store, fleet, targets, timeout_s=10))
        await asyncio.sleep(0)
        before = fleet.looks
        for one in many[1:]:
            fleet.acknowledge(one.uuid, revision=revision, rejections={})
            await asyncio.sleep(0)
        looks = fleet.looks - before
        assert not waiting.done()
        last(fleet, many[0].uuid, revision)
        states, _shown = await waiting
        return [one.state for one in states], looks

    try:
        return asyncio.run(run())
    finally:
        store.close()


def test_a_host_that_confirms_costs_a_look_at_itself_however_many_are_waited_for(tmp_path: Path) -> None:
    def confirm(fleet: Fleet, host: UUID, revision: int) -> None:
        fleet.acknowledge(host, revision=revision, rejections={})

    for hosts in (3, 50):
        directory = tmp_path / str(hosts)
        directory.mkdir()
        states, looks = waited(directory, hosts, confirm)
        assert states == [HostState.REALIZED] * hosts
        assert 0 < looks <= 2 * (hosts - 1)


def test_a_host_that_goes_away_is_waited_for_no_longer(tmp_path: Path) -> None:
    def leave(fleet: Fleet, host: UUID, _revision: int) -> None:
        fleet.disconnect(host, now_s=1)

    states, _looks = waited(tmp_path, 3, leave)
    assert states == [HostState.DISCONNECTED, HostState.REALIZED, HostState.REALIZED]

"""A host in maintenance: what is kept of it, whenever it is asked for."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from tests.support.vmctl_fleets import facts, fleet
from vmctl.inventory import Inventory
from vmctl.journal import Journal
from vmctl.maintenance import Maintainer
from vmctl.model import Migration
from vmctl.mover import Mover
from vmctl.placement.fleet import Fleet
from vmctl.placement.model import Move
from vmctl.placement_store import Maintenance, PlacementStore
from vmctl.placer import Placer
from vmctl.store import Store
from vmctl.tasks import Tasks
from vmctl.views import Views


class SlowStore(PlacementStore):
    """One that calls *before* in the writer's thread ahead of each write."""

    before: Callable[[Maintenance], None] = staticmethod(lambda _: None)

    def put_maintenance(self, state: Maintenance) -> None:
        self.before(state)
        super().put_maintenance(state)


class OneHost(Placer):
    """Of a fleet with h1 alone, which runs nothing."""

    @property
    def fleet(self) -> Fleet:
        return fleet([facts("h1")])


async def _begin(move: Move, task: int) -> Migration:
    raise AssertionError(f"there is nothing to move: {move} of {task}")


def test_a_host_asked_for_while_its_end_is_written_is_emptied_anew(tmp_path: Path) -> None:
    async def run() -> None:
        loop, ending, asked = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        opened = Store(f"sqlite:///{tmp_path}/vmctl.db")
        store = SlowStore(opened)

        def before(state: Maintenance) -> None:
            if not state.evacuating and not asked.is_set():
                loop.call_soon_threadsafe(ending.set)
                asyncio.run_coroutine_threadsafe(asked.wait(), loop).result(10)

        store.before = before
        journal, inventory, views = Journal(opened), Inventory(), Views(identity=tmp_path)
        placer = OneHost(store=store, inventory=inventory, views=views, isolated=frozenset)
        mover = Mover(journal=journal, inventory=inventory, views=views)
        maintainer = Maintainer(placer=placer, tasks=Tasks(journal), mover=mover, begin=_begin)
        first = await maintainer.enter("h1")
        await ending.wait()
        second = asyncio.create_task(maintainer.enter("h1"))
        await asyncio.sleep(0.05)
        asked.set()
        again = await second
        assert again is not first
        await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()}, timeout=10)
        assert again.sentence == "h1 is in maintenance and runs nothing"
        assert [state.evacuating for state in placer.in_maintenance()] == [False]
        assert placer.in_maintenance() == store.maintenance()
        opened.close()

    asyncio.run(run())

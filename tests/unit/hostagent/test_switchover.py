"""After a switch-over the guest goes first: the loop and the manager wait a little, and never for ever."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import uuid4

from hostagent.host import Events, Host, HostPaths
from hostagent.model import Desired
from hostagent.switchover import Switchover


def test_words_to_the_manager_wait_for_the_guest_and_each_is_said_once(tmp_path: Path) -> None:
    async def run() -> None:
        events = Events(dirty=lambda part: None, packet_in=lambda *_: None, domain=lambda _: None, libvirt=lambda: None)
        host = Host(HostPaths(ovs_rundir=tmp_path, libvirt_uri="none"), events)
        said: list[str] = []
        switchover = Switchover(host=host, desired=Desired, in_motion=tuple, done=lambda: None)
        switchover.after_sent(lambda: said.append("at rest"))
        assert (said, switchover.calm_s()) == (["at rest"], 0)
        switchover.changed(frozenset({uuid4()}))
        switchover.after_sent(lambda: said.append("on its way"))
        await asyncio.sleep(0.01)
        assert not switchover.busy
        assert 0 < switchover.calm_s() <= 0.05
        switchover.after_sent(lambda: said.append("in the calm"))
        assert said == ["at rest"]
        await asyncio.sleep(switchover.calm_s() + 0.02)
        assert said == ["at rest", "on its way", "in the calm"]
        await asyncio.sleep(0.06)
        assert len(said) == 3

    asyncio.run(run())

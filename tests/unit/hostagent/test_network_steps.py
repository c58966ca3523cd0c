"""Steps at libvirt: what guests wait for goes first and at once; what libvirt is to keep follows a moment later."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import uuid4

from hostagent.model import DefineNetwork, KeepNetwork, Step
from hostagent.network_steps import NetworkSteps, missed
from hostagent.progress import Failures

DEFINE = DefineNetwork(uuid=uuid4(), name="blue", bridge="osw-1", mtu=1450)
KEEP = KeepNetwork(uuid=uuid4(), name="red", bridge="osw-1", mtu=1450)


class Libvirt:
    """Takes steps as the host does, each batch at once."""

    def __init__(self) -> None:
        self.taken: list[tuple[Step, ...]] = []

    async def apply(self, steps: Any) -> list[tuple[Step, str]]:
        self.taken.append(tuple(steps))
        return []


def test_what_libvirt_is_to_keep_waits_a_moment_and_what_guests_wait_for_does_not() -> None:
    async def main() -> None:
        libvirt, woken = Libvirt(), asyncio.Event()
        steps = NetworkSteps(host=libvirt, failures=Failures(), done=woken.set)  # type: ignore[arg-type]
        began = time.monotonic()
        steps.start([KEEP])
        assert not steps.busy
        steps.start([DEFINE, KEEP])  # a network came meanwhile
        assert steps.busy
        await woken.wait()
        assert libvirt.taken == [(DEFINE,)]
        assert time.monotonic() - began < 0.1
        while len(libvirt.taken) < 2:
            woken.clear()
            steps.start([KEEP])  # the next plan has it still
            await woken.wait()
        assert libvirt.taken == [(DEFINE,), (KEEP,)]
        assert time.monotonic() - began > 0.1
        steps.close()

    asyncio.run(main())


def test_a_host_is_in_sync_while_libvirt_is_still_to_keep_a_network_but_not_when_it_refused_to() -> None:
    failures = Failures()
    assert missed([DEFINE, KEEP], failures) == [DEFINE]
    assert missed([KEEP], failures) == []
    failures.note([KEEP], [(KEEP, "libvirt refused")], now=0.0)
    assert missed([KEEP], failures) == [KEEP]


def test_every_network_has_its_moment_also_after_one_that_went_before_its_own_was_over() -> None:
    async def main() -> None:
        libvirt, woken = Libvirt(), asyncio.Event()
        steps = NetworkSteps(host=libvirt, failures=Failures(), done=woken.set)  # type: ignore[arg-type]
        steps.start([KEEP])
        await woken.wait()
        steps.start([])  # it is wanted no more
        steps.start([KeepNetwork(uuid=uuid4(), name="green", bridge="osw-1", mtu=1450)])
        await asyncio.sleep(0.05)
        assert libvirt.taken == []
        steps.close()

    asyncio.run(main())

"""What the agent acknowledges before its loop comes round: networks that leave a host at rest, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hostagent.agent import Agent
from hostagent.host import HostPaths
from hostagent.identity import Identity
from hostagent.loop import _Rest
from hostagent.model import Unread
from hostagent.state import State
from netmgr.contract.types import Object, Ref
from tests.support.hostagent_worlds import bare, desired, location, named, network, port, settled, switch

OLD, NEW = network("old", segment=5001), network("new", segment=6000)
PEER = port("peer", 2, on="new")
LOCATED = location(PEER, "h2")
IDENTITY = Identity(host_uuid=named("h1"), host_name="h1", managers=("192.0.2.1:7444",))


class Stream:
    """Notes what goes to the manager."""

    connected = True

    def __init__(self) -> None:
        self.acknowledged: list[int] = []

    def acknowledge(self, revision: int, refused: object) -> None:
        assert refused == ()
        self.acknowledged.append(revision)


class Rig:
    """An agent whose host is at rest with the network `old`."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state = State(directory / "state.db")
        self.agent = Agent(
            identity=IDENTITY,
            state=self.state,
            paths=HostPaths(ovs_rundir=directory, libvirt_uri="none"),
            boot_id="boot",
            agent_version="1",
        )
        self.stream = Stream()
        monkeypatch.setattr(self.agent.reporting, "_sync", self.stream)
        wanted = desired(switches=[switch()], networks=[OLD])
        assert wanted.host is not None
        self.push(wanted.host, switch(), OLD, revision=10)
        there = replace(settled(wanted, bare()), libvirt_networks=Unread("libvirt is switched off on this host"))
        tables = {"networks": self.state.networks, "ports": self.state.ports, "locations": self.state.locations}
        self.agent._loop._rest = _Rest(self.news, replace(wanted, **tables), there)  # type: ignore[arg-type]
        assert self.agent._loop.at_rest
        self.agent._news.wake.clear()
        self.stream.acknowledged.clear()

    @property
    def news(self) -> int:
        return self.agent._news.count

    def push(self, *bodies: object, revision: int | None, initial: bool = False) -> None:
        """As the stream does with an update; without *revision* more of it follows."""
        items = [Object(version=revision or 1, body=body) for body in bodies]  # type: ignore[arg-type]
        self.tell(self.state.take(items, revision=revision), revision, initial=initial)

    def tell(self, changed: tuple[Ref, ...], revision: int | None, *, initial: bool = False) -> None:
        if changed:
            self.agent.on_objects(changed)
        if revision is not None:
            self.agent.on_revision(revision, initial=initial)


def run(test: Callable[[Rig], None], directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        rig = Rig(directory, monkeypatch)
        try:
            test(rig)
        finally:
            rig.state.close()

    asyncio.run(main())


def test_a_network_that_needs_nothing_is_acknowledged_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def test(rig: Rig) -> None:
        before = rig.news
        rig.push(NEW, revision=11)
        assert (rig.stream.acknowledged, rig.news) == ([11], before), "and the loop is not woken yet"
        rig.push(network("another", segment=6001), revision=12)
        assert (rig.stream.acknowledged, rig.news) == ([11, 12], before)

    run(test, tmp_path, monkeypatch)


def test_the_loop_looks_a_moment_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        rig = Rig(tmp_path, monkeypatch)
        try:
            before = rig.news
            rig.push(NEW, revision=11)
            async with asyncio.timeout(10):
                await rig.agent._news.wake.wait()
            assert rig.news > before
        finally:
            rig.state.close()

    asyncio.run(main())


def left_to_the_loop(rig: Rig, before: int) -> bool:
    return not rig.stream.acknowledged and rig.news > before


def test_what_is_more_than_that_is_left_to_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def test(rig: Rig) -> None:
        before = rig.news
        rig.push(NEW, PEER, LOCATED, revision=11)
        assert left_to_the_loop(rig, before)

    run(test, tmp_path, monkeypatch)


def test_so_is_a_network_after_other_news_that_the_loop_has_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def test(rig: Rig) -> None:
        rig.push(PEER, LOCATED, revision=11)
        rig.push(network("another", segment=6001), revision=12)
        assert not rig.stream.acknowledged

    run(test, tmp_path, monkeypatch)


def test_of_a_revision_in_parts_each_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def test(rig: Rig) -> None:
        before = rig.news
        rig.push(network("another", segment=6001), revision=None)
        assert (rig.stream.acknowledged, rig.news) == ([], before)
        rig.push(PEER, LOCATED, revision=None)
        rig.push(network("third", segment=6002), revision=11)
        assert left_to_the_loop(rig, before)

    run(test, tmp_path, monkeypatch)


def test_a_place_whose_flows_are_under_way_is_not_acknowledged_with_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a phase is on its way to the switch, its news does not wake the loop: nothing tells it but that."""

    def test(rig: Rig) -> None:
        monkeypatch.setattr(type(rig.agent._switchover), "busy", property(lambda _self: True))
        rig.push(PEER, LOCATED, revision=None)
        rig.push(NEW, revision=11)
        assert not rig.stream.acknowledged

    run(test, tmp_path, monkeypatch)


def test_the_first_difference_of_a_stream_is_left_to_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def test(rig: Rig) -> None:
        before = rig.news
        rig.push(NEW, revision=11, initial=True)
        assert left_to_the_loop(rig, before)

    run(test, tmp_path, monkeypatch)

"""The loop's rounds: what it knows when it plans."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from hostagent.agent import Agent
from hostagent.host import HostPaths
from hostagent.identity import Identity
from hostagent.model import ChangeFlows, Observed, PathKey, PathStatus, Step, Unread
from hostagent.names import switch_bridge
from hostagent.state import State
from hostagent.underlay import probing
from netmgr.contract.types import NetworkType, Object, PeerState
from tests.support.hostagent_worlds import bare, desired, location, named, network, port, settled, switch

OSW = switch_bridge(named("s1"))
GUEST, PEER = port("guest", 1), port("peer", 2)
WORLD = desired(
    switches=[switch()],
    networks=[network()],
    ports=[GUEST, PEER],
    locations=[location(GUEST, "h1"), location(PEER, "h2")],
)
IDENTITY = Identity(
    host_uuid=named("h1"), host_name="h1", managers=("192.0.2.1:7444",), pnics=("eth1",), datapath="netdev"
)


class Host:
    """Stands for a host whose flows are read only after the first round has had something to do."""

    def __init__(self, agent: Agent, looks: list[Observed]) -> None:
        self._agent = agent
        self._looks = looks
        self.steps: list[Step] = []

    async def observe(self) -> Observed:
        look = self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]
        return replace(look, paths=self._agent.host.paths)

    async def apply(self, steps: Iterable[Step]) -> tuple[()]:
        self.steps += steps
        return ()


def test_what_an_earlier_agent_had_found_is_recalled_whichever_round_reads_the_flows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = PathStatus(key=PathKey(named("s1"), NetworkType.VXLAN, "10.0.0.2"), state=PeerState.DOWN, cut=True)
    there = settled(WORLD, replace(bare(), paths=(cut,)))
    there = replace(there, libvirt_networks=Unread("libvirt is switched off on this host"))
    assert not isinstance(there.bridges, Unread)
    bridges = tuple(replace(bridge, fail_mode="standalone") for bridge in there.bridges)  # there is something to do
    unread = replace(there, flows={OSW: Unread("not connected yet")}, bridges=bridges)
    monkeypatch.setattr(probing, "prime_neighbours", lambda ends: None)

    async def main() -> tuple[list[Step], tuple[PathStatus, ...]]:
        state = State(tmp_path / "state.db")
        paths = HostPaths(ovs_rundir=tmp_path, libvirt_uri="none")
        agent = Agent(identity=IDENTITY, state=state, paths=paths, boot_id="boot", agent_version="1")
        assert WORLD.host is not None
        bodies = (WORLD.host, switch(), network(), *WORLD.ports.values(), *WORLD.locations.values())
        agent.on_objects(state.take([Object(version=1, body=body) for body in bodies], revision=10))  # type: ignore[arg-type]
        agent.on_revision(10, initial=True)
        agent._loop._parts = replace(agent._loop._parts, informed=lambda: True)  # the manager has said all
        host = Host(agent, [unread, there])
        monkeypatch.setattr(agent.host, "observe", host.observe)
        monkeypatch.setattr(agent.host, "apply", host.apply)
        try:
            await agent._loop._converge()
            return host.steps, agent.host.paths
        finally:
            state.close()

    steps, paths = asyncio.run(main())
    assert steps
    assert not any(isinstance(step, ChangeFlows) for step in steps)
    assert [(path.state, path.cut) for path in paths] == [(PeerState.DOWN, True)]

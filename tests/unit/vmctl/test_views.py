"""Reading OpaqueView over real gRPC and mutual TLS."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from vmctl.model import Host, HostView, Unread, VmctlError
from vmctl.views import Views

H1 = UUID(int=0x11)


def host(server: Any, *, uuid: UUID | None = H1, name: str = "h1") -> Host:
    address = server.address if server else ""
    return Host(name=name, libvirt_uri="x", peer_uri="x", migration_address="x", agent_address=address, uuid=uuid)


@asynccontextmanager
async def views(identity: Path, **options: Any) -> AsyncIterator[Views]:
    made = Views(identity=identity, **options)
    try:
        yield made
    finally:
        await made.close()


async def until(condition: Callable[[], object], *, within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "did not come about in time"
        await asyncio.sleep(0.02)


def test_watch_brings_changes_and_comes_back_after_the_agent_was_away(authority, view_server, host_message) -> None:
    server = view_server(H1)
    server.tell(host_message(H1, network="blue"))

    async def run() -> None:
        async with views(authority.issue("vmctl", "viewer")) as seen:
            seen.add(host(server))
            await until(lambda: isinstance(seen.latest("h1"), HostView))
            server.tell(host_message(H1, network="red"))
            await until(lambda: [n.name for n in seen.latest("h1").networks] == ["red"])  # type: ignore[union-attr]
            server.stop()
            await until(lambda: isinstance(seen.latest("h1"), Unread))
            server.start()
            server.tell(host_message(H1, network="green"))
            await until(lambda: isinstance(seen.latest("h1"), HostView))
            (network,) = seen.latest("h1").networks  # type: ignore[union-attr]
            assert network.name == "green"
            assert seen.latest("h1").switches[0].userspace  # type: ignore[union-attr]

    asyncio.run(run())


def test_ask_takes_the_word_of_now(authority, view_server, host_message) -> None:
    server = view_server(H1)
    server.tell(host_message(H1))

    async def run() -> None:
        async with views(authority.issue("vmctl", "viewer")) as seen:
            assert isinstance(await seen.ask(host(server)), HostView)
            server.stop()
            before = time.monotonic()
            lost = await seen.ask(host(server), deadline_s=1.0)
            assert time.monotonic() - before < 2.0
            assert isinstance(lost, Unread)
            assert server.address in lost.reason

    asyncio.run(run())


def test_agent_with_another_hosts_certificate_is_not_believed(authority, view_server, host_message) -> None:
    impostor = view_server(uuid4())
    impostor.tell(host_message(H1))

    async def run() -> None:
        async with views(authority.issue("vmctl", "viewer")) as seen:
            assert isinstance(await seen.ask(host(impostor), deadline_s=2.0), Unread)
        assert impostor.asked == 0

    asyncio.run(run())


def test_answer_that_does_not_fit_the_contract_counts_as_unread(authority, view_server, host_message) -> None:
    server = view_server(H1)
    broken = host_message(H1)
    broken.networks[0].status = "splendid"
    server.tell(broken)

    async def run() -> None:
        async with views(authority.issue("vmctl", "viewer")) as seen:
            answer = await seen.ask(host(server))
            assert isinstance(answer, Unread)
            assert "splendid" in answer.reason

    asyncio.run(run())


def test_manager_can_stand_in_for_all_hosts(authority, view_server, host_message) -> None:
    manager = view_server("netmgr", "manager")
    manager.tell(host_message(H1, "h1"), host_message(UUID(int=0x12), "h2", zone="b", network=""))

    async def run() -> None:
        async with views(authority.issue("vmctl", "viewer"), manager=manager.address, from_manager=True) as seen:
            seen.add(host(None))
            seen.add(host(None, uuid=UUID(int=0x12), name="h2"))
            await until(lambda: all(isinstance(v, HostView) for v in seen.fleet()))
            assert [len(v.networks) for v in seen.fleet()] == [1, 0]  # type: ignore[union-attr]
            assert isinstance(await seen.ask(host(None)), HostView)

    asyncio.run(run())


def test_hosts_stand_in_for_a_manager_that_is_away(authority, view_server, host_message) -> None:
    manager, agent = view_server("netmgr", "manager"), view_server(H1)
    other = UUID(int=0x12)
    manager.tell(host_message(H1, "h1", network="blue"), host_message(other, "h2"))
    agent.tell(host_message(H1, network="red"))

    def names(word: Any) -> list[str]:
        return [network.name for network in word.networks] if isinstance(word, HostView) else []

    async def run() -> None:
        async with views(authority.issue("vmctl", "viewer"), manager=manager.address, from_manager=True) as seen:
            seen.add(host(agent))
            seen.add(host(None, uuid=other, name="h2"))
            await until(lambda: names(seen.latest("h1")) == names(seen.latest("h2")) == ["blue"])
            assert seen.source == "manager"
            manager.stop()
            await until(lambda: names(seen.latest("h1")) == ["red"])
            assert seen.source == "hosts, the manager is away"
            gone = seen.latest("h2")
            assert isinstance(gone, Unread)
            assert gone.reason.startswith("the network manager does not answer: ")
            agent.tell(host_message(H1, network="green"))
            await until(lambda: names(seen.latest("h1")) == ["green"])
            seen.remove("h1")
            seen.add(host(agent))
            await until(lambda: names(seen.latest("h1")) == ["green"])
            manager.start()
            manager.tell(*manager.hosts)
            await until(lambda: names(seen.latest("h1")) == names(seen.latest("h2")) == ["blue"], within_s=15)
            assert seen.source == "manager"
            agent.tell(host_message(H1, network="red"))
            await asyncio.sleep(0.5)
            assert names(seen.latest("h1")) == ["blue"], "the manager's word counts again"

    asyncio.run(run())


def test_uuid_is_learned_from_the_manager_by_name(authority, view_server, host_message) -> None:
    manager = view_server("netmgr", "manager")
    manager.tell(host_message(H1, "h1"))

    async def run() -> None:
        async with views(authority.issue("vmctl", "viewer"), manager=manager.address) as seen:
            assert await seen.learn_uuid("h1", "") == H1
            with pytest.raises(VmctlError, match="knows no host h9"):
                await seen.learn_uuid("h9", "")

    asyncio.run(run())


def test_uuid_is_learned_from_a_hosts_certificate_and_from_no_other(authority, view_server) -> None:
    agent, someone = view_server(H1), view_server("vmctl", "viewer")

    async def run() -> None:
        async with views(authority.issue("me", "viewer")) as seen:
            assert await seen.learn_uuid("h1", agent.address) == H1
            with pytest.raises(VmctlError, match="certificate of a viewer"):
                await seen.learn_uuid("h1", someone.address)

    asyncio.run(run())


def test_missing_identity_is_said_with_how_to_make_one(tmp_path: Path) -> None:
    async def run() -> None:
        async with views(tmp_path) as seen:
            agent = Host(
                name="h1", libvirt_uri="x", peer_uri="x", migration_address="x", agent_address="127.0.0.1:1", uuid=H1
            )
            answer = await seen.ask(agent)
            assert isinstance(answer, Unread)
            assert "netmgr cert issue" in answer.reason

    asyncio.run(run())

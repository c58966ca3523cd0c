"""libvirt through its own test driver, and hosts that hang."""

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from vmctl.hypervisor import Hypervisor, LibvirtProblem, start_events
from vmctl.inventory import Inventory
from vmctl.migration import Fate
from vmctl.model import Host, VmState
from vmctl.workers import Workers

VM = UUID("6695eb01-f6a4-8304-79aa-97f2502e193f")
BLUE = UUID("004b96e1-2d78-c30f-5aa5-f03c87d21e69")
NODE = f"""<node>
  <domain type='test'><name>web</name><uuid>{VM}</uuid><memory>8192</memory><vcpu>2</vcpu><os><type>hvm</type></os>
    <devices><interface type='network'><mac address='aa:bb:cc:dd:ee:ff'/><source network='blue'/></interface></devices>
  </domain>
  <network><name>blue</name><uuid>{BLUE}</uuid>
    <metadata><o:network xmlns:o='urn:opaque-networks:1' owner='hostagent'/></metadata><bridge name='br0'/>
    <ip address='192.168.9.1' netmask='255.255.255.0'/></network>
</node>"""


@pytest.fixture(scope="module", autouse=True)
def _events() -> None:
    start_events()


@pytest.fixture
def node(tmp_path: Path) -> str:
    (tmp_path / "node.xml").write_text(NODE)
    return f"test://{tmp_path / 'node.xml'}"


@pytest.fixture
def hanging() -> Iterator[str]:
    """A libvirt that takes the connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"qemu+tcp://127.0.0.1:{listener.getsockname()[1]}/system"


def a_host(name: str, uri: str) -> Host:
    return Host(name=name, libvirt_uri=uri, peer_uri=uri, migration_address="127.0.0.1")


def test_domains_are_followed_by_events_and_their_opaque_networks_are_known(node: str) -> None:
    async def run() -> None:
        inventory = Inventory()
        inventory.add(a_host("h1", node))
        try:
            await until(lambda: bool(inventory.vms()))
            vm = inventory.find("web")
            assert (vm.uuid, vm.host, vm.state, vm.memory_mib, vm.vcpus) == (VM, "h1", VmState.RUNNING, 8, 2)
            assert (vm.vifs[0].network_uuid, vm.vifs[0].opaque) == (BLUE, True)
            hypervisor = inventory.hypervisor("h1")
            await hypervisor.stop_domain(VM, name="web", force=True)
            await until(lambda: inventory.find("web").state is VmState.SHUT_OFF)  # nobody asked: the event told
            assert await hypervisor.read_fate(VM) is Fate.SHUT_OFF
            await hypervisor.undefine(VM, name="web")
            await hypervisor.undefine(VM, name="web")
            assert await hypervisor.read_fate(VM) is Fate.ABSENT
        finally:
            inventory.close()

    asyncio.run(run())


def test_failed_call_names_host_and_vm(node: str) -> None:
    async def run() -> None:
        inventory = Inventory()
        inventory.add(a_host("h1", node))
        try:
            with pytest.raises(LibvirtProblem, match="h1 could not start VM ghost: Domain not found"):
                await inventory.hypervisor("h1").start_domain(UUID(int=1), name="ghost")
        finally:
            inventory.close()

    asyncio.run(run())


def test_hung_host_costs_its_callers_a_deadline_and_other_hosts_nothing(
    node: str, hanging: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmctl.hypervisor.READ_S", 1.0)

    async def run() -> None:
        inventory = Inventory()
        inventory.add(a_host("hung", hanging))
        inventory.add(a_host("h1", node))
        try:
            await until(lambda: bool(inventory.vms()))
            before = time.monotonic()
            with pytest.raises(LibvirtProblem, match="hung could not look at VM"):
                await inventory.hypervisor("hung").read_domain(VM)
            assert time.monotonic() - before < 2.0
            before = time.monotonic()
            asking = [inventory.hypervisor("hung").read_fate(VM) for _ in range(10)]
            waiting = asyncio.gather(*asking)
            assert await inventory.read_vm("h1", VM) is not None
            assert time.monotonic() - before < 0.5
            assert set(await waiting) == {Fate.UNREAD}
            assert [unread.host for unread in inventory.unread()] == ["hung"]
        finally:
            inventory.close()

    asyncio.run(run())


def test_vm_of_a_host_that_went_away_is_unknown_and_not_gone(tmp_path: Path, node: str) -> None:
    async def run() -> None:
        inventory = Inventory()
        inventory.add(a_host("h1", node))
        try:
            await until(lambda: bool(inventory.vms()))
            hypervisor: Hypervisor = inventory.hypervisor("h1")
            (tmp_path / "node.xml").unlink()
            hypervisor._lost.set()  # what libvirt's close callback does
            await until(lambda: inventory.find("web").state is VmState.UNKNOWN)
            assert "node.xml" in inventory.unread()[0].reason
            (tmp_path / "node.xml").write_text(NODE)
            await until(lambda: inventory.find("web").state is VmState.RUNNING)
        finally:
            inventory.close()

    asyncio.run(run())


def test_call_that_was_given_up_before_it_began_never_runs() -> None:
    ran: list[str] = []

    async def run() -> None:
        workers = Workers("t", threads=1)
        slow = asyncio.ensure_future(workers.run(lambda: time.sleep(0.4), deadline_s=2))
        await asyncio.sleep(0.05)
        with pytest.raises(TimeoutError):
            await workers.run(lambda: ran.append("late"), deadline_s=0.1)
        await slow
        await workers.run(lambda: ran.append("next"), deadline_s=2)
        workers.close()

    asyncio.run(run())
    assert ran == ["next"]


async def until(condition, *, within_s: float = 6.0) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "did not come about in time"
        await asyncio.sleep(0.02)

"""Switches kept on a host whose libvirt is libvirt's own test driver, and what the store keeps of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from vmctl.hypervisor import start_events
from vmctl.inventory import Inventory
from vmctl.model import Host, VmctlError
from vmctl.store import Store
from vmctl.switches.keeper import Keeper
from vmctl.switches.model import Drift, HostState, PortGroup, Rate, Switch, SwitchHost, Uplink
from vmctl.switches.network_xml import network_xml
from vmctl.switches.store import DRIFTS_KEPT, SwitchStore

OFFICE = Switch(
    uuid=UUID(int=0x0FF1CE),
    name="office",
    uplink=Uplink.BRIDGE,
    hosts=(SwitchHost(host="h1", device="br-lan"),),
    groups=(PortGroup(name="lan", vlan=20, mtu=1400, inbound=Rate(average_kib_s=9, burst_kib=1)), PortGroup(name="x")),
)
NODE = """<node>
  <network><name>default</name><uuid>{default}</uuid><bridge name='virbr0'/>
    <ip address='192.168.9.1' netmask='255.255.255.0'/></network>
  <network><name>blue</name><uuid>{blue}</uuid>
    <metadata><o:network xmlns:o='urn:opaque-networks:1' owner='hostagent'/></metadata>
    <forward mode='bridge'/><bridge name='osw-0123456789'/></network>{more}
</node>"""
DEFAULT, BLUE = UUID(int=0xD), UUID(int=0xB1)


@pytest.fixture(scope="module", autouse=True)
def _events() -> None:
    start_events()


@pytest.fixture
def store(tmp_path: Path) -> SwitchStore:
    return SwitchStore(Store(f"sqlite:///{tmp_path}/vmctl.db"))


class Kept:
    """A keeper with the host h1."""

    def __init__(self, keeper: Keeper, inventory: Inventory, told: list[Drift]) -> None:
        self.keeper, self.inventory, self.told = keeper, inventory, told

    async def locally(self, change: Callable[..., object]) -> None:
        """What somebody does on the host by himself."""
        await self.inventory.hypervisor("h1").call("be changed locally", change)

    async def networks(self) -> dict[str, str]:
        seen = await self.keeper.read("h1")
        return {network.name: network.kept_xml or network.live_xml for network in seen.networks}

    def state(self) -> HostState | None:
        found = self.keeper.states("h1").get(OFFICE.uuid)
        return found.state if found else None


@asynccontextmanager
async def kept(store: SwitchStore, tmp_path: Path, *, more: str = "") -> AsyncIterator[Kept]:
    (tmp_path / "node.xml").write_text(NODE.format(default=DEFAULT, blue=BLUE, more=more))
    uri = f"test://{tmp_path}/node.xml"
    told: list[Drift] = []
    inventory = Inventory()
    keeper = Keeper(store=store, inventory=inventory, tell=lambda drift, _name: told.append(drift))
    inventory.on_networks = keeper.mark
    await keeper.start()
    inventory.add(Host(name="h1", libvirt_uri=uri, peer_uri=uri, migration_address="127.0.0.1"))
    try:
        yield Kept(keeper, inventory, told)
    finally:
        await keeper.close()
        inventory.close()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "did not come about in time"
        await asyncio.sleep(0.01)


def test_switch_comes_to_the_host_and_goes_and_others_stay(store: SwitchStore, tmp_path: Path) -> None:
    async def test() -> None:
        async with kept(store, tmp_path) as host:
            before = await host.networks()
            await host.keeper.put(OFFICE)
            await host.keeper.sync("h1")
            assert host.state() is HostState.REALIZED
            assert set(await host.networks()) == {"default", "blue", "office"}
            await host.keeper.put(replace(OFFICE, generation=2))
            await host.keeper.sync("h1")
            assert host.state() is HostState.REALIZED
            await host.keeper.forget(OFFICE)
            await host.keeper.sync("h1")
            assert await host.networks() == before
            assert host.told == []  # all that was our own doing

    run(test)


def test_local_change_is_put_back_by_itself_and_told_once(store: SwitchStore, tmp_path: Path) -> None:
    async def test() -> None:
        async with kept(store, tmp_path) as host:
            await host.keeper.put(OFFICE)
            await host.keeper.sync("h1")

            def remove(connection):  # type: ignore[no-untyped-def]
                network = connection.networkLookupByName("office")
                network.destroy()
                network.undefine()

            await host.locally(remove)
            await until(lambda: bool(host.told))
            await host.keeper.sync("h1")
            assert "office" in await host.networks()
            assert [drift.sentence for drift in host.told][-1].endswith("vmctl puts it back")
            count = len(host.told)  # one, or two where vmctl looked between the two steps
            await host.keeper.sync("h1")
            assert len(host.told) == count <= 2
            assert store.drifts(OFFICE.uuid)[0] == host.told[-1]

    run(test)


def test_change_that_libvirt_does_not_tell_of_is_seen_at_the_next_glance(
    store: SwitchStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmctl.switches.keeper.GLANCE_S", 0.1)

    async def test() -> None:
        async with kept(store, tmp_path) as host:
            await host.keeper.put(OFFICE)
            await host.keeper.sync("h1")
            host.keeper.mark("h1")
            await asyncio.sleep(0.3)  # what rang is over
            await host.locally(lambda connection: connection.networkLookupByName("office").setAutostart(0))
            await until(lambda: bool(host.told))
            assert "it would not start with the host" in host.told[0].sentence

    run(test)


def test_change_made_while_vmctl_was_down_is_told_as_local_too(store: SwitchStore, tmp_path: Path) -> None:
    async def test() -> None:
        async with kept(store, tmp_path) as host:
            await host.keeper.put(OFFICE)
            await host.keeper.sync("h1")
        edited = network_xml(OFFICE, host="h1", manager=store.manager()).replace('id="20"', 'id="99"')
        async with kept(store, tmp_path, more=edited) as host:
            await until(lambda: bool(host.told))
            assert "portgroup lan, vlan, tag 99: not wanted" in host.told[0].sentence

    run(test)


@pytest.mark.parametrize("name", ["default", "blue"])
def test_network_of_others_in_the_way_is_a_conflict_and_stays(store: SwitchStore, tmp_path: Path, name: str) -> None:
    async def test() -> None:
        async with kept(store, tmp_path) as host:
            before = await host.networks()
            await host.keeper.put(replace(OFFICE, name=name))
            await host.keeper.sync("h1")
            assert host.state() is HostState.CONFLICT
            assert await host.networks() == before

    run(test)


def test_host_that_cannot_be_asked_is_unread_not_realized(store: SwitchStore, tmp_path: Path) -> None:
    async def test() -> None:
        async with kept(store, tmp_path) as host:
            await host.keeper.put(OFFICE)
            await host.keeper.sync("h1")

            async def call(_what: str, _function: object) -> None:
                raise VmctlError("h1 is silent", status=502)

            host.inventory.hypervisor("h1").call = call  # type: ignore[method-assign,assignment]
            await host.keeper.sync("h1")
            assert host.state() is HostState.UNREAD

    run(test)


# --- the store ----------------------------------------------------------------------------------------------------


def test_rows_survive_and_the_store_keeps_its_identity(store_url: str) -> None:
    first = SwitchStore(Store(store_url))
    first.put(OFFICE)
    first.set_realized("h1", {OFFICE.uuid: 1})
    first.set_realized("h1", {OFFICE.uuid: 2})
    second = SwitchStore(Store(store_url))
    assert second.switches() == (OFFICE,)
    assert second.realized() == {(OFFICE.uuid, "h1"): 2}
    assert second.manager() == first.manager()
    changed = replace(OFFICE, generation=3, groups=())
    second.put(changed)
    assert first.switches() == (changed,)


def test_name_is_taken_once_and_history_is_bounded_and_goes_with_the_switch(store_url: str) -> None:
    store = SwitchStore(Store(store_url))
    store.put(OFFICE)
    with pytest.raises(VmctlError, match="a switch office already"):
        store.put(replace(OFFICE, uuid=UUID(int=1)))
    drifts = [Drift(at="t", host="h1", switch=OFFICE.uuid, sentence=str(n)) for n in range(DRIFTS_KEPT + 5)]
    store.add_drifts(drifts)
    found = store.drifts(OFFICE.uuid)
    assert (len(found), found[0].sentence) == (DRIFTS_KEPT, str(DRIFTS_KEPT + 4))
    store.remove(OFFICE.uuid)
    assert (store.switches(), store.drifts(OFFICE.uuid)) == ((), ())

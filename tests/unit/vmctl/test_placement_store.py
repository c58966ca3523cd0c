"""What administrators want of placement survives the process, and bad wishes change nothing."""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import libvirt
import pytest

from vmctl.host_capacity import read_capacity_of
from vmctl.inventory import Inventory
from vmctl.model import VmctlError
from vmctl.placement.model import Needs, Policy, RuleKind, Settings
from vmctl.placement_store import Maintenance, PlacementStore, Rule
from vmctl.placer import Placer
from vmctl.store import Store
from vmctl.views import Views

VM1, VM2 = UUID(int=1), UUID(int=2)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'vmctl.db'}"


@pytest.fixture
def store(url: str) -> Iterator[PlacementStore]:
    opened = Store(url)
    yield PlacementStore(opened)
    opened.close()


def again(url: str) -> PlacementStore:
    return PlacementStore(Store(url))


def test_needs_and_rules_are_kept_and_read_as_one(store: PlacementStore, url: str) -> None:
    store.put_needs(VM1, disk_mib=100, bandwidth_mbps=5)
    store.add_rule(Rule(name="ha", kind=RuleKind.ANTI_AFFINITY, vms=(VM1, VM2)))
    store.add_rule(Rule(name="pair", kind=RuleKind.AFFINITY, vms=(VM1,)))
    assert again(url).needs() == {
        VM1: Needs(disk_mib=100, bandwidth_mbps=5, affinity=frozenset({"pair"}), anti_affinity=frozenset({"ha"})),
        VM2: Needs(anti_affinity=frozenset({"ha"})),
    }
    store.forget_vm(VM1)
    assert store.needs() == {VM2: Needs(anti_affinity=frozenset({"ha"}))}


def test_members_come_and_go(store: PlacementStore) -> None:
    store.add_rule(Rule(name="ha", kind=RuleKind.ANTI_AFFINITY))
    assert store.change_members("ha", add=(VM1, VM2, VM1)).vms == (VM1, VM2)
    assert store.change_members("ha", add=(VM1,), remove=(VM2,)).vms == (VM1,)
    store.remove_rule("ha")
    assert store.needs() == {}


def test_name_of_a_rule_is_taken_once_and_an_unknown_one_names_those_there_are(store: PlacementStore) -> None:
    store.add_rule(Rule(name="ha", kind=RuleKind.AFFINITY))
    with pytest.raises(VmctlError, match="there is a rule ha already"):
        store.add_rule(Rule(name="ha", kind=RuleKind.ANTI_AFFINITY, vms=(VM1,)))
    assert store.rule("ha") == Rule(name="ha", kind=RuleKind.AFFINITY)
    with pytest.raises(VmctlError, match="there is no rule nope; there is ha"):
        store.remove_rule("nope")


def test_maintenance_survives_a_restart(store: PlacementStore, url: str) -> None:
    state = Maintenance(host="h1", since="2024-01-01T00:00:00.000+00:00", evacuating=True)
    store.put_maintenance(state)
    assert again(url).maintenance() == (state,)
    store.end_maintenance("h1")
    store.end_maintenance("h1")
    assert again(url).maintenance() == ()


@pytest.fixture
def placer(store: PlacementStore, tmp_path: Path) -> Placer:
    views = Views(identity=tmp_path)
    return Placer(store=store, inventory=Inventory(), views=views, isolated=frozenset)


async def changed(placer: Placer, **values: object) -> Settings:
    return await placer.change_settings(values)


def run(coroutine):  # type: ignore[no-untyped-def]
    import asyncio

    return asyncio.run(coroutine)


def test_settings_are_kept_and_hold_at_once(placer: Placer, url: str) -> None:
    found = run(changed(placer, cpu_ratio=2, policy="consolidate", balance_auto=True, parallel_moves=3))
    assert (found.cpu_ratio, found.policy, found.balance_auto, found.parallel_moves) == (
        2.0,
        Policy.CONSOLIDATE,
        True,
        3,
    )
    assert placer.settings == found == again(url).settings()
    assert found.memory_ratio == Settings().memory_ratio


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"cpu_ration": 2}, "there is no setting cpu_ration; there are cpu_ratio, "),
        ({"cpu_ratio": 0}, "0 would leave nothing"),
        ({"cpu_ratio": "many"}, "a number from 0"),
        ({"memory_ratio": -1}, "a number from 0"),
        ({"parallel_moves": 1.5}, "a whole number is wanted"),
        ({"parallel_moves": True}, "a number from 0"),
        ({"balance_auto": 1}, "true or false is wanted"),
        ({"policy": "pile"}, "choose spread or consolidate"),
        ({"memory_ratio": 1e12}, "a number from 0"),
    ],
)
def test_setting_that_makes_no_sense_is_refused_whole(
    placer: Placer, url: str, values: dict[str, object], said: str
) -> None:
    with pytest.raises(VmctlError, match=said):
        run(changed(placer, disk_ratio=3.0, **values))
    assert placer.settings == Settings() == again(url).settings()


NODE = """<node>
  <cpu><mhz>1400</mhz><active>6</active><nodes>1</nodes><sockets>1</sockets><cores>6</cores><threads>1</threads></cpu>
  <memory>8192000</memory>{pool}
</node>"""
POOL = "<pool type='dir'><name>default</name><target><path>/images</path></target></pool>"


@pytest.mark.parametrize(("pool", "disk_mib"), [("", None), (POOL, 100 * 1024)])
def test_capacity_is_what_libvirt_tells_and_disk_unknown_without_the_pool(
    tmp_path: Path, pool: str, disk_mib: int | None
) -> None:
    (tmp_path / "node.xml").write_text(NODE.format(pool=pool))
    connection = libvirt.open(f"test://{tmp_path}/node.xml")
    found = read_capacity_of(connection)
    connection.close()
    assert (found.cpus, found.memory_mib, found.disk_mib) == (6, 8000, disk_mib)

"""Declarative documents: read strictly, applied whole or not at all, twice the same as once."""

from __future__ import annotations

import time
from pathlib import Path
from uuid import uuid4

import pytest
import yaml

from netmgr.model import HostRecord, NetmgrError
from netmgr.service.apply import Applied, apply
from netmgr.service.document import load_document
from netmgr.store import Store

EXAMPLE = Path(__file__).parents[3] / "examples" / "two-zones.yaml"


def run(store: Store, text: str | bytes, *, prune: bool = False, dry_run: bool = False) -> Applied:
    raw = text.encode() if isinstance(text, str) else text
    return apply(store, load_document(raw), acked={}, prune=prune, dry_run=dry_run)


def verbs(applied: Applied) -> list[str]:
    return [f"{action.verb} {action.kind} {action.name}" for action in applied.actions]


def enrol(store: Store, *names: str) -> None:
    with store.transaction() as tx:
        for name in names:
            tx.put(HostRecord(uuid=uuid4(), name=name, pnics=("pnic0",)))


def test_example_builds_two_zones_in_one_revision_and_twice_is_once(store: Store) -> None:
    enrol(store, "h1", "h2", "h3")
    applied = run(store, EXAMPLE.read_bytes())
    assert applied.revision == 2
    assert verbs(applied) == [
        "create zone a",
        "create zone b",
        "create switch sw-a",
        "create switch sw-b",
        "set host h1",
        "set host h2",
        "set host h3",
        "create network blue",
        "create network green",
    ]
    with store.read() as world:
        vteps = {h.name: [v.address for v in h.vteps] for h in world.hosts.values()}
        assert vteps == {"h1": ["10.200.0.1/24"], "h2": ["10.200.0.2/24"], "h3": ["10.201.0.1/24"]}
        assert {n.name: (n.mtu, n.subnets) for n in world.networks.values()} == {
            "blue": (1450, ("10.10.0.0/24",)),
            "green": (1450, ("10.20.0.0/24",)),
        }
    again = run(store, EXAMPLE.read_bytes())
    assert (again.revision, again.actions, again.changes) == (2, (), ())
    assert run(store, EXAMPLE.read_bytes(), prune=True).actions == ()


def test_example_without_its_hosts_changes_nothing(store: Store) -> None:
    enrol(store, "h1", "h2")
    with pytest.raises(NetmgrError, match=r"host 'h3' is not enrolled.*netmgr host token --name h3"):
        run(store, EXAMPLE.read_bytes())
    with store.read() as world:
        assert world.revision == 1
        assert not world.zones
        assert not any(host.vteps for host in world.hosts.values())


def test_dry_run_says_what_would_be_done_and_does_nothing(store: Store) -> None:
    enrol(store, "h1", "h2", "h3")
    planned = run(store, EXAMPLE.read_bytes(), dry_run=True)
    with store.read() as world:
        assert world.revision == planned.revision == 1
        assert not world.zones
    assert verbs(planned) == verbs(run(store, EXAMPLE.read_bytes()))


BASE = """
zones: [{name: a}, {name: b}]
switches:
  - {name: s, zones: [a], vtep_pool: 10.0.0.0/24, mtu: 1700}
networks:
  - {name: n, zone: a, subnets: [10.1.0.0/24]}
  - {name: m, zone: a}
ports:
  - {name: p, network: n, ips: [10.1.0.5]}
"""


def test_what_differs_is_set_and_what_is_left_out_stays(store: Store) -> None:
    run(store, BASE)
    applied = run(store, "networks: [{name: n, zone: a, mtu: 1400}]")
    assert verbs(applied) == ["set network n"]
    assert applied.actions[0].fields == {"mtu": 1400}
    with store.read() as world:
        (network,) = (n for n in world.networks.values() if n.name == "n")
        assert (network.mtu, network.subnets, network.segment_id) == (1400, ("10.1.0.0/24",), 5000)
        assert len(world.networks) == 2


def test_prune_deletes_what_is_not_named_of_the_kinds_that_are_there(store: Store) -> None:
    run(store, BASE)
    enrol(store, "h1")
    applied = run(store, "networks: [{name: n, zone: a}]\nzones: [{name: a}]", prune=True)
    assert verbs(applied) == ["delete network m", "delete zone b"]
    assert run(store, "networks: [{name: n, zone: a}]", prune=True).actions == ()
    everything = run(store, "{zones: [], switches: [], networks: [], ports: [], hosts: []}", prune=True)
    assert verbs(everything) == ["delete port p", "delete network n", "delete switch s", "delete zone a"]
    with store.read() as world:
        assert len(world.hosts) == 1


def test_zone_moves_from_one_switch_to_another_in_one_document(store: Store) -> None:
    run(store, "zones: [{name: a}, {name: b}]\nswitches: [{name: s, zones: [a, b], vtep_pool: 10.0.0.0/24}]")
    moved = """
switches:
  - {name: t, zones: [b], vtep_pool: 10.1.0.0/24}
  - {name: s, zones: [a], vtep_pool: 10.0.0.0/24}
"""
    assert verbs(run(store, moved)) == ["set switch s", "create switch t"]


def test_switch_can_be_replaced_with_prune(store: Store) -> None:
    run(store, "zones: [{name: a}]\nswitches: [{name: s, zones: [a], vtep_pool: 10.0.0.0/24}]")
    replaced = run(store, "switches: [{name: t, zones: [a], vtep_pool: 10.0.0.0/24}]", prune=True)
    assert verbs(replaced) == ["delete switch s", "create switch t"]


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (BASE + "  - {name: q, network: nowhere}", "there is no network 'nowhere'"),
        (BASE + "  - {name: q, network: n, ips: [10.2.0.1]}", "none of the network's subnets"),
        (BASE + "  - {name: q, network: n, ips: [10.1.0.5]}", "is that of port p"),
        (BASE.replace("zone: a}", "zone: b}"), "zone b is carried by no switch"),
        (BASE + "hosts: [{name: h1, zones: [a]}]", "not enrolled"),
        (BASE.replace("10.1.0.0/24", "10.1.0.1/24"), "write 10.1.0.0/24"),
    ],
)
def test_one_wrong_entry_refuses_the_whole_document(store: Store, broken: str, sentence: str) -> None:
    with pytest.raises(NetmgrError, match=sentence):
        run(store, broken)
    with store.read() as world:
        assert world.revision == 0
        assert (len(world.zones), len(world.unique), len(world.versions)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "wanted a mapping"),
        ("[]", "wanted a mapping"),
        ("just text", "wanted a mapping"),
        ("zones: {name: a}", r"file\.zones: wanted a valid list"),
        ("zone: []", r"file\.zone: unknown field; did you mean zones\?"),
        ("zones: [{name: a, kynd: overlay}]", r"zones\[0\]\.kynd: unknown field; did you mean kind\?"),
        ("zones: [{nam: a}]", r"did you mean name\?"),
        ("zones: [{name: 5}]", r"zones\[0\]\.name: wanted a valid string, got int 5"),
        ("zones: [{name: a}, {name: a}]", r"zones\[1\]\.name: 'a' is there twice"),
        ("zones: []\nzones: []", "line 2, column 1: key 'zones' is there twice"),
        ("zones: [{name: a, name: b}]", "key 'name' is there twice"),
        ("networks: [{name: n, zone: a, mtu: 1e3}]", r"networks\[0\]\.mtu: wanted a valid integer"),
        ("networks: [{name: n, zone: a, mtu: true}]", "wanted a valid integer, got bool True"),
        ("networks: [{name: n, zone: a, type: vlam}]", "wanted 'vxlan', 'geneve', 'nvgre' or 'vlan'"),
        ("ports: [{name: p, network: n, vif_uuid: x}]", r"ports\[0\]\.vif_uuid: 'x' is no UUID"),
        ("zones: [&x {name: a}]", "anchors are not taken"),
        ("zones: [*x]", "aliases and anchors"),
        ("&a zones: []", "anchors are not taken"),
        ("zones: !!python/object/apply:os.system [true]", "not YAML"),
        ("zones: [}", "line 1, column 9: not YAML"),
        ("1: x", "key 1 is no text"),
        ("? [a]\n: x", "is no text"),
        ("zones: " + "[" * 50 + "]" * 50, "nested deeper than 20"),
        ("zones: \x00", "not YAML"),
        (b"\xff\xfe", "not UTF-8"),
        ("--- {}\n--- {}", "not YAML"),
    ],
)
def test_document_that_is_none_is_refused_with_a_sentence(text: str | bytes, sentence: str) -> None:
    with pytest.raises(NetmgrError, match=sentence):
        load_document(text.encode() if isinstance(text, str) else text)


def test_two_mebibytes_are_refused_before_they_are_read() -> None:
    raw = b"zones: [" + b"{name: a}," * 210_000 + b"]"
    started = time.thread_time()
    with pytest.raises(NetmgrError, match="at most 1048576 are taken") as caught:
        load_document(raw)
    assert caught.value.status == 413
    assert time.thread_time() - started < 0.1


def test_bomb_of_aliases_is_refused_at_once() -> None:
    bomb = "a: &a [x]\n" + "".join(f"b{i}: &b{i} [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n" for i in range(1000))
    started = time.thread_time()
    with pytest.raises(NetmgrError, match="line 1, column 4"):
        load_document(bomb.encode())
    assert time.thread_time() - started < 0.5


def test_largest_document_is_applied_in_seconds(store: Store) -> None:
    run(store, "zones: [{name: a}]\nswitches: [{name: s, zones: [a], vtep_pool: 10.0.0.0/24}]")
    text = yaml.safe_dump({"networks": [{"name": f"n{i}", "zone": "a", "mtu": 1450} for i in range(2000)]})
    started = time.process_time()  # a busy machine must not fail it
    assert len(run(store, text).actions) == 2000
    assert run(store, text).actions == ()
    assert time.process_time() - started < 15


def test_json_is_taken_too(store: Store) -> None:
    assert verbs(run(store, '{"zones": [{"name": "a", "kind": "overlay"}]}')) == ["create zone a"]


NESTED = """
zones: [{name: a}]
switches: [{name: s, zones: [a], pnic_globs: ["*"], mtu: 1650, vtep_pool: 10.200.0.0/24}]
networks: [{name: n, zone: a, subnets: [10.0.0.0/24]}]
ports:
  - name: p
    network: n
    mac: "02:00:00:00:00:01"
    allow: [nested]
    nested:
      - {mac: "02:00:00:00:00:B2", ips: [10.0.0.12]}
      - {mac: "02:00:00:00:00:b1"}
"""


def test_macs_behind_a_port_are_set_whole_and_twice_is_once(store: Store) -> None:
    assert verbs(run(store, NESTED))[-1] == "create port p"
    assert run(store, NESTED).actions == ()
    with store.read() as world:
        (port,) = world.ports.values()
        assert [(one.mac, one.ips) for one in port.nested] == [
            ("02:00:00:00:00:b1", ()),
            ("02:00:00:00:00:b2", ("10.0.0.12",)),
        ]
    fewer = run(store, NESTED.replace('      - {mac: "02:00:00:00:00:b1"}\n', ""))
    assert [action.fields for action in fewer.actions] == [
        {"nested": [{"mac": "02:00:00:00:00:b2", "ips": ["10.0.0.12"]}]}
    ]
    with pytest.raises(NetmgrError, match=r"nested.*macc"):
        run(store, NESTED.replace("- {mac:", "- {macc:", 1))

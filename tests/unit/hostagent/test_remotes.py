"""Ports elsewhere, ten thousand of them: what is kept of them changes no flow, and one more costs its own."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from hostagent import flows as flows_module
from hostagent.flow import Flow
from hostagent.flow_set import FlowSet
from hostagent.flows import compile_flows
from hostagent.indexed import Indexed, Overlaid
from hostagent.model import ChangeFlows, Desired, Observed, Phase
from hostagent.plan import plan
from hostagent.resolve import resolve
from netmgr.contract.types import (
    Allowance,
    Learned,
    LearnedAddress,
    LearnedMac,
    LearnedSource,
    Location,
    LogicalPort,
    NestedMac,
)
from tests.support.hostagent_worlds import bare, desired, location, named, network, obey, plug, port, settled, switch

SWITCH, NETWORK = switch(), network()


def remote(number: int) -> tuple[LogicalPort, Location]:
    """A port with a MAC and an address of its own, on one of 50 hosts that are not this one."""
    mac = f"52:54:00:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"
    made = replace(
        port(f"far {number}", 1), mac=mac, ips=(f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}",)
    )
    return made, location(made, f"h{2 + number % 50}")


def surrounded(number: int) -> Desired:
    mine = port("mine", 1, ips=("10.200.0.1",))
    far = [remote(index) for index in range(1, number + 1)]
    return desired(
        switches=[SWITCH],
        networks=[NETWORK],
        ports=[mine, *(one for one, _ in far)],
        locations=[location(mine, "h1"), *(where for _, where in far)],
    )


def with_more(wanted: Desired, *far: tuple[LogicalPort, Location]) -> Desired:
    return replace(
        wanted,
        ports={**wanted.ports, **{one.uuid: one for one, _ in far}},
        locations={**wanted.locations, **{one.uuid: where for one, where in far}},
    )


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Flow]:
    """The flows that are made from here on."""
    found: list[Flow] = []
    finish = Flow.__post_init__

    def counted(flow: Flow) -> None:
        finish(flow)
        found.append(flow)

    monkeypatch.setattr(Flow, "__post_init__", counted)
    return found


def test_one_more_remote_port_among_ten_thousand_costs_its_own_flows(made: list[Flow]) -> None:
    wanted = surrounded(10_000)
    rest = settled(wanted, bare())
    assert plan(desired=wanted, observed=rest) == ()
    more = with_more(wanted, remote(20_000))
    made.clear()
    (step,) = plan(desired=more, observed=rest)
    assert isinstance(step, ChangeFlows)
    assert (len(step.add), len(step.delete)) == (2, 0)
    assert len(made) == 2, "its place and its address; the others' were kept"
    after = obey(rest, [step])
    made.clear()
    assert plan(desired=more, observed=after) == ()
    assert made == []


def test_one_that_moves_among_ten_thousand_costs_its_own_flows(made: list[Flow]) -> None:
    wanted = surrounded(10_000)
    rest = settled(wanted, bare())
    plan(desired=wanted, observed=rest)
    moved, _ = remote(7)
    there = with_more(wanted, (moved, location(moved, "h40", version=2)))
    made.clear()
    (step,) = plan(desired=there, observed=rest)
    assert isinstance(step, ChangeFlows)
    assert (len(step.add), len(step.delete)) == (1, 0), "its place, in the same flow's stead"
    assert len(made) <= 2


def test_what_the_switch_has_at_the_start_is_not_kept_twice() -> None:
    wanted = surrounded(50)
    rest = settled(wanted, bare())
    (bridge,) = [name for name, flows in rest.flows.items() if flows]
    dumped = frozenset(replace(flow) for flow in rest.flows[bridge])  # type: ignore[union-attr]
    flows_module._memory.clear()  # the agent starts
    again = replace(rest, flows={bridge: dumped})
    assert plan(desired=wanted, observed=again) == ()
    own = {id(flow) for flow in dumped}
    (memory,) = flows_module._memory.values()
    kept = [flow for one in memory.networks.values() for flow in one.remotes.flows()]
    assert len(kept) == 100
    assert all(id(flow) in own for flow in kept)


# --- kept or compiled anew, the flows are the same -------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
def test_flows_are_those_that_all_ports_together_would_have(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A life of changes; each state is compiled with what is kept, and beside it as if no port were remote."""
    chance = random.Random(seed)
    wanted = surrounded(chance.randrange(2, 12))
    observed = settled(wanted, bare())
    if chance.random() < 0.7:
        observed = plug(observed, next(iter(observed.flows)), "tap0", named("vif mine"), 7)
    for _ in range(12):
        wanted = changed(chance, wanted)
        kept = compiled(wanted, observed)
        with monkeypatch.context() as alone:
            alone.setattr(flows_module, "is_remote", lambda *_: False)
            assert compiled(wanted, observed, remember=False) == kept
        assert len({flow.key() for flow in kept}) == len(kept)


@pytest.mark.parametrize("seed", range(60))
def test_what_is_followed_is_what_a_look_at_all_finds(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same life, told to tables that know their changes, of which several may come between two looks."""
    chance = random.Random(seed)
    wanted = surrounded(chance.randrange(2, 12))
    live = replace(wanted, ports=Indexed(), locations=Indexed(), learned=Indexed())
    observed = settled(wanted, bare())
    (bridge,) = observed.flows
    if chance.random() < 0.7:
        observed = plug(observed, bridge, "tap0", named("vif mine"), 7)
    held = FlowSet(observed.flows[bridge])  # type: ignore[arg-type]
    for _ in range(20):
        if not wanted.ports or chance.random() < 0.2:
            wanted = with_more(wanted, remote(chance.randrange(1, 30)))
        elif chance.random() < 0.15 and len(wanted.locations) > 2:
            gone = chance.choice(sorted(wanted.locations, key=str))
            ports = {uuid: row for uuid, row in wanted.ports.items() if uuid != gone}
            where = {uuid: row for uuid, row in wanted.locations.items() if uuid != gone}
            wanted = replace(wanted, ports=ports, locations=where)
        else:
            wanted = changed(chance, wanted)
        tell(live, wanted)
        if chance.random() < 0.4:
            continue
        networks = {} if chance.random() < 0.1 else wanted.networks
        parked = {uuid: replace(row, parked=True) for uuid, row in wanted.locations.items() if chance.random() < 0.1}
        over = parked if chance.random() < 0.3 else {}
        now = replace(wanted, networks=networks, locations={**wanted.locations, **over})
        live = replace(live, networks=networks, phases=wanted.phases, relay_vteps=wanted.relay_vteps)
        kept = compiled(replace(live, locations=Overlaid(live.locations, over) if over else live.locations), observed)
        with monkeypatch.context() as alone:
            alone.setattr(flows_module, "is_remote", lambda *_: False)
            assert compiled(now, observed, remember=False) == kept
        steps = plan(desired=now, observed=replace(observed, flows={bridge: held}))
        for step in steps:
            if isinstance(step, ChangeFlows):
                held = held.changed(delete=step.delete, add=step.add)
        assert held == kept


def tell(live: Desired, wanted: Desired) -> None:
    """Change the tables of *live* where *wanted* has other rows."""
    for table, rows in (
        (live.ports, wanted.ports),
        (live.locations, wanted.locations),
        (live.learned, wanted.learned),
    ):
        assert isinstance(table, Indexed)
        for uuid in table.keys() - rows.keys():
            del table[uuid]
        for uuid, row in rows.items():
            if table.get(uuid) is not row:
                table[uuid] = row


def test_one_more_among_ten_thousand_is_all_that_is_looked_at(made: list[Flow]) -> None:
    wanted = surrounded(10_000)
    live = replace(wanted, ports=Indexed(), locations=Indexed(), learned=Indexed())
    tell(live, wanted)
    rest = settled(live, bare())
    (bridge,) = rest.flows
    rest = replace(rest, flows={bridge: FlowSet(rest.flows[bridge])})  # type: ignore[arg-type]
    assert plan(desired=live, observed=rest) == ()
    looks = [0]

    class Watched(type(live.locations)):  # type: ignore[misc]
        def get(self, *args: object) -> object:
            looks[0] += 1
            return super().get(*args)

    live.locations.__class__ = Watched
    more, where = remote(20_000)
    live.ports[more.uuid] = more  # type: ignore[index]
    live.locations[more.uuid] = where  # type: ignore[index]
    made.clear()
    (step,) = plan(desired=live, observed=rest)
    assert isinstance(step, ChangeFlows)
    assert (len(step.add), len(step.delete), len(made)) == (2, 0, 2)
    assert 0 < looks[0] < 10


def compiled(wanted: Desired, observed: Observed, *, remember: bool = True) -> FlowSet:
    assert isinstance(observed.bridges, tuple)
    (intent,) = resolve(wanted, observed).switches.values()
    bridge = next(one for one in observed.bridges if one.name == intent.bridge)
    return compile_flows(desired=wanted, intent=intent, bridge=bridge, remember=remember)


def changed(chance: random.Random, wanted: Desired) -> Desired:
    """Something happens to a port: it comes, goes, moves, parks, gets another's MAC or address, or others behind it."""
    uuid = chance.choice(sorted(wanted.locations, key=str))
    known, where = wanted.ports.get(uuid), wanted.locations[uuid]
    other = chance.choice(sorted(wanted.ports.values(), key=lambda one: one.name))
    what = chance.randrange(14)
    if what == 0:
        return with_more(wanted, remote(chance.randrange(100, 120)))
    if what == 1:
        host = chance.choice(["h1", "h2", "h9", None])
        moved = replace(
            where, holder_host=named(host) if host else None, holder_vtep=f"10.0.0.{host[1:]}" if host else ""
        )
        return replace(wanted, locations={**wanted.locations, uuid: moved})
    if what == 2:
        return replace(wanted, locations={**wanted.locations, uuid: replace(where, parked=not where.parked)})
    if what == 3:
        coming = replace(where, incoming_host=named("h3"), incoming_vtep="10.0.0.3")
        return replace(wanted, locations={**wanted.locations, uuid: coming})
    if what == 4:
        without = {key: one for key, one in wanted.ports.items() if key != uuid}
        return replace(wanted, ports=without)
    if what == 5:
        phases = {} if uuid in wanted.phases else {uuid: Phase.RELAYING}
        return replace(wanted, phases=phases, relay_vteps=dict.fromkeys(phases, "10.0.0.8"))
    if known is None:
        return wanted
    nested = NestedMac(mac="52:54:00:ff:00:01", ips=("10.99.0.1",))
    addresses = (LearnedAddress(address="10.77.0.1", source=LearnedSource.ARP, since=""),)
    learned = Learned(
        port_uuid=uuid,
        network_uuid=NETWORK.uuid,
        addresses=addresses,
        macs=(LearnedMac(mac="52:54:00:ff:00:02", since=""),),
    )
    if what == 6:
        return replace(wanted, learned={} if uuid in wanted.learned else {uuid: learned})
    edits = {
        7: replace(known, mac=other.mac),
        8: replace(known, ips=other.ips),
        9: replace(known, ips=chance.choice([(), ("fd00::5", "10.5.0.0/24"), ("10.5.0.9/24",)])),
        10: replace(known, nested=() if known.nested else (nested,)),
        11: replace(known, allow=() if known.allow else (Allowance.NESTED,)),
        12: replace(known, admin_up=not known.admin_up),
        13: replace(known, ips=("fd00::6", "10.5.0.8"), allow=(Allowance.ROUTER,)),
    }
    return replace(wanted, ports={**wanted.ports, uuid: edits[what]})

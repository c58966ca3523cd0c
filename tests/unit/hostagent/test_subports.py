"""Sub-ports on a host: the patches that stand for their taps; what they do with their parent when their guest moves."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from hostagent.explain import explain
from hostagent.flow import Match, Output, PopVlan
from hostagent.guests import Guests
from hostagent.model import Desired, Interface, Observed, OvsPort, Phase, RemovePort
from hostagent.motion import Motion
from hostagent.names import subport_end, switch_bridge, tagged_end
from hostagent.pipeline.tables import Table
from hostagent.plan import plan
from hostagent.presence import due_claims, due_releases, seen_vifs
from hostagent.realize.domains import DomainEvent, DomainEventKind
from hostagent.resolve import resolve
from hostagent.state import State
from hostagent.vif_report import vif_statuses
from netmgr.contract.types import Kind, Location, LogicalPort, Object, Ref, ReleaseReason, SecurityGroup, VifState
from tests.support.hostagent_worlds import bare, desired, location, named, network, obey, plug, port, settled, switch

OUTER = port("outer", 1)
NEAR, FAR = switch_bridge(named("s1")), switch_bridge(named("s2"))


def subport(name: str, tag: int, *, on: str = "n1", parent: LogicalPort = OUTER) -> LogicalPort:
    return replace(port(name, tag, on=on), vif_uuid=named(name), parent_port=parent.uuid, tag=tag)


G, R = subport("g", 10, on="n2"), subport("r", 20)


def world(*ports: LogicalPort, holder: str = "h1", incoming: str | None = None, on: str = "s2") -> Desired:
    """outer on n1 of s1 with *ports*, by default g on n2 of another switch and r beside it; all where outer is."""
    found = [OUTER, *(ports or (G, R))]
    return desired(
        switches=[switch(), switch("s2", pnics=("eth2",))],
        networks=[network(), network("n2", on=on, segment=5002)],
        ports=found,
        locations=[location(one, holder, incoming=incoming) for one in found],
        pnics=("eth1", "eth2"),
        vteps={"s1": "10.0.0.1/24", "s2": "10.0.0.1/24"},
    )


def host(wanted: Desired) -> Observed:
    """h1 with *wanted* realized and outer's tap plugged."""
    made = settled(replace(wanted, ports={}, locations={}), bare("eth1", "eth2"))
    return settled(wanted, plug(made, NEAR, "vnet0", OUTER.vif_uuid or UUID(int=0), 50))


def ends(observed: Observed) -> dict[str, tuple[str, str]]:
    """Of each end of a sub-port's patch: its bridge and its peer."""
    rows = [(bridge.name, port.interfaces[0]) for bridge in observed.bridges for port in bridge.ports]  # type: ignore[union-attr]
    return {one.name: (name, one.options["peer"]) for name, one in rows if one.name.startswith(("sub-", "tag-"))}


def states(wanted: Desired, observed: Observed) -> dict[str, tuple[VifState, str]]:
    names = {one.vif_uuid: one.name for one in wanted.ports.values()}
    found = vif_statuses(desired=wanted, observed=observed, resolved=resolve(wanted, observed))
    return {names[one.vif_uuid]: (one.state, one.reason) for one in found}


# --- patches --------------------------------------------------------------------------------------------------------


def test_a_pair_of_ports_leads_from_the_bridge_of_the_parent_to_that_of_the_sub_port() -> None:
    found = ends(host(world()))
    assert found == {
        tagged_end(G.uuid): (NEAR, subport_end(G.uuid)),
        subport_end(G.uuid): (FAR, tagged_end(G.uuid)),
        tagged_end(R.uuid): (NEAR, subport_end(R.uuid)),
        subport_end(R.uuid): (NEAR, tagged_end(R.uuid)),
    }
    assert {name: state for name, (state, _) in states(world(), host(world())).items()} == dict.fromkeys(
        ("outer", "g", "r"), VifState.LIT
    )


@pytest.mark.parametrize(
    "wanted",
    [world(holder="h2"), replace(world(), ports={OUTER.uuid: OUTER}), world(replace(G, parent_port=named("nobody")))],
    ids=["parent elsewhere", "no sub-port", "parent unknown"],
)
def test_they_are_taken_away_with_what_needs_them(wanted: Desired) -> None:
    before = host(world())
    assert ends(settled(wanted, before)) == {}


def test_they_are_there_for_a_parent_that_is_coming_and_as_long_as_its_tap_is() -> None:
    assert len(ends(host(world(holder="h2", incoming="h1")))) == 4
    observed = host(world())
    gone = tuple(
        replace(one, ports=tuple(p for p in one.ports if p.name != "vnet0"))
        for one in observed.bridges  # type: ignore[union-attr]
    )
    steps = plan(desired=world(), observed=replace(observed, bridges=gone))
    assert {step.name for step in steps if isinstance(step, RemovePort)} == set(ends(observed))
    unnumbered = tuple(
        replace(one, ports=tuple(_without_number(p) if p.name == "vnet0" else p for p in one.ports))
        for one in observed.bridges  # type: ignore[union-attr]
    )
    steps = plan(desired=world(), observed=replace(observed, bridges=unnumbered))
    assert not [step for step in steps if isinstance(step, RemovePort)], "a vswitchd that restarts is no end of a VIF"


def _without_number(one: OvsPort) -> OvsPort:
    return replace(one, interfaces=tuple(replace(each, ofport=None) for each in one.interfaces))


def test_an_end_that_somebody_has_bent_is_put_back() -> None:
    observed = host(world())
    bent = Interface(name=tagged_end(G.uuid), type="patch", options={"peer": "elsewhere"}, external_ids={}, ofport=60)
    bridges = tuple(
        replace(one, ports=tuple(replace(p, interfaces=(bent,)) if p.name == bent.name else p for p in one.ports))
        for one in observed.bridges  # type: ignore[union-attr]
    )
    assert ends(settled(world(), replace(observed, bridges=bridges))) == ends(observed)


def test_a_tag_costs_two_flows_and_is_no_business_of_others() -> None:
    plain = host(replace(world(), ports={OUTER.uuid: OUTER}, locations={OUTER.uuid: world().locations[OUTER.uuid]}))
    with_r = settled(world(R), plain)
    first, second = plain.flows[NEAR], with_r.flows[NEAR]
    assert isinstance(first, frozenset)
    assert isinstance(second, frozenset)
    new = [flow for flow in second - first if flow.table == Table.CLASSIFY and flow.priority == 110]
    assert len(new) == 2
    (out,) = [flow for flow in new if PopVlan() in flow.actions]
    assert Match("vlan_tci", 0x1000 | 20) in out.match, "the VLAN, whatever the priority"
    assert Match("in_port", 50) in out.match
    assert isinstance(out.actions[-1], Output)
    assert {flow for flow in first if flow.table == Table.GUARD} <= second


# --- dark and lit ---------------------------------------------------------------------------------------------------


def test_a_sub_port_is_dark_with_its_parent_and_says_why() -> None:
    wanted = world()
    down = replace(wanted, ports={**wanted.ports, OUTER.uuid: replace(OUTER, admin_up=False)})
    told = states(down, settled(down, host(wanted)))
    assert told["g"] == (VifState.DARK, "port g is a sub-port of port outer, which is set down by its operator")
    barred = replace(wanted, ports={**wanted.ports, OUTER.uuid: replace(OUTER, security_groups=(named("web"),))})
    told = states(barred, settled(barred, host(wanted)))
    assert "port g is a sub-port of a port that is dark" in told["g"][1]
    known = replace(barred, groups={named("web"): SecurityGroup(uuid=named("web"), name="web", stateful=False)})
    assert states(known, settled(known, host(wanted)))["g"][0] is VifState.LIT


def test_a_sub_port_that_is_set_down_leaves_its_parent_lit() -> None:
    wanted = world()
    down = replace(wanted, ports={**wanted.ports, G.uuid: replace(G, admin_up=False)})
    told = states(down, settled(down, host(wanted)))
    assert (told["g"][0], told["r"][0], told["outer"][0]) == (VifState.DARK, VifState.LIT, VifState.LIT)


def test_a_tap_that_somebody_plugs_with_a_sub_ports_uuid_is_dark() -> None:
    wanted = world()
    made = settled(replace(wanted, ports={}, locations={}), bare("eth1", "eth2"))
    alone = settled(wanted, plug(made, FAR, "vnet9", G.uuid, 70))
    assert states(wanted, alone)["g"] == (
        VifState.DARK,
        f"VIF {G.uuid} is that of port g, a sub-port, which has no tap of its own; give vnet9 another",
    )
    beside = settled(wanted, plug(host(wanted), FAR, "vnet9", G.uuid, 99))
    flows = beside.flows[FAR]
    assert isinstance(flows, frozenset)
    assert not [flow for flow in flows if Match("in_port", 99) in flow.match]


def test_nobody_is_asked_or_told_about_a_sub_port() -> None:
    wanted = world(holder="h2")
    observed = host(world())
    vifs = seen_vifs(observed.bridges, observed.flows)  # type: ignore[arg-type]
    ports = {one.vif_uuid: one.uuid for one in wanted.ports.values() if one.vif_uuid is not None}
    due = due_claims(locations=wanted.locations, vifs=vifs, host=named("h1"), ports=ports)
    assert [vif.vif_uuid for vif in due] == [OUTER.vif_uuid]
    absent = dict.fromkeys(ports, 0.0)
    left = due_releases(desired=world(), host=named("h1"), absent_since=absent, granted_until={}, now=99)
    assert [where.port_uuid for where, _ in left] == [OUTER.uuid]


# --- motion ---------------------------------------------------------------------------------------------------------


class Told:
    def __init__(self) -> None:
        self.words: list[tuple[str, UUID]] = []
        self.changes: list[frozenset[UUID]] = []

    def activated(self, where: Location) -> None:
        self.words.append(("activated", where.port_uuid))

    def release(self, where: Location, why: ReleaseReason) -> None:
        self.words.append((why.value, where.port_uuid))


def guests_of(wanted: Desired, told: Told) -> tuple[Motion, Guests]:
    parents = {G.uuid: OUTER.uuid, R.uuid: OUTER.uuid}
    motion = Motion(
        host=named("h1"),
        manager=told,
        relay_s=60,
        on_phases=told.changes.append,
        subports={OUTER.uuid: {G.uuid, R.uuid}},
        parents=parents,
    )
    ports = {one.vif_uuid: one.uuid for one in wanted.ports.values() if one.vif_uuid is not None}
    guests = Guests(motion=motion, port_by_vif=ports, parents=parents)
    for uuid, where in wanted.locations.items():
        motion.located(uuid, where)
    observed = host(world())
    guests.look(seen_vifs(observed.bridges, observed.flows), dead_bridges=(), desired=wanted, now=0.0)  # type: ignore[arg-type]
    return motion, guests


def test_a_pause_and_a_resume_turn_all_of_them_at_once_and_the_manager_hears_of_the_parent() -> None:
    told = Told()
    motion, guests = guests_of(world(incoming="h2"), told)
    event = DomainEvent(
        domain=named("vm"), name="vm", kind=DomainEventKind.PAUSED, source="qmp", migrated=False, at=0.0
    )
    guests.on_event(event)
    assert motion.phases() == dict.fromkeys((OUTER.uuid, G.uuid, R.uuid), Phase.REDIRECTING)
    assert told.changes == [frozenset({OUTER.uuid, G.uuid, R.uuid})], "in one go"
    guests.on_event(replace(event, kind=DomainEventKind.RESUMED))
    assert motion.phases() == {}
    assert told.words == [("resumed", OUTER.uuid)]


@pytest.mark.parametrize("first", [OUTER, G], ids=["untagged", "tagged"])
def test_the_first_frame_of_the_guest_lights_all_of_them_whatever_its_tag(first: LogicalPort) -> None:
    told = Told()
    motion, guests = guests_of(world(holder="h2", incoming="h1"), told)
    assert set(motion.phases().values()) == {Phase.INCOMING}
    seen = next(vif for vif in guests.vifs if vif.vif_uuid == first.vif_uuid)
    frame = bytes(6) + bytes.fromhex(first.mac.replace(":", "")) + bytes(50)
    assert guests.on_frame(seen.bridge, seen.ofport, frame)
    assert motion.phases() == dict.fromkeys((OUTER.uuid, G.uuid, R.uuid), Phase.ACTIVATED)
    assert told.words == [("activated", OUTER.uuid)]
    asked: list[UUID] = []
    motion.restate(lambda uuid: asked.append(uuid))
    assert told.words == [("activated", OUTER.uuid)] * 2


# --- memory and words -----------------------------------------------------------------------------------------------


def test_the_agents_state_knows_sub_ports_by_their_parent_and_forgets_them(tmp_path) -> None:  # type: ignore[no-untyped-def]
    state = State(tmp_path / "state.db")
    state.take([Object(version=1, body=one) for one in (OUTER, G, R)])
    assert (state.subports, state.parents) == (
        {OUTER.uuid: {G.uuid, R.uuid}},
        dict.fromkeys((G.uuid, R.uuid), OUTER.uuid),
    )
    state.close()
    state = State(tmp_path / "state.db")
    assert state.subports[OUTER.uuid] == {G.uuid, R.uuid}
    state.take((), [Ref(kind=Kind.PORT, uuid=G.uuid)])
    assert (state.subports[OUTER.uuid], state.parents) == ({R.uuid}, {R.uuid: OUTER.uuid})
    state.close()


def test_the_explanation_names_parent_and_sub_ports() -> None:
    wanted = world()
    said = {}
    for one in (OUTER, G):
        (answer,) = explain(str(one.vif_uuid), desired=wanted, statuses=(), records={}, missing={})
        said[one.name] = " ".join(answer["facts"])
    assert "It is a sub-port: the frames of port outer with VLAN tag 10." in said["g"]
    assert (
        "Tagged frames of its VIF are its sub-ports': tag 10 is port g of network n2; tag 20 is port r" in said["outer"]
    )


def test_steps_for_a_sub_port_come_to_an_end() -> None:
    wanted, observed = world(), host(world())
    assert plan(desired=wanted, observed=observed) == ()
    more = world(G, R, subport("x", 30, on="n2"))
    steps = plan(desired=more, observed=observed)
    assert len([step for step in steps if type(step).__name__ == "PutPort"]) == 2
    assert plan(desired=more, observed=settled(more, obey(observed, steps))) == ()

"""What this host must ask for, give back and subscribe to, from what is plugged and what it knows."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from uuid import UUID, uuid4

from hostagent.model import Bridge, Desired, Interface, OvsPort
from hostagent.names import OWNER, SWITCH_KEY
from hostagent.presence import (
    LINGER_S,
    SeenVif,
    Subscriptions,
    due_claims,
    due_releases,
    seen_vifs,
    unpark,
    wanted_networks,
)
from netmgr.contract.types import (
    HostConfig,
    Location,
    LogicalPort,
    OpaqueNetwork,
    ReleaseReason,
    VtepAssignment,
)

HOST, OTHER, NETWORK, SWITCH, PORT, VIF, VM = (uuid4() for _ in range(7))
HELD = Location(port_uuid=PORT, network_uuid=NETWORK, holder_host=HOST, holder_vtep="10.0.0.1", version=5)
ELSEWHERE = replace(HELD, holder_host=OTHER, holder_vtep="10.0.0.2")
COMING = replace(ELSEWHERE, incoming_host=HOST, incoming_vtep="10.0.0.1")


def _bridge(*interfaces: Interface, ours: bool = True) -> Bridge:
    marks = {**OWNER, SWITCH_KEY: str(SWITCH)} if ours else {}
    return Bridge(
        name="osw-x", external_ids=marks, ports=tuple(OvsPort(name=i.name, interfaces=(i,)) for i in interfaces)
    )


def _tap(name: str, ofport: int | None = 1, vif: str = str(VIF)) -> Interface:
    ids = {"iface-id": vif, "vm-id": str(VM), "attached-mac": "52:54:00:00:00:0A"}
    return Interface(name=name, ofport=ofport, external_ids=ids)


def _vif(**changes: object) -> SeenVif:
    (seen,) = seen_vifs((_bridge(_tap("vnet0")),), {})
    return replace(seen, **changes)  # type: ignore[arg-type]


def _desired(location: Location) -> Desired:
    network = OpaqueNetwork(uuid=NETWORK, name="blue", zone_uuid=uuid4(), switch_uuid=SWITCH, segment_id=1)
    vteps = (VtepAssignment(switch_uuid=SWITCH, address="10.0.0.1/24"),)
    return Desired(
        host=HostConfig(uuid=HOST, name="h1", vteps=vteps),
        networks={NETWORK: network},
        ports={PORT: LogicalPort(uuid=PORT, name="p", network_uuid=NETWORK, vif_uuid=VIF, mac="52:54:00:00:00:0a")},
        locations={PORT: location},
    )


def _claims(location: Location | None, **changes: object) -> list[UUID]:
    locations = {} if location is None else {PORT: location}
    ports = {} if location is None else {VIF: PORT}
    return [v.vif_uuid for v in due_claims(locations=locations, vifs=[_vif(**changes)], host=HOST, ports=ports)]


def _releases(location: Location, *, absent_for: float | None, granted: bool = False) -> list[ReleaseReason]:
    due = due_releases(
        desired=_desired(location),
        host=HOST,
        absent_since={} if absent_for is None else {VIF: 100.0 - absent_for},
        granted_until={VIF: 130.0} if granted else {},
        now=100.0,
    )
    return [why for _, why in due]


def test_only_interfaces_with_a_vif_on_our_bridges_are_vifs() -> None:
    plain = Interface(name="eth9", ofport=3)
    odd = _tap("vnet9", vif="not-a-uuid")
    assert seen_vifs((_bridge(_tap("vnet0"), ours=False), _bridge(plain, odd)), {}) == ()
    (seen,) = seen_vifs((_bridge(_tap("vnet0")),), {})
    assert (seen.vif_uuid, seen.vm_uuid, seen.mac, seen.plugged) == (VIF, VM, "52:54:00:00:00:0a", True)


def test_of_one_vif_plugged_twice_the_first_counts_and_the_other_names_it() -> None:
    first, second = seen_vifs((_bridge(_tap("vnet1", 7), _tap("vnet0", 3)),), {})
    assert (first.ovs_port, first.twin_of) == ("vnet0", "")
    assert (second.ovs_port, second.twin_of) == ("vnet1", "vnet0")
    assert due_claims(locations={}, vifs=[second], host=HOST, ports={}) == ()


def test_a_vif_is_claimed_where_this_host_does_not_hold_its_port() -> None:
    assert _claims(None) == [VIF]
    assert _claims(ELSEWHERE) == [VIF]
    assert _claims(replace(HELD, parked=True)) == [VIF]
    assert _claims(HELD) == []
    assert _claims(COMING) == []
    assert _claims(None, plugged=False) == []


def test_a_held_port_without_its_vif_is_parked_after_a_while() -> None:
    assert _releases(HELD, absent_for=1.1) == [ReleaseReason.STOPPED]
    assert _releases(HELD, absent_for=0.5) == []
    assert _releases(HELD, absent_for=None) == []
    assert _releases(replace(HELD, parked=True), absent_for=9) == []
    assert _releases(ELSEWHERE, absent_for=9) == []


def test_a_granted_claim_gives_its_tap_time_to_appear() -> None:
    assert _releases(HELD, absent_for=9, granted=True) == []


def test_an_incoming_port_whose_tap_went_is_given_up() -> None:
    assert _releases(COMING, absent_for=2) == [ReleaseReason.ABORTED]


def test_a_source_does_not_park_what_is_moving_away() -> None:
    assert _releases(replace(HELD, incoming_host=OTHER), absent_for=9) == []


def test_a_parked_port_is_lit_on_its_recorded_holder_once_plugged_there() -> None:
    parked = {PORT: replace(HELD, parked=True)}
    assert not unpark(parked, vifs=[_vif()], host=HOST, ports={VIF: PORT})[PORT].parked
    assert unpark(parked, vifs=[_vif()], host=OTHER, ports={VIF: PORT}) is parked
    assert unpark(parked, vifs=[_vif(plugged=False)], host=HOST, ports={VIF: PORT}) is parked


def test_networks_are_wanted_for_vifs_ports_held_and_claims() -> None:
    claimed, hinted = uuid4(), uuid4()
    none = replace(_desired(ELSEWHERE), ports={})
    assert wanted_networks(desired=none, vifs=[], ports={}, claimed=[]) == set()
    assert wanted_networks(desired=_desired(HELD), vifs=[], ports={}, claimed=[claimed]) == {NETWORK, claimed}
    assert wanted_networks(desired=_desired(ELSEWHERE), vifs=[_vif()], ports={VIF: PORT}, claimed=[]) == {NETWORK}
    assert wanted_networks(desired=none, vifs=[_vif(network_uuid=hinted)], ports={}, claimed=[]) == {hinted}
    parked = _desired(replace(HELD, parked=True))
    assert wanted_networks(desired=parked, vifs=[], ports={}, claimed=[]) == set()


def test_a_vif_that_is_just_being_plugged_is_claimed_before_the_switch_has_it() -> None:
    coming = _vif(plugged=False, awaited=True)
    asked = partial(due_claims, locations={}, host=HOST, ports={})
    assert asked(vifs=[coming]) == ()
    assert asked(vifs=[coming], arriving={VIF}) == (coming,)
    assert asked(vifs=[replace(coming, twin_of="vnet1")], arriving={VIF}) == ()


def test_subscriptions_are_widened_at_once_and_narrowed_lazily() -> None:
    blue, red = uuid4(), uuid4()
    subscriptions = Subscriptions()
    assert subscriptions.follow({blue}, now=0) == {blue}
    assert subscriptions.follow({blue, red}, now=10) == {blue, red}
    assert subscriptions.follow({blue}, now=10 + LINGER_S - 1) == {blue, red}, "its last VIF has just gone"
    assert subscriptions.follow({blue}, now=10 + LINGER_S) == {blue}
    assert subscriptions.follow({red}, now=80) == {blue, red}
    assert subscriptions.follow({red}, now=81 + LINGER_S) == {red}
    assert subscriptions.follow((), now=200 + LINGER_S) == frozenset()

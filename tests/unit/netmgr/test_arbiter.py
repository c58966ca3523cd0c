"""Every row of the arbiter's table, and what becomes of words that come late, twice or from the wrong host."""

from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from netmgr.arbiter import Grant, Refusal, decide_activation, decide_claim, decide_release
from netmgr.contract.types import AttachMode, Claim, ClaimIntent, Kind, Location, ReleaseReason
from netmgr.model import HostRecord, PortHistory, World
from tests.support.netmgr_worlds import H1, H2, H3, H4, NET_A, NET_B, PORT, VIF, drop, held, put, uid, vtep, world_of

START, MIGRATE = ClaimIntent.START, ClaimIntent.MIGRATE_IN
STOPPED, ABORTED, RESUMED = ReleaseReason.STOPPED, ReleaseReason.ABORTED, ReleaseReason.RESUMED
NEW = uid("new-port")


def claim(world: World, host: HostRecord, intent: ClaimIntent = START, **more: object) -> Grant | Refusal:
    asked = Claim(vif_uuid=VIF, network_uuid=NET_A.uuid, mac=PORT.mac, vm_name="vm1", intent=intent)
    return decide_claim(world, host=host.uuid, claim=replace(asked, **more), new_port_uuid=NEW)  # type: ignore[arg-type]


def granted(decided: Grant | Refusal) -> Location:
    assert isinstance(decided, Grant), decided
    assert decided.location.port_uuid == decided.port.uuid
    assert decided.location.mac == decided.port.mac
    assert decided.location.network_uuid == decided.port.network_uuid
    return decided.location


def refused(decided: object, *words: str) -> None:
    assert isinstance(decided, Refusal), decided
    for word in words:
        assert word in decided.sentence, decided.sentence


HOLDER_1 = held(H1, version=8)


@pytest.mark.parametrize("intent", [START, MIGRATE])
@pytest.mark.parametrize(
    ("found", "after"),
    [
        (None, held(H1, version=1)),
        (held(), HOLDER_1),
        (held(H1), held(H1)),
        (held(H1, parked=True), HOLDER_1),
        (held(H2, parked=True), HOLDER_1),
        (held(H2, incoming=H1), held(H2, incoming=H1)),
    ],
    ids=["never-placed", "unbound", "held-here", "parked-here", "parked-there", "coming-here"],
)
def test_claim_is_granted(found: Location | None, after: Location, intent: ClaimIntent) -> None:
    world = world_of(PORT, *([found] if found else []))
    assert granted(claim(world, H1, intent)) == after


def test_claim_of_a_running_guest_is_refused_and_names_its_host() -> None:
    refused(claim(world_of(PORT, held(H2)), H1, START), "vm1", "net-a", "held by host h2", "h1")


def test_migration_in_becomes_incoming_and_leaves_the_holder() -> None:
    assert granted(claim(world_of(PORT, held(H2)), H1, MIGRATE)) == held(H2, incoming=H1, version=8)


@pytest.mark.parametrize("parked", [False, True])
def test_guest_that_comes_straight_back_is_held_where_it_runs_and_incoming_here(parked: bool) -> None:
    world = world_of(PORT, held(H1, incoming=H2, parked=parked))
    assert granted(claim(world, H1, MIGRATE)) == held(H2, incoming=H1, version=8)
    put(world, held(H2, incoming=H1, version=8))
    late = decide_activation(world, host=H2.uuid, port_uuid=PORT.uuid, version=7)  # of the way there
    assert late is None


def test_start_at_the_source_of_a_running_migration_asks_again_and_leaves_it_unless_the_source_has_stopped() -> None:
    assert granted(claim(world_of(PORT, held(H1, incoming=H2)), H1, START)) == held(H1, incoming=H2)
    assert granted(claim(world_of(PORT, held(H1, incoming=H2, parked=True)), H1, START)) == HOLDER_1


@pytest.mark.parametrize("intent", [START, MIGRATE])
@pytest.mark.parametrize("parked", [False, True])
def test_second_migration_at_once_is_refused_and_names_the_first(intent: ClaimIntent, parked: bool) -> None:
    refused(
        claim(world_of(PORT, held(H2, incoming=H4, parked=parked)), H1, intent), "migration to host h4 is under way"
    )


def test_start_at_the_incoming_host_of_a_stopped_source_makes_it_holder() -> None:
    assert granted(claim(world_of(PORT, held(H2, incoming=H1, parked=True)), H1, START)) == HOLDER_1


def test_port_of_a_vanished_host_is_free() -> None:
    gone = replace(H2, uuid=uid("gone"), name="gone")
    assert granted(claim(world_of(PORT, held(gone)), H1, START)) == HOLDER_1
    assert granted(claim(world_of(PORT, held(gone)), H1, MIGRATE)) == HOLDER_1
    assert granted(claim(world_of(PORT, held(H2, incoming=gone)), H1, MIGRATE)) == held(H2, incoming=H1, version=8)


@pytest.mark.parametrize("found", [None, held(), held(H2), held(H2, parked=True)])
@pytest.mark.parametrize("intent", [START, MIGRATE])
def test_granted_claim_asked_again_changes_nothing(found: Location | None, intent: ClaimIntent) -> None:
    world = world_of(PORT, *([found] if found else []))
    first = claim(world, H1, intent)
    if isinstance(first, Grant):
        put(world, first.location)
        assert granted(claim(world, H1, intent)) == first.location


def test_network_of_another_zone_is_refused_with_network_zone_and_remedy() -> None:
    refused(claim(world_of(PORT), H3), "net-a", str(NET_A.uuid), "zone-a", "h3", "add the host")


def test_host_without_a_vtep_is_refused() -> None:
    refused(claim(world_of(PORT, replace(H1, vteps=())), H1), "no VTEP", "net-a")


def test_host_that_is_not_enrolled_is_refused() -> None:
    refused(claim(world_of(PORT), replace(H1, uuid=uuid4())), "not enrolled")


def test_claim_with_another_mac_than_the_ports_is_refused_with_both() -> None:
    refused(claim(world_of(PORT), H1, mac="52:54:00:00:00:99"), PORT.mac, "52:54:00:00:00:99")


def test_claim_without_mac_or_network_finds_its_port() -> None:
    assert granted(claim(world_of(PORT), H1, mac="", network_uuid=None)).holder_host == H1.uuid


def test_mac_in_capitals_is_the_same_mac() -> None:
    assert granted(claim(world_of(replace(PORT, mac="52:54:00:00:00:0a")), H1, mac="52:54:00:00:00:0A"))


def test_claim_on_another_network_than_the_ports_is_refused_with_both() -> None:
    refused(claim(world_of(PORT), H4, network_uuid=NET_B.uuid), "net-a", "net-b")


def test_port_that_is_admin_down_is_granted() -> None:
    assert granted(claim(world_of(replace(PORT, admin_up=False)), H1)).holder_host == H1.uuid


@pytest.mark.parametrize("intent", [START, MIGRATE])
def test_unknown_vif_on_an_auto_network_gets_a_port_named_after_its_vm(intent: ClaimIntent) -> None:
    decided = claim(world_of(), H1, intent, mac="52:54:00:00:00:0A")
    assert isinstance(decided, Grant)
    assert decided.created
    assert (decided.port.uuid, decided.port.vif_uuid, decided.port.name) == (NEW, VIF, "vm1")
    assert decided.port.mac == "52:54:00:00:00:0a"
    assert granted(decided).holder_vtep == vtep(H1)


@pytest.mark.parametrize(
    ("vm_name", "taken", "name"),
    [
        ("vm1", ["vm1"], f"vm1-{str(VIF)[:8]}"),
        ("vm1", ["vm1", f"vm1-{str(VIF)[:8]}"], str(VIF)),
        ("", [], str(VIF)),
        ("web server/1 ä", [], "web-server-1"),
        ("..", [], str(VIF)),
        ("x" * 200, [], "x" * 63),
    ],
)
def test_name_of_a_created_port_is_fit_and_free(vm_name: str, taken: list[str], name: str) -> None:
    others = [
        replace(PORT, uuid=uid(f"o{n}"), name=t, vif_uuid=uid(f"v{n}"), mac=f"52:54:00:00:01:0{n}")
        for n, t in enumerate(taken)
    ]
    decided = claim(world_of(*others), H1, vm_name=vm_name)
    assert isinstance(decided, Grant)
    assert decided.port.name == name


def test_unknown_vif_on_a_manual_network_is_refused_with_how_to_proceed() -> None:
    assert NET_B.attach_mode is AttachMode.MANUAL
    decided = claim(world_of(), H3, network_uuid=NET_B.uuid)
    refused(decided, "net-b", "manual", "netmgr port create", "attach")
    assert isinstance(decided, Refusal)
    assert decided.dark  # it may be plugged meanwhile


def test_what_is_refused_for_another_reason_may_not_be_plugged_dark() -> None:
    for decided in (
        claim(world_of(PORT, held(H2)), H1),
        claim(world_of(), H1, mac="nonsense"),
        claim(world_of(), H1, network_uuid=NET_B.uuid),  # of a zone that the host is not in
    ):
        assert isinstance(decided, Refusal)
        assert not decided.dark


@pytest.mark.parametrize("mac", ["", "nonsense", "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"])
def test_unknown_vif_without_a_unicast_mac_is_refused(mac: str) -> None:
    refused(claim(world_of(), H1, mac=mac), "unicast MAC")


def test_unknown_vif_with_the_mac_of_another_port_is_refused_and_names_it() -> None:
    refused(claim(world_of(PORT), H1, vif_uuid=uid("other")), PORT.mac, "port vm1", str(VIF))


def test_unknown_vif_without_a_network_or_on_an_unknown_one_is_refused() -> None:
    refused(claim(world_of(), H1, network_uuid=None), "names no network")
    refused(claim(world_of(), H1, network_uuid=uid("nowhere")), "does not exist")


# --- activation and release ------------------------------------------------------------------------------------------


def activate(found: Location, host: HostRecord, version: int = 7) -> Location | Refusal | None:
    return decide_activation(world_of(PORT, found), host=host.uuid, port_uuid=PORT.uuid, version=version)


def release(found: Location, host: HostRecord, why: ReleaseReason, version: int = 7) -> Location | Refusal | None:
    return decide_release(world_of(PORT, found), host=host.uuid, port_uuid=PORT.uuid, version=version, why=why)


def test_activation_makes_the_incoming_host_holder_with_its_own_vtep() -> None:
    assert activate(held(H1, incoming=H2), H2) == held(H2, version=8)


def test_activation_after_the_source_has_parked_still_moves() -> None:
    assert activate(held(H1, incoming=H2, parked=True, version=9), H2, version=8) == held(H2, version=10)


def test_activation_by_the_holder_unparks_and_is_nothing_when_it_runs() -> None:
    assert activate(held(H1, parked=True), H1) == held(H1, version=8)
    assert activate(held(H1), H1) is None
    assert activate(held(H1), H1, version=3) is None


@pytest.mark.parametrize(
    ("found", "host", "version"),
    [
        (held(H1, incoming=H2), H2, 6),  # an older grant, given back since
        (held(H1), H2, 7),  # the source resumed: this guest must stay dark
        (held(H1), H2, 6),
        (held(H1, incoming=H2), H4, 7),
        (held(H1, parked=True), H1, 6),
        (held(H1, parked=True), H2, 7),
        (held(H1, incoming=H2), H2, 8),  # from a future that a restored backup does not know
    ],
)
def test_activation_that_is_not_about_this_grant_is_ignored_with_a_reason(
    found: Location, host: HostRecord, version: int
) -> None:
    refused(activate(found, host, version), host.name, "vm1")


@pytest.mark.parametrize(
    ("found", "host", "why", "after"),
    [
        (held(H1), H1, STOPPED, held(H1, parked=True, version=8)),
        (held(H1), H1, ABORTED, held(H1, parked=True, version=8)),
        (held(H1, incoming=H2), H1, STOPPED, held(H1, incoming=H2, parked=True, version=8)),
        (held(H1, incoming=H2), H1, RESUMED, held(H1, version=8)),
        (held(H1, incoming=H2), H1, ABORTED, held(H1, version=8)),
        (held(H1, incoming=H2), H2, STOPPED, held(H1, version=8)),
        (held(H1, incoming=H2), H2, ABORTED, held(H1, version=8)),
        (held(H1, incoming=H2, parked=True), H2, ABORTED, held(H1, parked=True, version=8)),
        (held(H1, parked=True), H1, STOPPED, None),
        (held(H1), H1, RESUMED, None),
        (held(H1), H2, STOPPED, None),
        (held(H1), H2, ABORTED, None),
        (held(H2), H1, STOPPED, None),  # the source's tap ends after the move
        (held(H1, incoming=H2), H2, RESUMED, None),
        (held(H1, incoming=H4), H2, ABORTED, None),
        (held(), H1, STOPPED, None),
    ],
)
def test_release(found: Location, host: HostRecord, why: ReleaseReason, after: Location | None) -> None:
    assert release(found, host, why) == after


@pytest.mark.parametrize(
    ("found", "host", "why"),
    [
        (held(H1), H1, STOPPED),  # it has claimed again since
        (held(H1, incoming=H2), H1, RESUMED),  # of an earlier migration
        (held(H1, incoming=H2), H1, ABORTED),
        (held(H1, incoming=H2), H2, ABORTED),  # of an earlier grant
    ],
)
def test_release_of_an_older_version_is_ignored_with_a_reason(
    found: Location, host: HostRecord, why: ReleaseReason
) -> None:
    refused(release(found, host, why, version=6), host.name, "version 6")


def test_holder_that_stops_before_it_learns_of_a_grant_is_parked() -> None:
    assert release(held(H1, incoming=H2), H1, STOPPED, version=6) == held(H1, incoming=H2, parked=True, version=8)


def test_grant_given_back_by_a_host_that_had_not_heard_of_the_parking_ends() -> None:
    found = held(H1, incoming=H2, parked=True)
    assert release(found, H2, ABORTED, version=6) == held(H1, parked=True, version=8)


def test_words_about_a_port_that_is_gone_are_nothing() -> None:
    world = world_of(PORT, held(H1))
    drop(world, held(H1))
    assert (Kind.LOCATION, PORT.uuid) not in world.versions
    assert decide_activation(world, host=H1.uuid, port_uuid=PORT.uuid, version=7) is None
    assert decide_release(world, host=H1.uuid, port_uuid=PORT.uuid, version=7, why=STOPPED) is None


def test_own_word_of_a_version_that_a_restored_store_lost_counts_and_a_strangers_does_not() -> None:
    def stop(host: HostRecord, version: int) -> Location | Refusal | None:
        world = world_of(PORT, held(H1))
        return decide_release(world, host=host.uuid, port_uuid=PORT.uuid, version=version, why=STOPPED, now_ms=1000)

    assert stop(H1, 900) == held(H1, parked=True, version=1000)
    refused(stop(H1, 1000), "backup")  # from the future: no decision had that version
    refused(stop(H1, 2**63), "backup")
    refused(stop(H2, 900), "backup")


@pytest.mark.parametrize(("now_ms", "version"), [(0, 8), (3, 8), (8, 8), (5_000, 5_000)])
def test_version_grows_with_the_clock_and_without_it(now_ms: int, version: int) -> None:
    world = world_of(PORT, held(H1, incoming=H2))
    moved = decide_activation(world, host=H2.uuid, port_uuid=PORT.uuid, version=7, now_ms=now_ms)
    assert isinstance(moved, Location)
    assert moved.version == version


VM, FRESH = uid("vm-1"), uid("vif-of-the-next-start")


def left(made_by: HostRecord | None = H1, vm: UUID | None = VM) -> PortHistory:
    return PortHistory(port_uuid=PORT.uuid, made_by=made_by.uuid if made_by else None, vm_uuid=vm)


@pytest.mark.parametrize("at", [H1, H2])
def test_guest_without_a_fixed_vif_finds_the_stopped_port_that_was_made_for_it(at: HostRecord) -> None:
    decided = claim(world_of(PORT, held(at, parked=True), left()), H1, vif_uuid=FRESH, vm_uuid=VM)
    assert granted(decided) == HOLDER_1
    assert isinstance(decided, Grant)
    assert (decided.port, decided.history) == (replace(PORT, vif_uuid=FRESH), left())
    assert not decided.created


@pytest.mark.parametrize(
    ("history", "host", "vm"),
    [
        (left(), H1, uid("another-vm")),  # whoever defines a guest chooses its MAC
        (left(), H1, None),
        (left(vm=None), H1, None),
        (left(vm=None), H1, VM),
        (left(), H4, VM),  # neither holds the port nor made it: the VM's UUID may be used twice
        (left(made_by=None), H2, VM),  # an operator's port is entered by the VIF that the operator attached
        (None, H2, VM),
    ],
)
def test_stopped_port_is_not_left_to_whoever_comes_with_its_mac(
    history: PortHistory | None, host: HostRecord, vm: UUID | None
) -> None:
    world = world_of(PORT, held(H2, parked=True), *([history] if history else []))
    said = (PORT.mac, "belongs to port vm1", str(VIF), "parked at host h2", host.name, "netmgr port delete")
    refused(claim(world, host, vif_uuid=FRESH, vm_uuid=vm), *said)


def test_guest_without_a_fixed_vif_that_is_started_on_a_third_host_is_told_where_it_runs_or_stopped() -> None:
    running = claim(world_of(PORT, held(H2), left()), H4, vif_uuid=FRESH, vm_uuid=VM)
    refused(running, "held by host h2", "this VM runs there: stop it there, or migrate it")
    stopped = claim(world_of(PORT, held(H2, parked=True), left()), H4, vif_uuid=FRESH, vm_uuid=VM)
    refused(stopped, "parked at host h2", "start the VM at host h2, where it stopped, or give", "that interfaceid")


def test_history_of_a_port_tells_who_made_it_and_whom_it_was_granted_to() -> None:
    made = claim(world_of(), H1, vm_uuid=VM)
    assert isinstance(made, Grant)
    assert made.history == PortHistory(port_uuid=NEW, made_by=H1.uuid, vm_uuid=VM)
    world = world_of(PORT, held(H1, parked=True), left())
    for vm, then in ((uid("vm-2"), uid("vm-2")), (None, VM)):
        again = claim(world, H1, vm_uuid=vm)
        assert isinstance(again, Grant)
        assert again.history == left(vm=then)


def test_running_vif_is_taken_along_by_its_own_vm_only() -> None:
    world = world_of(PORT, held(H2), left(made_by=None))
    thief = uid("thief")
    refused(claim(world, H1, MIGRATE, vm_uuid=thief), "held by host h2", str(VM), str(thief))
    assert granted(claim(world, H1, MIGRATE, vm_uuid=VM)) == held(H2, incoming=H1, version=8)
    assert granted(claim(world, H1, MIGRATE)) == held(H2, incoming=H1, version=8)  # a host that names no VM
    put(world, held(H2, parked=True))
    assert granted(claim(world, H1, MIGRATE, vm_uuid=thief)) == HOLDER_1  # the VIF's UUID entitles to what is free


@pytest.mark.parametrize("found", [None, held(), held(H1), held(H2, incoming=H1, parked=True)])
def test_port_of_a_guest_that_may_run_is_never_taken_over_by_mac(found: Location | None) -> None:
    world = world_of(PORT, left(), *([found] if found else []))
    refused(claim(world, H1, vif_uuid=FRESH, vm_uuid=VM), PORT.mac, "belongs to")


def test_only_a_start_on_a_network_that_attaches_by_itself_takes_a_port_over() -> None:
    world = world_of(PORT, held(H2, parked=True), left())
    refused(claim(world, H1, MIGRATE, vif_uuid=FRESH, vm_uuid=VM), "belongs to")
    put(world, replace(NET_A, attach_mode=AttachMode.MANUAL))
    refused(claim(world, H1, vif_uuid=FRESH, vm_uuid=VM), "attach mode manual")

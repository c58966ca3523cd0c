"""MACs behind a port's VIF at the manager: what may be defined, whose a learned one is, who is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from netmgr import rules
from netmgr.arbiter import Refusal, decide_claim
from netmgr.contract.nested import learning_macs
from netmgr.contract.types import (
    Allowance,
    Claim,
    ClaimIntent,
    Learned,
    LearnedAddress,
    LearnedMac,
    LearnedSource,
    LogicalPort,
    NestedMac,
)
from netmgr.model import HostRecord, NetmgrError, PortHistory, World
from netmgr.rules import learned as rule
from netmgr.rules.groups import members_of
from netmgr.service.mac_views import mac_views, rival_sentences
from tests.support.netmgr_worlds import H1, H2, NET_A, PORT, drop, held, put, uid, world_of
from tests.unit.netmgr.test_learned import SECOND, at

M1, M2, M3 = "02:00:00:00:01:01", "02:00:00:00:01:02", "02:00:00:00:01:03"
A, B = "10.0.0.5", "10.0.0.6"
OPEN = (Allowance.NESTED,)


def word(port: LogicalPort, *macs: str, **addresses: str) -> Learned:
    """What its holder says of *port*: MACs, and addresses as `mac_index=address`."""
    found = tuple(
        LearnedAddress(address=address, source=LearnedSource.ARP, mac="" if name == "own" else macs[int(name[1:])])
        for name, address in addresses.items()
    )
    return Learned(
        port_uuid=port.uuid,
        network_uuid=port.network_uuid,
        macs=tuple(LearnedMac(mac=one) for one in macs),
        addresses=found,
    )


def hear(world: World, host: HostRecord, said: Learned) -> None:
    for row in rules.learned_rows(world, host=host.uuid, word=said, since="2026-01-02T03:04:05Z"):
        put(world, row) if row.addresses or row.macs else drop(world, row)


def settle(world: World, port: LogicalPort) -> None:
    """Do with a port that was put what the service does."""
    put(world, port)
    kept = rules.kept_row(world, port)
    for row in (*rules.evicted_rows(world, port), *((kept,) if kept else ())):
        put(world, row) if row.addresses or row.macs else drop(world, row)


def macs(world: World, port: LogicalPort) -> dict[str, str]:
    row = world.learned.get(port.uuid)
    return {one.mac: one.refused for one in row.macs} if row else {}


def addresses(world: World, port: LogicalPort) -> dict[str, tuple[str, str]]:
    row = world.learned.get(port.uuid)
    return {one.address: (one.mac, one.refused) for one in row.addresses} if row else {}


@pytest.fixture
def world() -> World:
    return world_of(replace(PORT, allow=OPEN), held(H1), replace(SECOND, allow=OPEN), at(SECOND, H2))


# --- defined --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nested", "sentence"),
    [
        ((NestedMac(mac="03:00:00:00:00:01"),), "a nested MAC must be a unicast address"),
        ((NestedMac(mac="nonsense"),), "a nested MAC must be a unicast address"),
        ((NestedMac(mac=PORT.mac),), "is its own MAC"),
        ((NestedMac(mac=M1), NestedMac(mac=M1)), "names a nested MAC twice"),
        ((NestedMac(mac=SECOND.mac),), "is that of port vm2"),
        ((NestedMac(mac=M2),), "is that of port vm2"),
        ((NestedMac(mac=M1, ips=(B,)),), "address 10.0.0.6 is that of port vm2"),
        ((NestedMac(mac=M1, ips=(A,)), NestedMac(mac=M3, ips=(A,))), "names an address twice"),
        ((NestedMac(mac=M1, ips=("10.0.0.300",)),), "is no IP address"),
        (tuple(NestedMac(mac=f"02:00:00:00:02:{n:02x}") for n in range(65)), "at most 64"),
    ],
)
def test_what_can_t_be_behind_a_port_is_refused_with_the_reason(nested: tuple[NestedMac, ...], sentence: str) -> None:
    other = replace(SECOND, nested=(NestedMac(mac=M2, ips=(B,)),))
    with pytest.raises(NetmgrError, match=sentence):
        rules.check_port(world_of(PORT, held(H1), other), replace(PORT, nested=nested))


def test_a_port_s_own_mac_can_t_be_one_that_is_nested_elsewhere() -> None:
    world = world_of(PORT, replace(SECOND, nested=(NestedMac(mac=M1),)))
    with pytest.raises(NetmgrError, match="is that of port vm2"):
        rules.check_port(world, replace(PORT, mac=M1))


def test_nested_addresses_are_the_port_s_for_security_groups() -> None:
    group = uid("group")
    port = replace(PORT, ips=(A,), nested=(NestedMac(mac=M1, ips=(B,)),), security_groups=(group,))
    assert members_of(world_of(port), group) == (A, B)
    assert rules.groups.groups_altered(replace(port, nested=()), port) == {group}


# --- learned --------------------------------------------------------------------------------------------------------


def test_macs_are_learned_where_they_are_allowed_and_their_addresses_with_them(world: World) -> None:
    hear(world, H1, word(PORT, M1, M2, own=A, m1=B))
    assert macs(world, PORT) == {M1: "", M2: ""}
    assert addresses(world, PORT) == {A: ("", ""), B: (M2, "")}
    put(world, replace(world.ports[SECOND.uuid], allow=()))
    hear(world, H2, word(SECOND, M3, own="10.0.0.7", m0="10.0.0.8"))
    assert macs(world, SECOND) == {}
    assert addresses(world, SECOND) == {"10.0.0.7": ("", "")}


def test_a_mac_of_another_port_is_not_learned_be_it_defined_or_learned(world: World) -> None:
    hear(world, H1, word(PORT, M1, m0=A))
    hear(world, H2, word(SECOND, M1, PORT.mac, M3, m0=A, m2=B))
    assert macs(world, SECOND) == {M1: "port vm1 had it before", PORT.mac: "it is defined for port vm1", M3: ""}
    assert addresses(world, SECOND) == {B: (M3, "")}, "what is said of a MAC that is not its own is nothing"
    assert rival_sentences(world, world.ports[PORT.uuid]) == sorted(
        [f"{M1}: the guest of port vm2 uses it too", f"{PORT.mac}: the guest of port vm2 uses it too"]
    )
    hear(world, H1, word(PORT))
    assert macs(world, SECOND)[M1] == "", "who waited gets it"


def test_what_another_has_is_told_of_a_port_that_may_learn_nothing_and_ends_with_the_other(world: World) -> None:
    bound = replace(SECOND, ips=(B,), allow=(), nested=())
    put(world, bound)
    put(world, replace(world.ports[PORT.uuid], ips=(A,)))
    hear(world, H2, word(SECOND, PORT.mac, M1, own=A))
    assert macs(world, SECOND) == {PORT.mac: "it is defined for port vm1"}
    assert addresses(world, SECOND) == {A: ("", "it is defined for port vm1")}
    assert rival_sentences(world, world.ports[PORT.uuid]) == sorted(
        f"{text}: the guest of port vm2 uses it too" for text in (A, PORT.mac)
    )
    hear(world, H2, word(SECOND, own=B))
    assert SECOND.uuid not in world.learned, "its own address is no news"


def test_a_mac_that_a_stopped_guest_had_goes_to_the_one_that_runs_with_its_addresses(world: World) -> None:
    hear(world, H1, word(PORT, M1, M2, m0=A))
    put(world, held(H1, parked=True))
    hear(world, H2, word(SECOND, M1, m0=A))
    assert macs(world, PORT) == {M2: ""}
    assert addresses(world, PORT) == {}
    assert addresses(world, SECOND) == {A: (M1, "")}


def test_an_address_may_move_between_macs_behind_one_vif(world: World) -> None:
    hear(world, H1, word(PORT, M1, M2, m0=A))
    hear(world, H1, word(PORT, M1, M2, m1=A))
    assert addresses(world, PORT) == {A: (M2, "")}


def test_what_is_defined_evicts_what_is_learned_and_both_ports_show_it(world: World) -> None:
    hear(world, H1, word(PORT, M1, m0=A, own=B))
    settle(world, replace(world.ports[SECOND.uuid], nested=(NestedMac(mac=M1, ips=(B,)),)))
    assert macs(world, PORT) == {M1: "it is defined for port vm2"}
    assert addresses(world, PORT) == {B: ("", "it is defined for port vm2")}
    assert len(rival_sentences(world, world.ports[SECOND.uuid])) == 2


def test_a_definition_that_allows_less_forgets_what_it_allowed(world: World) -> None:
    hear(world, H1, word(PORT, M1, m0=A, own=B))
    settle(world, replace(world.ports[PORT.uuid], ips=("10.0.0.9",)))
    assert addresses(world, PORT) == {A: (M1, "")}
    settle(world, replace(world.ports[PORT.uuid], allow=()))
    assert PORT.uuid not in world.learned


def test_macs_have_a_limit_a_port_and_a_network(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [f"02:00:00:00:03:{n:02x}" for n in range(rule.MACS_A_PORT_MAX + 6)]
    hear(world, H1, word(PORT, *many))
    assert len(macs(world, PORT)) == rule.MACS_A_PORT_MAX
    monkeypatch.setattr(rule, "MACS_A_NETWORK_MAX", rule.MACS_A_PORT_MAX + 1)
    hear(world, H2, word(SECOND, M1, M2))
    assert macs(world, SECOND)[M1] == ""
    assert "has 65 learned MACs" in macs(world, SECOND)[M2]


@pytest.mark.parametrize("mac", ["ff:ff:ff:ff:ff:ff", "", "02:00", "02:00:00:00:00:0G", "00:00:00:00:00:00"])
def test_what_is_no_mac_is_refused_whole(world: World, mac: str) -> None:
    with pytest.raises(NetmgrError, match="no unicast MAC"):
        rules.learned_rows(world, host=H1.uuid, word=word(PORT, M1, mac), since="")


def test_each_mac_is_a_line_of_the_table(world: World) -> None:
    put(world, replace(world.ports[PORT.uuid], nested=(NestedMac(mac=M3, ips=("10.0.0.8",)),)))
    hear(world, H1, word(PORT, M1, m0=A))
    seen = {view["mac"]: view for view in mac_views(world, network=NET_A.uuid, host=H1.uuid)}
    assert {mac: view["behind"] for mac, view in seen.items()} == {PORT.mac: "", M3: "defined", M1: "learned"}
    assert (seen[M3]["defined"], seen[M1]["learned"]) == (["10.0.0.8"], [A])
    assert seen[M1]["vtep"] == seen[PORT.mac]["vtep"] != ""


def test_a_mac_behind_a_port_is_no_title_to_it() -> None:
    vm, stranger = uid("vm-1"), uid("another-vif")
    port = replace(PORT, nested=(NestedMac(mac=M1),))
    world = world_of(port, held(H1, parked=True))
    put(world, PortHistory(port_uuid=port.uuid, made_by=H1.uuid, vm_uuid=vm))
    for mac in (M1, PORT.mac):
        claim = Claim(vif_uuid=stranger, network_uuid=NET_A.uuid, mac=mac, vm_uuid=vm, intent=ClaimIntent.START)
        decided = decide_claim(world, host=H1.uuid, claim=claim, new_port_uuid=uid("new"), now_ms=1)
        assert isinstance(decided, Refusal) == (mac == M1), "by its own MAC its VM gets it back"


def test_which_macs_learn() -> None:
    port = replace(PORT, ips=(A,), nested=(NestedMac(mac=M1), NestedMac(mac=M2, ips=(B,))), allow=OPEN)
    seen = (LearnedMac(mac=M3), LearnedMac(mac="02:00:00:00:01:04", refused="no"))
    assert learning_macs(port, seen) == (M1, M3)
    assert learning_macs(replace(port, ips=(), allow=()), seen) == ("", M1)
    assert learning_macs(replace(port, shadow_of=SECOND.uuid), seen) == ()

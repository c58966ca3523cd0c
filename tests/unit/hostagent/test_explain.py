"""Every reason why a VIF is not connected is a sentence, and comes with what to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from hostagent.explain import explain
from hostagent.model import Desired, Phase
from hostagent.state import VifRecord
from hostagent.vifs import standing
from netmgr.contract.groups import Direction, SecurityGroup, SecurityRule
from netmgr.contract.types import (
    HostConfig,
    Learned,
    LearnedAddress,
    LearnedMac,
    LearnedSource,
    Location,
    LogicalPort,
    NestedMac,
    OpaqueNetwork,
    TunnelPeer,
    VifState,
    VifStatus,
)

# Fixed, because sentences with them name the tests.
HOST, OTHER, NETWORK, PORT, VIF = (UUID(int=number) for number in range(1, 6))
BLUE = OpaqueNetwork(uuid=NETWORK, name="blue", zone_uuid=uuid4(), switch_uuid=uuid4(), segment_id=5000)
P = LogicalPort(uuid=PORT, name="web1", network_uuid=NETWORK, vif_uuid=VIF, mac="52:54:00:00:00:01")
HELD = Location(port_uuid=PORT, network_uuid=NETWORK, holder_host=HOST, holder_vtep="10.0.0.1", version=5)
ELSEWHERE = replace(HELD, holder_host=OTHER)


def explained(
    port: LogicalPort | None = P,
    location: Location | None = HELD,
    *,
    plugged: bool = True,
    state: VifState | None = None,
    reason: str = "",
    which: str = str(VIF),
    **more: Any,
) -> dict[str, Any]:
    if port is not None and not reason:
        state, reason = standing(port=port, location=location, phase=Phase.STEADY, host=HOST)
    status = VifStatus(
        vif_uuid=VIF,
        port_uuid=PORT,
        network_uuid=NETWORK,
        state=state or VifState.DARK,
        reason=reason,
        ovs_port="vnet0",
    )
    peer = TunnelPeer(switch_uuid=BLUE.switch_uuid, host_uuid=OTHER, host_name="h2", vtep="10.0.0.2")
    desired = Desired(
        host=HostConfig(uuid=HOST, name="h1", peers=(peer,)),
        networks={NETWORK: BLUE},
        ports={PORT: port} if port else {},
        locations={PORT: location} if location else {},
    )
    options: dict[str, Any] = {"records": {}, "missing": {}, **more}
    (answer,) = explain(which, desired=desired, statuses=[status] if plugged else [], **options)
    return answer


def test_the_port_that_has_an_address_says_whose_guest_uses_it_too() -> None:
    other = replace(P, uuid=uuid4(), name="web2", vif_uuid=uuid4(), mac="52:54:00:00:00:02")
    refused = Learned(
        port_uuid=other.uuid,
        network_uuid=NETWORK,
        addresses=(LearnedAddress(address="10.0.0.5", source=LearnedSource.ARP, refused="it is web1's"),),
        macs=(LearnedMac(mac=P.mac, refused="it is web1's"), LearnedMac(mac="52:54:00:00:00:03")),
    )
    mine = replace(P, ips=("10.0.0.5",))
    status = VifStatus(vif_uuid=VIF, state=VifState.LIT, ovs_port="vnet0")
    desired = Desired(ports={PORT: mine, other.uuid: other}, learned={other.uuid: refused})
    (answer,) = explain(str(VIF), desired=desired, statuses=[status], records={}, missing={})
    assert [fact for fact in answer["facts"] if "too" in fact] == [
        "The guest of port web2 uses its 10.0.0.5 too, and is denied it.",
        f"The guest of port web2 uses its {P.mac} too, and is denied it.",
    ]


def test_whose_guest_has_only_probed_for_an_address_is_said_so_on_both_sides() -> None:
    other = replace(P, uuid=uuid4(), name="web2", vif_uuid=uuid4(), mac="52:54:00:00:00:02", ips=())
    probed = LearnedAddress(address="10.0.0.5", source=LearnedSource.ARP, refused="it is web1's", probed=True)
    refused = Learned(port_uuid=other.uuid, network_uuid=NETWORK, addresses=(probed,))
    ports = {PORT: replace(P, ips=("10.0.0.5",)), other.uuid: other}
    for port, said in (
        (ports[PORT], "The guest of port web2 has probed for its 10.0.0.5, and is denied it."),
        (other, "Its guest has probed for 10.0.0.5, which is not its own: it is web1's."),
    ):
        assert port.vif_uuid is not None
        status = VifStatus(vif_uuid=port.vif_uuid, state=VifState.LIT, ovs_port="vnet0")
        desired = Desired(ports=ports, learned={other.uuid: refused})
        (answer,) = explain(str(port.vif_uuid), desired=desired, statuses=[status], records={}, missing={})
        assert [fact for fact in answer["facts"] if "10.0.0.5" in fact and "guest" in fact] == [said]


@pytest.mark.parametrize(
    ("port", "location", "reason", "advice"),
    [
        (replace(P, admin_up=False), HELD, "set down by its operator", "netmgr port set web1 --up"),
        (replace(P, shadow_of=uuid4()), HELD, "is a shadow", "netmgr port failover web1"),
        (P, None, "no location is known", "asks the manager"),
        (P, replace(HELD, holder_host=None), "held by no host", "asks the manager"),
        (P, ELSEWHERE, f"held by host {OTHER}", "one VIF can be in one place only"),
        (P, replace(HELD, parked=True), "its guest is stopped", "unpark it"),
    ],
)
def test_each_dark_reason_says_what_to_do(
    port: LogicalPort, location: Location | None, reason: str, advice: str
) -> None:
    answer = explained(port, location)
    assert answer["state"] == "dark"
    assert reason in " ".join(answer["facts"])
    assert advice in answer["advice"][0]
    assert all(sentence.endswith((".", "\u2026", "web1", "--up", str(VIF))) for sentence in answer["advice"])


def test_a_port_that_rules_mean_but_cannot_meet_is_told_what_to_do() -> None:
    mine, other = (SecurityGroup(uuid=uuid4(), name=name) for name in ("web", "db"))
    rule = SecurityRule(direction=Direction.INGRESS, remote_group=mine.uuid)

    def said(port: LogicalPort, *groups: SecurityGroup) -> tuple[list[str], list[str]]:
        status = VifStatus(vif_uuid=VIF, state=VifState.LIT, ovs_port="vnet0")
        ports, known = {PORT: port}, {one.uuid: one for one in groups}
        desired = Desired(networks={NETWORK: BLUE}, ports=ports, locations={PORT: HELD}, groups=known)
        plugged, gone = (
            explain(str(VIF), desired=desired, statuses=statuses, records={}, missing={})[0]
            for statuses in ([status], [])
        )
        facts, advice = ([one for one in plugged[key] if "defined addresses" in one] for key in ("facts", "advice"))
        assert set(facts) <= set(gone["facts"])
        assert set(advice) <= set(gone["advice"])
        return facts, advice

    port = replace(P, security_groups=(mine.uuid,))
    named = (
        "Port blue/web1 of group web has no defined addresses: rules of group db that name web as the other end never "
        "match it; define them: netmgr port set blue/web1 --ip ADDRESS"
    )
    assert said(port, mine, replace(other, rules=(rule,))) == ([], [named])
    (unknown,), none = said(port, mine, other)
    assert "`netmgr port show blue/web1` says whether" in unknown, "this host does not know all groups"
    assert none == []
    for met in (replace(port, ips=("10.0.0.5",)), P, replace(port, nested=(NestedMac(mac="x", ips=("10.0.0.5",)),))):
        assert said(met, mine, replace(other, rules=(rule,))) == ([], [])


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        (f"VIF {VIF} is plugged twice: vnet0 has it, vnet1 stays dark", "a VIF UUID of its own"),
        ("VIF: no logical port is known for it on this host", f"netmgr port attach PORT --vif {VIF}"),
        ("port x of network y is held by host h2", "the agent asks again by itself"),
    ],
)
def test_a_vif_without_a_port_says_what_to_do(reason: str, advice: str) -> None:
    answer = explained(None, None, reason=reason, away=("netmgr at 1.2.3.4 can't be reached",))
    assert advice in answer["advice"][0]
    assert "No manager can be asked now (netmgr at 1.2.3.4" in answer["advice"][1]


def test_a_lit_vif_needs_no_advice_and_is_found_by_port_mac_and_beginning() -> None:
    for which in (str(VIF)[:8], "vnet0", P.mac.upper(), "Web1", str(PORT)):
        answer = explained(which=which)
        assert (answer["vif"], answer["state"], answer["advice"]) == (str(VIF), "lit", [])
        assert "port web1" in " ".join(answer["facts"])


def test_a_lit_vif_whose_peers_nobody_has_told_says_so_and_what_to_do() -> None:
    status = VifStatus(vif_uuid=VIF, state=VifState.LIT, ovs_port="vnet0")
    desired = Desired(networks={NETWORK: BLUE}, ports={PORT: P}, locations={PORT: HELD}, unheard={NETWORK: "noon"})
    (answer,) = explain(
        str(VIF), desired=desired, statuses=[status], records={}, missing={}, away=("m can't be reached",)
    )
    (said,) = [one for one in answer["facts"] if "since noon" in one]
    assert said.startswith("Network blue: no manager has been reached since noon, and its ports on other hosts")
    assert answer["advice"] == ["No manager can be asked now (m can't be reached); bring one back."]


@pytest.mark.parametrize(
    ("location", "advice"),
    [
        (replace(HELD, parked=True), "start the guest here, with or without a manager"),
        (ELSEWHERE, f"It runs at host {OTHER}"),
        (replace(ELSEWHERE, parked=True), "Start the guest on any host"),
    ],
)
def test_a_vif_that_is_not_plugged_is_explained_by_the_mapping_table(location: Location, advice: str) -> None:
    record = VifRecord(vif_uuid=VIF, port_uuid=PORT, network_uuid=NETWORK, vm_name="web", ovs_port="vnet3")
    answer = explained(location=location, plugged=False, records={VIF: record})
    assert answer["state"] == "unplugged"
    assert "It was last plugged as vnet3 by VM web." in answer["facts"]
    assert advice in answer["advice"][0]


def test_hosts_are_called_by_their_names_where_those_are_known() -> None:
    moving = replace(ELSEWHERE, holder_vtep="10.0.0.2", incoming_host=HOST, incoming_vtep="10.0.0.1")
    answer = explained(location=moving, plugged=False)
    assert f"Host h2 ({OTHER}) holds the port; it is coming here (version 5)." in answer["facts"]
    assert f"It runs at host h2 ({OTHER})" in answer["advice"][0]


def test_a_guest_that_was_let_in_dark_is_found_by_its_vm_and_told_the_command_that_makes_its_port() -> None:
    mac = "52:54:00:00:00:07"
    record = VifRecord(vif_uuid=VIF, port_uuid=None, network_uuid=NETWORK, mac=mac, vm_name="Web")
    reason = f"VIF {VIF} is attached to no port, and network blue takes only ports made for it"
    for which in ("web", mac):
        answer = explained(None, None, reason=reason, which=which, records={VIF: record})
        assert answer["vif"] == str(VIF)
        assert answer["facts"][:2] == [
            "It is plugged as vnet0 by VM Web.",
            f"libvirt plugged it for network blue, with MAC {mac}.",
        ]
        assert f"netmgr port create NAME --network blue --mac {mac} --vif {VIF}" in answer["advice"][0]


def test_an_endpoint_that_is_missing_says_why() -> None:
    missing: dict[UUID, str] = {VIF: "the network namespace does not exist"}
    assert "the network namespace does not exist" in " ".join(explained(plugged=False, missing=missing)["facts"])


def test_what_nobody_knows_is_said_so() -> None:
    answer = explained(which="ffffffff-0000", away=("it is away",))
    assert answer["state"] == "unknown"
    assert "vif list" in answer["advice"][0]
    assert "it is away" in answer["advice"][1]

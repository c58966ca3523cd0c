"""What copies of frames make the agent say to the manager of a port."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NS, IPv6
from scapy.layers.l2 import ARP, Ether

from hostagent.discovery import Discovery
from hostagent.learning import ADDRESSES_MAX, RIVALS_MAX
from hostagent.model import Desired
from hostagent.names import network_key
from hostagent.pipeline.tables import Table
from netmgr.contract.types import (
    Allowance,
    HostConfig,
    Learned,
    LearnedAddress,
    LearnedMac,
    LearnedSource,
    Location,
    LogicalPort,
)

HOST, PORT, NETWORK = UUID(int=1), UUID(int=2), UUID(int=3)
MAC, BEHIND = "02:00:00:00:00:01", "02:00:00:00:00:07"
V4, V6 = "10.0.0.9", "fd00::9"


class Told:
    """A host that holds one port, and what it has said to its manager; `push` is the manager's answer."""

    def __init__(self, *, ips: tuple[str, ...] = (), allow: tuple[Allowance, ...] = ()) -> None:
        port = LogicalPort(uuid=PORT, name="vm1", network_uuid=NETWORK, mac=MAC, ips=ips, allow=allow)
        location = Location(port_uuid=PORT, network_uuid=NETWORK, holder_host=HOST)
        host = HostConfig(uuid=HOST, name="h1")
        self.desired = Desired(host=host, ports={PORT: port}, locations={PORT: location})
        self.pushed: dict[UUID, Learned] = {}
        self.words: list[Learned] = []
        self.discovery = self.agent()

    def agent(self) -> Discovery:
        """One that has just started."""

        async def count(_: Table) -> dict[str, tuple[()]]:
            return {}

        port_at: Callable[[str, int], UUID | None] = lambda bridge, ofport: PORT  # noqa: E731
        made = Discovery(
            learned=self.pushed, tell=self.words.append, count=count, port_at=port_at, changed=lambda: None
        )
        made.look(self.desired)
        return made

    def push(self, word: Learned) -> None:
        self.pushed[PORT] = word
        self.discovery.look(self.desired)

    def copy(self, table: Table, *frames: bytes) -> list[dict[str, tuple[str, bool]]]:
        """The words that copies of *frames* lead to: addresses, each with its MAC and whether it was probed for."""
        self.words.clear()
        for frame in frames:
            self.discovery.on_frame("br", network_key(NETWORK), table, 7, frame)
        return [{one.address: (one.mac, one.probed) for one in word.addresses} for word in self.words]


def arp(sender: str, target: str, *, mac: str = MAC) -> bytes:
    return bytes(Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=mac, psrc=sender, pdst=target))


PROBE4 = arp("0.0.0.0", V4)
PROBE6 = bytes(Ether(src=MAC, dst="33:33:ff:00:00:09") / IPv6(src="::", dst="ff02::1:ff00:9") / ICMPv6ND_NS(tgt=V6))


@pytest.mark.parametrize("ips", [(), ("10.0.0.1",)], ids=["learns", "defined"])
@pytest.mark.parametrize("table", [Table.CONTEST, Table.RIVAL])
def test_a_probe_for_anothers_address_is_told_once_as_a_probe(table: Table, ips: tuple[str, ...]) -> None:
    host = Told(ips=ips)
    assert host.copy(table, PROBE4, PROBE4) == [{V4: ("", True)}]
    assert host.copy(table, PROBE6) == [{V4: ("", True), V6: ("", True)}]
    assert [one.source for one in host.words[0].addresses] == [LearnedSource.ARP, LearnedSource.ND]


def test_what_the_manager_has_of_a_probe_is_not_said_again_and_outlives_the_agent() -> None:
    host = Told()
    host.copy(Table.CONTEST, PROBE4)
    host.push(host.words[-1])
    host.discovery = host.agent()
    host.discovery.restate()
    assert host.copy(Table.CONTEST, PROBE4) == []
    assert host.copy(Table.CLAIMS, arp("10.0.0.1", "10.0.0.2")) == [{V4: ("", True), "10.0.0.1": ("", False)}]


def test_who_uses_what_it_has_probed_for_is_told_to_use_it() -> None:
    host = Told()
    host.copy(Table.CONTEST, PROBE4)
    host.push(host.words[-1])
    assert host.copy(Table.CLAIMS, arp(V4, V4)) == [{V4: ("", False)}]


def test_who_uses_anothers_address_without_learning_any_is_told_to_use_it_though_it_has_probed() -> None:
    host = Told(ips=("10.0.0.1",))
    host.copy(Table.CONTEST, PROBE4)
    assert host.copy(Table.RIVAL, arp(V4, V4)) == [{V4: ("", False)}]


def test_a_probe_of_a_mac_behind_the_vif_is_told_with_it() -> None:
    host = Told(allow=(Allowance.NESTED,))
    host.push(Learned(port_uuid=PORT, network_uuid=NETWORK, macs=(LearnedMac(mac=BEHIND),)))
    assert host.copy(Table.CONTEST, arp("0.0.0.0", V4, mac=BEHIND)) == [{V4: (BEHIND, True)}]


def test_probes_are_kept_within_the_bound_of_what_is_anothers() -> None:
    host = Told()
    had = LearnedAddress(address="10.0.0.1", source=LearnedSource.ARP)
    host.push(Learned(port_uuid=PORT, network_uuid=NETWORK, addresses=(had,)))
    words = host.copy(Table.CONTEST, *(arp("0.0.0.0", f"10.0.1.{number}") for number in range(1, RIVALS_MAX + 1)))
    assert len(words[-1]) == RIVALS_MAX + 1
    assert not host.discovery.hushed()


CLIENT = bytes.fromhex(MAC.replace(":", ""))
EVERYBODY, SERVER, NEIGHBOUR = "ff:ff:ff:ff:ff:ff", "02:00:00:00:00:02", "02:00:00:00:00:09"


def dhcp(kind: str, *, xid: int, asked: str = "", granted: str = "0.0.0.0", chaddr: bytes = CLIENT) -> bytes:
    ports, source, op = ((67, 68), SERVER, 2) if kind == "ack" else ((68, 67), MAC, 1)
    options = [("message-type", kind), *([("requested_addr", asked)] if asked else []), "end"]
    message = BOOTP(op=op, xid=xid, yiaddr=granted, chaddr=chaddr) / DHCP(options=options)
    return bytes(Ether(src=source, dst=EVERYBODY) / IP() / UDP(sport=ports[0], dport=ports[1]) / message)


def test_a_lease_counts_as_the_answer_to_what_the_guest_has_asked() -> None:
    host = Told()
    assert host.copy(Table.GUARD, dhcp("request", xid=7, asked=V4)) == []
    assert host.copy(Table.LEASES, dhcp("ack", xid=7, granted=V4)) == [{V4: ("", False)}]
    assert [one.source for one in host.words[0].addresses] == [LearnedSource.DHCP]


def test_what_others_have_granted_in_a_guests_name_takes_none_of_its_room() -> None:
    """A server that knows its clients by identifiers repeats whatever MAC a neighbour has written in a request."""
    host = Told()
    host.copy(Table.GUARD, dhcp("request", xid=7, asked=V4))  # a broadcast: the neighbour knows the transaction
    forged = (dhcp("ack", xid=7, granted=f"10.0.1.{number}") for number in range(1, ADDRESSES_MAX + 1))
    assert host.copy(Table.LEASES, *forged) == []
    assert host.copy(Table.LEASES, dhcp("ack", xid=7, granted=V4)) == [{V4: ("", False)}]
    assert host.copy(Table.CLAIMS, arp("10.0.0.1", V4))[-1].keys() == {V4, "10.0.0.1"}
    assert not host.discovery.hushed()


def test_who_asks_in_anothers_name_is_granted_nothing_in_its_own() -> None:
    host = Told()
    other = bytes.fromhex(NEIGHBOUR.replace(":", ""))
    host.copy(Table.GUARD, dhcp("request", xid=7, asked=V4, chaddr=other))
    assert host.copy(Table.LEASES, dhcp("ack", xid=7, granted=V4, chaddr=other)) == []
    assert host.copy(Table.LEASES, dhcp("ack", xid=7, granted=V4)) == []


def test_a_lease_that_a_mac_behind_the_vif_has_asked_for_is_that_macs() -> None:
    host, inner = Told(allow=(Allowance.NESTED,)), bytes.fromhex(BEHIND.replace(":", ""))
    host.push(Learned(port_uuid=PORT, network_uuid=NETWORK, macs=(LearnedMac(mac=BEHIND),)))
    asked = dhcp("request", xid=7, asked=V4, chaddr=inner)
    host.copy(Table.GUARD, asked[:6] + inner + asked[12:])
    assert host.copy(Table.LEASES, dhcp("ack", xid=7, granted=V4, chaddr=inner)) == [{V4: (BEHIND, False)}]

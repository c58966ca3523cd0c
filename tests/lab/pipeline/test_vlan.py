"""Networks on VLANs: three hosts and a physical machine on a physical switch, real vswitchds, real tags."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Raw

from hostagent.model import Phase
from hostagent.names import trunk_port, uplink_bridge
from hostagent.pipeline.tables import Table
from netmgr.contract.types import NestedMac, NetworkType
from tests.lab.pipeline.conftest import SWITCH, mac

pytestmark = pytest.mark.lab

ALL = "ff:ff:ff:ff:ff:ff"
UPLINK = uplink_bridge(("p0",))
PHYSICAL = 0x50  # MAC of the machine on the physical switch


def frame(src: int, dst: int | str = ALL, *tags: Dot1Q) -> bytes:
    head = Ether(src=mac(src), dst=dst if isinstance(dst, str) else mac(dst))
    for tag in tags:
        head /= tag
    return bytes(head / IP(src=f"10.1.0.{src}", dst="10.1.0.2") / UDP(sport=1, dport=2) / Raw(b"x" * 40))


def tagged(src: int, dst: int | str = ALL, vlan: int = 100) -> bytes:
    return frame(src, dst, Dot1Q(vlan=vlan))


class Street:
    """The fabric, and machines that are plugged into the physical switch: `m100`, `m200`, `mtrunk`."""

    def __init__(self, fabric) -> None:  # type: ignore[no-untyped-def]
        self.fabric = fabric
        for vlan in (100, 200):
            self.fabric.underlay.add_port("under", f"m{vlan}")
            self.fabric.underlay.vsctl("set", "Port", f"m{vlan}", f"tag={vlan}")
        self.fabric.underlay.add_port("under", "mtrunk")
        self.forget()

    def forget(self) -> None:
        """All learning switches begin anew: MACs of an earlier test lived elsewhere."""
        for switch in (self.fabric.underlay, *(host.switch for host in self.fabric.hosts.values())):
            switch.appctl("fdb/flush")
            switch.appctl("revalidator/purge")  # a cached flow teaches half a second late

    def say(self, machine: str, *frames: bytes) -> None:
        self.fabric.underlay.receive(machine, *frames)

    def hear(self, machine: str) -> list[bytes]:
        return self.fabric.underlay.sent(machine)


@pytest.fixture
def street(fabric):
    made = Street(fabric)
    yield made
    for machine in ("m100", "m200", "mtrunk"):
        fabric.underlay.vsctl("del-port", machine)


@pytest.fixture
def office(fabric, street):
    """Network n on VLAN 100: ports 1 and 2 on h1, 3 on h2, 4 on h3; network o on VLAN 200: port 3 on h1, 5 on h2."""
    fabric.network("n", 100, NetworkType.VLAN)
    fabric.network("o", 200, NetworkType.VLAN)
    for name, number, host in (("a", 1, "h1"), ("b", 2, "h1"), ("c", 3, "h2"), ("d", 4, "h3")):
        fabric.port(name, number, "n", host, ips=(f"10.1.0.{number}",))
    fabric.port("o1", 3, "o", "h1")
    fabric.port("o2", 5, "o", "h2")
    fabric.settle()
    return fabric


def test_a_frame_leaves_with_the_vlan_of_its_network_and_arrives_without(office, street):
    office.say("a", "h1", frame(1, 3))
    assert office.hosts["h1"].switch.sent("p0") == [tagged(1, 3)]
    assert office.hear("c", "h2") == [frame(1, 3)]
    assert office.hear("d", "h3") == [], "the physical switch floods; the host knows that it is not for it"
    assert office.hear("b", "h1") == []
    assert office.crossed("h2") == office.crossed("h3") == 0


def test_a_broadcast_reaches_taps_machines_and_one_copy_the_wire(office, street):
    office.say("a", "h1", frame(1))
    for name, host in (("b", "h1"), ("c", "h2"), ("d", "h3")):
        assert office.hear(name, host) == [frame(1)], name
    assert office.hear("a", "h1") == []
    assert street.hear("m100") == [frame(1)]
    assert street.hear("m200") == []
    assert (office.crossed("h1"), office.crossed("h2"), office.crossed("h3")) == (1, 0, 0)


def test_frames_between_ports_of_one_host_do_not_leave_it(office, street):
    office.say("a", "h1", frame(1, 2))
    assert office.hear("b", "h1") == [frame(1, 2)]
    assert office.crossed("h1") == 0


def test_a_machine_on_the_vlan_is_a_member_of_the_network(office, street):
    street.say("m100", frame(PHYSICAL))
    for name, host in (("a", "h1"), ("b", "h1"), ("c", "h2"), ("d", "h3")):
        assert office.hear(name, host) == [frame(PHYSICAL)], name
    assert office.hear("o1", "h1") == office.hear("o2", "h2") == []
    office.say("a", "h1", frame(1, PHYSICAL))
    assert street.hear("m100") == [frame(1, PHYSICAL)]
    assert office.hear("b", "h1") == [], "what is for a machine is no other guest's business"
    street.say("m100", frame(PHYSICAL, 1))
    assert office.hear("a", "h1") == [frame(PHYSICAL, 1)]


def test_a_frame_of_the_uplink_never_goes_back_to_it(office, street):
    for dst in (ALL, 1, 3, 0x77):
        street.say("m100", frame(PHYSICAL, dst))
    assert [office.crossed(host) for host in office.hosts] == [0, 0, 0]
    assert ("", "frame of the uplink for no port of this host") in office.drops("h3")


def test_unknown_unicast_of_the_uplink_is_not_given_to_guests(office, street):
    street.say("m100", frame(PHYSICAL, 0x77))
    assert [office.hear(name, host) for name, host in (("a", "h1"), ("c", "h2"))] == [[], []]


def test_nobody_on_the_uplink_speaks_for_a_port_of_this_host(office, street):
    street.say("m100", frame(1, 2), frame(1))
    assert office.hear("a", "h1") == office.hear("b", "h1") == []
    assert office.hear("c", "h2") == [frame(1)], "h2 cannot know where the port of h1 speaks from"
    why = "source MAC from the uplink is that of a port on this host"
    assert office.drops("h1")["", why] >= 1


def test_nobody_on_a_vlan_is_heard_where_tunnels_end(office, street):
    """Open vSwitch in user space learns the MACs of tunnel peers from ARP that it carries to LOCAL, tagged or not."""
    h1 = office.hosts["h1"].switch
    local = h1.vsctl("get", "Interface", UPLINK, "mac_in_use").strip().strip('"')
    before = h1.appctl("tnl/neigh/show")
    for number, say in (
        (3, lambda lie: office.say("o1", "h1", lie)),
        (PHYSICAL, lambda lie: street.say("mtrunk", lie)),
    ):
        for to in (local, ALL):
            lie = Ether(src=mac(number), dst=to)
            if number == PHYSICAL:
                lie /= Dot1Q(vlan=300)
            say(bytes(lie / ARP(op=2, hwsrc=mac(number), psrc="10.0.0.2", hwdst=local, pdst="10.0.0.1")))
    office.crossed("h1")
    assert h1.appctl("tnl/neigh/show") == before


def test_what_has_no_tag_or_another_stays_outside(office, street):
    street.say("mtrunk", frame(PHYSICAL), tagged(PHYSICAL, vlan=300), frame(PHYSICAL, ALL, Dot1Q(vlan=0, prio=3)))
    assert office.hear("a", "h1") == office.hear("o1", "h1") == []


@pytest.mark.parametrize("inner", [Dot1Q(vlan=5), Dot1Q(vlan=200), Dot1AD(vlan=5), Dot1Q(vlan=0)])
def test_a_tag_within_the_tag_is_dropped(office, street, inner):
    street.say("mtrunk", tagged(PHYSICAL))
    assert len(office.hear("a", "h1")) == 1
    street.say("mtrunk", frame(PHYSICAL, ALL, Dot1Q(vlan=100), inner))
    assert office.hear("a", "h1") == office.hear("o1", "h1") == []
    why = "VLAN tag within the VLAN tag"
    assert office.drops("h1")["", why] >= 1


@pytest.mark.parametrize("vlan", [0, 100, 200])
def test_guests_choose_no_vlan(office, street, vlan):
    office.say("a", "h1", frame(1, ALL, Dot1Q(vlan=vlan)))
    assert office.crossed("h1") == 0
    assert office.hear("b", "h1") == office.hear("o1", "h1") == []


def test_networks_in_tunnels_and_on_vlans_never_meet(office, street):
    office.network("t", 100, NetworkType.VXLAN)
    office.port("t1", 1, "t", "h2")
    office.port("t2", 4, "t", "h1")
    office.settle()
    office.say("a", "h1", frame(1), frame(1, 4))
    assert office.hear("t1", "h2") == office.hear("t2", "h1") == []
    office.say("t2", "h1", frame(4), frame(4, 1))
    assert len(office.hear("t1", "h2")) == 2
    assert office.hear("a", "h1") == []
    assert street.hear("m100") == [frame(1), frame(1, 4)], "not yet learned, so flooded by the physical switch"


def test_known_addresses_are_answered_on_the_askers_host_and_unknown_ones_asked_of_all(office, street):
    def ask(target: str) -> bytes:
        arp = ARP(hwsrc=mac(1), psrc="10.1.0.1", pdst=target)
        return bytes(Ether(src=mac(1), dst=ALL) / arp / Raw(b"\0" * 18))

    office.say("a", "h1", ask("10.1.0.3"))
    (answer,) = office.hear("a", "h1")
    assert Ether(answer)[ARP].hwsrc == mac(3)
    assert office.crossed("h1") == 0
    office.say("a", "h1", ask("10.1.0.200"))
    assert street.hear("m100") == [ask("10.1.0.200")]


def test_a_source_spoofed_by_a_guest_does_not_reach_the_wire(office, street):
    office.say("a", "h1", frame(9), frame(PHYSICAL, 3))
    assert office.crossed("h1") == 0


def test_who_uses_the_mac_of_another_port_is_seen_wherever_that_is(office, street):
    office.port("e", 6, "n", "h2", nested=(NestedMac(mac=mac(7)),))
    office.settle()
    host = office.hosts["h1"]
    host.signals.clear()
    office.watch("h1", [("a", "h1", frame(number)) for number in (2, 3, 4, 5, 6, 7, 9, PHYSICAL)])
    assert {signal[1] for signal in host.signals} == {Table.RIVAL}
    seen = [signal[3][6:12].hex(":") for signal in host.signals]
    assert seen == [mac(number) for number in (2, 3, 4, 6, 7)], "5 is of another network, 9 and the machine of none"
    assert office.crossed("h1") == 0


def test_ports_that_are_dark_hear_nothing_of_the_uplink(office, street):
    office.relocate("a", parked=True)
    office.settle("h1")
    street.say("m100", frame(PHYSICAL, 1), frame(PHYSICAL))
    assert office.hear("a", "h1") == []
    assert office.hear("b", "h1") == [frame(PHYSICAL)]
    office.say("b", "h1", frame(2, 1))
    assert office.crossed("h1") == 0, "a parked port of this host is not looked for elsewhere"


def test_macs_behind_a_port_are_its_own_on_the_vlan_too(office, street):
    office.port("host", 6, "n", "h1", nested=(NestedMac(mac=mac(61), ips=("10.1.0.61",)),))
    office.settle()
    office.say("host", "h1", frame(61))
    assert street.hear("m100") == [frame(61)]
    street.say("m100", frame(PHYSICAL, 61), frame(61, 2))
    assert office.hear("host", "h1") == [frame(PHYSICAL, 61)]
    assert frame(61, 2) not in office.hear("b", "h1"), "nobody on the uplink speaks for it"


# --- migrations: a moves from h1 to h2 ------------------------------------------------------------------------------


RARP = bytes(Ether(src=mac(1), dst=ALL, type=0x8035) / ARP(ptype=0x0800, op=3, hwsrc=mac(1), hwdst=mac(1)))


@pytest.fixture
def moving(office, street):
    """The physical switch knows a on h1; its tap is plugged on h2 too, and the grant is known."""
    office.plug("a", "h2")
    office.relocate("a", incoming="h2")
    office.settle()
    office.say("a", "h1", frame(1))
    for name, host in (("b", "h1"), ("c", "h2"), ("d", "h3")):
        office.hear(name, host)
    street.hear("m100")
    return office


def everyone(moving, street):
    """A frame to a from a port on each host, and from the machine."""
    moving.say("b", "h1", frame(2, 1))
    moving.say("c", "h2", frame(3, 1))
    moving.say("d", "h3", frame(4, 1))
    street.say("m100", frame(PHYSICAL, 1))
    return sorted([frame(2, 1), frame(3, 1), frame(4, 1), frame(PHYSICAL, 1)])


def test_before_the_pause_the_source_has_it_all(moving, street):
    sent = everyone(moving, street)
    assert sorted(moving.hear("a", "h1")) == sent
    assert moving.hear("a", "h2") == []
    street.say("m100", frame(PHYSICAL))
    assert moving.hear("a", "h2") == [], "its tap would keep it, and the guest answer late"


def test_between_pause_and_first_frame_nobody_is_served_and_nothing_circles(moving, street):
    moving.phase("h1", "a", Phase.REDIRECTING)
    moving.settle("h1")
    for host in moving.hosts:
        moving.crossed(host)
    everyone(moving, street)
    assert moving.hear("a", "h1") == moving.hear("a", "h2") == []
    assert [moving.crossed(host) for host in moving.hosts] == [0, 1, 1], "h1's uplink bridge knows a as its own still"


def test_from_its_first_frame_on_the_guest_is_served_from_everywhere_though_no_agent_has_heard(moving, street):
    """QEMU's RARP teaches the physical switch and the uplink bridges; neither managers nor agents are waited for."""
    moving.phase("h1", "a", Phase.REDIRECTING)
    moving.settle("h1")
    moving.watch("h2", [("a", "h2", RARP)])
    assert moving.hosts["h2"].signals, "and it is the signal that lights the port"
    assert street.hear("m100") == moving.hear("b", "h1") == [RARP]
    moving.hear("a", "h1")
    moving.phase("h2", "a", Phase.ACTIVATED)
    moving.settle("h2")
    sent = everyone(moving, street)
    assert sorted(moving.hear("a", "h2")) == sent
    assert moving.hear("a", "h1") == []


def test_after_the_move_the_old_holder_neither_claims_nor_keeps(moving, street):
    moving.relocate("a", holder="h2", incoming=None)
    moving.phase("h1", "a", Phase.RELAYING, relay="h2")
    moving.phase("h2", "a", Phase.ACTIVATED, relay="h1")
    moving.settle()
    moving.say("a", "h2", frame(1))
    assert moving.hear("b", "h1") == [frame(1)]
    assert moving.hear("a", "h1") == []
    sent = everyone(moving, street)
    assert sorted(moving.hear("a", "h2")) == sent


def test_a_failed_move_leaves_the_source_as_it_was(moving, street):
    moving.phase("h1", "a", Phase.REDIRECTING)
    moving.settle("h1")
    moving.relocate("a", incoming=None)
    moving.hosts["h1"].phases.clear()
    moving.settle()
    assert sorted(moving.hear("a", "h1")) == []
    sent = everyone(moving, street)
    assert sorted(moving.hear("a", "h1")) == sent
    moving.say("a", "h2", frame(1))
    assert moving.hear("c", "h2") == []


def test_a_move_is_not_held_up_by_what_an_uplink_bridge_has_learned(moving, street):
    """h1's uplink bridge knows a behind its own trunk; the first frame that comes from outside moves it."""
    fdb = moving.hosts["h1"].switch.appctl("fdb/show", UPLINK)
    ports = moving.hosts["h1"].switch.ofctl("show", UPLINK)
    number = next(line.split("(")[0].strip() for line in ports.splitlines() if trunk_port(SWITCH.uuid) in line)
    assert [line.split()[0] for line in fdb.splitlines() if mac(1) in line] == [number]
    moving.phase("h1", "a", Phase.REDIRECTING)
    moving.settle("h1")
    moving.say("a", "h2", RARP)
    assert moving.hear("b", "h1") == [RARP]
    fdb = moving.hosts["h1"].switch.appctl("fdb/show", UPLINK)
    assert [line.split()[0] for line in fdb.splitlines() if mac(1) in line] != [number]

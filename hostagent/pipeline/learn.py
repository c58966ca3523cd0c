"""Which frames tell the agent what addresses a port without defined ones has: ARP, ND and DHCP.

CLAIMS, for one port without defined addresses; of one with some, for link-local ones. GUARD has found the frame honest
about its MAC and asked BINDING whose the claimed address is, and MADE, as a link-local one that is made of another MAC
is somebody's, seen or not. Then

- *nobody's*: a copy to the agent, which learns it; the frame goes on. Probes and duplicate address detection name no
  sender yet (0.0.0.0, `::`) and are not copied here (`tables`).
- *its own*: the frame goes on, uncopied. So an address costs copies until the network manager has said whose it is, a
  few milliseconds, and none after. Each learned address of the port has a flow of its own here, whose counter tells
  the agent that the guest still uses it.
- *another port's*: the frame is dropped, and copied, so that both ports can be told of the collision.

LEASES, for one network: what DHCP servers say to clients, wherever it came from, is copied, once for all ports of the
host; it has passed the guard of a port that may say it. What a guest says to the server is copied in its GUARD: only
what it was seen to ask for can be granted it, and it may give its address up. All of it goes on.

A port that is allowed further MACs has frames of those that are not known dropped and copied (`unknown_flows`): the
manager may say that the MAC is the port's, and then it has flows as the port's own MAC does. Nothing of it passes
before.

What a guest must not say is dropped by GUARD. Where it names another port's MAC or address (RIVAL), it is copied on the
way, so that both ports can be told. Of MACs elsewhere on a VLAN nothing is known here, and nothing copied. A probe for
an address that is another port's is copied as well: where it is answered, by CONTEST (`answer`), or by RIVAL, where a
port with defined addresses may not even ask.

A port or network that is hushed has no copies made at all (`learning`). Copies go over the bridge's management
connection, of which Open vSwitch queues at most 100 while nobody reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from hostagent.flow import Action, Controller, Drop, Flow, Goto, Match, SetField, canonical, match
from hostagent.pipeline.icmpv6 import Icmpv6, icmpv6
from hostagent.pipeline.tables import ADDRESS4, ADDRESS6, OWNER_MAC, REASON, RIVAL_BYTES, UNTAGGED, Denied, Table

__all__ = [
    "another_flow",
    "claim_flows",
    "claimed_address",
    "lease_flows",
    "link_local_flows",
    "rival_flows",
    "source_of",
    "unknown_flows",
]

_COPY_BYTES = 128
_ONE_STATION = Match("eth_src", 0, 1 << 40)  # a group can't be a source
_DHCP_BYTES = 1514

Address = tuple[int, int]
"""IP version and number."""


def claim_flows(
    *, ofport: int, mac: int, learned: tuple[Address, ...], hushed: bool, cookie: int, several: bool = False
) -> Iterator[Flow]:
    """What becomes of the claims of *mac* at *ofport*; *learned* are the addresses that are its own by now.

    With *several* MACs behind the VIF, an address that another of these claims is copied, and goes on: it may change
    from one to the other.
    """

    def row(priority: int, conditions: tuple[Match, ...], *actions: Action, table: Table = Table.CLAIMS) -> Flow:
        items = canonical([Match("in_port", ofport), *conditions])
        return Flow(table=table, priority=priority, cookie=cookie, match=items, actions=actions)

    onward = Goto(Table.SIGNAL)
    copy = Controller(_COPY_BYTES)
    yield from _in_use(ofport, mac, learned, cookie)
    yield row(120, (Match("eth_src", mac), Match(OWNER_MAC, mac)), onward)
    if several:
        yield row(115, (Match(OWNER_MAC, mac),), *(() if hushed else (copy,)), onward)
    if hushed:
        return
    yield row(100, (Match(OWNER_MAC, 0),), copy, onward)
    for why, message in (
        (Denied.ARP, match(eth_type=0x0806)),
        (Denied.ND, icmpv6(Icmpv6.SOLICITATION)),
        (Denied.ND, icmpv6(Icmpv6.ADVERTISEMENT)),
    ):
        yield row(85, message, copy, SetField(REASON, why), Goto(Table.DROPPED))
    for to_server in (
        match(eth_type=0x0800, nw_proto=17, udp_src=68, udp_dst=67),
        match(eth_type=0x86DD, nw_proto=17, udp_src=546, udp_dst=547),
    ):
        honest = (Match("eth_src", mac), UNTAGGED, *to_server)
        yield row(100, honest, Controller(_DHCP_BYTES), onward, table=Table.GUARD)


def link_local_flows(
    *, ofport: int, mac: int, learned: tuple[Address, ...], hushed: bool, cookie: int
) -> Iterator[Flow]:
    """The same of *mac* with defined addresses. It learns link-local ones, and claims no others: GUARD and SOURCES see
    to that, and have the other flows of CLAIMS."""
    yield from _in_use(ofport, mac, learned, cookie)
    for kind in (Icmpv6.SOLICITATION, Icmpv6.ADVERTISEMENT) if not hushed else ():
        items = canonical([Match("in_port", ofport), Match("eth_src", mac), Match(OWNER_MAC, 0), *icmpv6(kind)])
        actions = (Controller(_COPY_BYTES), Goto(Table.SIGNAL))
        yield Flow(table=Table.CLAIMS, priority=100, cookie=cookie, match=items, actions=actions)


def _in_use(ofport: int, mac: int, learned: tuple[Address, ...], cookie: int) -> Iterator[Flow]:
    """What is known to be its own, each by itself: the counter tells that it is used (`claimed_address`)."""
    for version, number in learned:
        address = (Match(ADDRESS4, number),) if version == 4 else (Match(ADDRESS4, 0), Match(ADDRESS6, number))
        own = canonical([Match("in_port", ofport), Match("eth_src", mac), Match(OWNER_MAC, mac), *address])
        yield Flow(table=Table.CLAIMS, priority=130, cookie=cookie, match=own, actions=(Goto(Table.SIGNAL),))


def unknown_flows(*, ofport: int, cookie: int) -> Iterator[Flow]:
    """Frames of MACs that are not known behind the port at *ofport*: dropped, and copied to the agent.

    They stand above the drops that all ports have, with the same reasons, and below what is let through.
    """
    for priority, why, conditions in (
        (91, Denied.ARP, match(eth_type=0x0806)),
        (91, Denied.ARP, match(eth_type=0x8035)),
        (91, Denied.ND, icmpv6(Icmpv6.SOLICITATION)),
        (91, Denied.ND, icmpv6(Icmpv6.ADVERTISEMENT)),
        (1, Denied.MAC, ()),
    ):
        items = canonical([Match("in_port", ofport), UNTAGGED, _ONE_STATION, *conditions])
        actions = (Controller(_COPY_BYTES), SetField(REASON, why), Goto(Table.DROPPED))
        yield Flow(table=Table.GUARD, priority=priority, cookie=cookie, match=items, actions=actions)


def another_flow(*, mac: int, network: int) -> Flow:
    """RIVAL: *mac* is another port's, and LOCATE does not know it."""
    another = canonical([Match("metadata", network), Match(REASON, Denied.MAC), Match("eth_src", mac)])
    copied = (Controller(RIVAL_BYTES), Goto(Table.DROPPED))
    return Flow(table=Table.RIVAL, priority=100, cookie=network, match=another, actions=copied)


@lru_cache(maxsize=4096)
def rival_flows(*, ofport: int, mac: int, hushed: bool, network: int) -> tuple[Flow, ...]:
    """RIVAL: what others of *network* say with *mac* is copied (`another_flow`), unless they are *hushed* themselves.

    The flows that keep a hushed port's from being copied, in CONTEST too, are the port's, whatever the number of its
    MACs: the same each time.
    """
    counted, flow = Goto(Table.DROPPED), another_flow(mac=mac, network=network)
    if not hushed:
        return (flow,)
    its = canonical([Match("in_port", ofport)])
    return (
        flow,
        Flow(table=Table.RIVAL, priority=110, cookie=network, match=its, actions=(counted,)),
        Flow(table=Table.CONTEST, priority=100, cookie=network, match=its, actions=Drop),
    )


def lease_flows(key: int) -> Iterator[Flow]:
    """A copy of what the DHCP servers of network *key* say to clients."""
    for to_client in (
        match(eth_type=0x0800, nw_proto=17, udp_dst=68),
        match(eth_type=0x86DD, nw_proto=17, udp_dst=546),
    ):
        items = canonical([Match("metadata", key), *to_client])
        actions = (Controller(_DHCP_BYTES), Goto(Table.FORWARD))
        yield Flow(table=Table.LEASES, priority=100, cookie=key, match=items, actions=actions)


def claimed_address(flow: Flow) -> tuple[int, Address] | None:
    """The port number and address of a flow that counts the use of a learned address; None for every other."""
    if flow.table != Table.CLAIMS or flow.priority != 130:
        return None
    values = {item.field: item.value for item in flow.match if isinstance(item, Match)}
    if values[ADDRESS4]:
        return values["in_port"], (4, values[ADDRESS4])
    parts = (values.get(f"reg{index}", 0) for index in range(8, 12))
    number = 0
    for part in parts:
        number = number << 32 | part
    return values["in_port"], (6, number)


def source_of(flow: Flow) -> tuple[int, int] | None:
    """The port number and source MAC of a flow of GUARD that lets frames of that MAC through; None for every other."""
    if flow.table != Table.GUARD:
        return None
    values = {item.field: item.value for item in flow.match if isinstance(item, Match) and item.mask is None}
    return (values["in_port"], values["eth_src"]) if "in_port" in values and "eth_src" in values else None

"""Who has this address? The flows that answer a VIF's ARP request or neighbour solicitation on its own host.

BINDING knows the MAC of every address whose port is live: one flow an address. ANSWER asks it for what a VIF wants to
know; REPLY turns the question into the owner's answer and sends it back to where it came from, and nowhere else. So the
underlay sees no question whose answer is known, and no answer can be forged. What is not known goes on to FORWARD, and
is flooded as ever. An answer says the MAC only, never the place, so it is as true during a migration as before.

- A port is not answered when it asks for an address of its own: announcements and duplicate address detection (RFC
  5227, RFC 4862) must reach others, and must not seem to collide. For an address of another port they are answered,
  that is, told of the collision; the guest that probed gives up, and says no more. So the probe is copied to the agent
  (CONTEST), for both ports to show it. Probes for what is nobody's have no copy.
- An address that several live ports have (a floating one, or an error) belongs to whoever announced it last, which
  only the guests know: it is not answered here. Neither is a prefix.
- Questions sent to one MAC are answered like broadcast ones: a live binding is a better witness than a cache.
- Of a port that is allowed to be a router nobody else answers a solicitation. An advertisement says whether its sender
  is a router, and who hears that one is none any more forgets it as default router (RFC 4861, 7.2.5); only the guest
  knows what it is. So the solicitation goes to it alone; it costs two flows a MAC. ARP says no such thing.

An ND answer takes two stages, because the switch writes the target option only into what already is an advertisement
(its type is set in REPLY, its option in ADVERTISE). The option is the question's, turned around; the one question that
has none and still deserves an answer is duplicate address detection, from `::`, whose answer goes to all nodes and is
not a solicited one (RFC 4861, 7.2.4). Without option from elsewhere it is left to the owner.

The kernel's datapath writes neither flags nor type of option into neighbour discovery, and Open vSwitch refuses flows
that ask it to. There a solicitation whose answer is known gets the owner's MAC as its destination and goes to
SOLICITED: to the agent, which makes the answer of it (`advertisement`), as long as it says that it attends. Else it is
sent to the owner alone, who answers it: nothing is flooded (RFC 6085 lets a multicast IPv6 packet go to a unicast MAC).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from ipaddress import ip_interface

from hostagent.flow import IN_PORT, Action, Flow, Goto, Match, Move, Output, Resubmit, SetField, canonical, match
from hostagent.flow import address_of as to_int
from hostagent.pipeline.icmpv6 import (
    ALL_NODES,
    ALL_NODES_MAC,
    OVERRIDE,
    SOLICITED,
    TARGET_OPTION,
    Icmpv6,
    neighbour_discovery,
)
from hostagent.pipeline.tables import ADDRESS4, ADDRESS6, OWNER_MAC, Table

__all__ = ["Address", "answer_flows", "binding", "left_to_owner", "single_addresses"]

_ARP_REQUEST = match(eth_type=0x0806, arp_op=1)
_SOLICITATION = neighbour_discovery(Icmpv6.SOLICITATION)
_ADVERTISEMENT = neighbour_discovery(Icmpv6.ADVERTISEMENT)
_PROBE = (*_SOLICITATION, *match(ipv6_src="::"))
_CONTEST = Resubmit(Table.CONTEST)
_FOR_OWNER = Move(OWNER_MAC, "eth_dst", 48)
_TO_OWNER = (_FOR_OWNER, Goto(Table.FORWARD))
_TO_AGENT = (_FOR_OWNER, Goto(Table.SOLICITED))

Address = tuple[int, int]
"""IP version and number."""


def answer_flows(
    key: int,
    defined: Iterable[tuple[int, tuple[Address, ...]]],
    learned: Iterable[tuple[int, tuple[Address, ...]]] = (),
    *,
    writes_nd: bool,
    routers: Collection[int] = (),
    others: bool = False,
) -> Iterator[Flow]:
    """The flows of network *key*: MACs of its live ports and their addresses. A learned one yields to a defined one.

    *writes_nd*: the datapath can turn a solicitation into an advertisement. *routers*: MACs that may be a router's.
    *others*: there are bindings beside these.
    """
    owners: dict[Address, int] = {}
    shared: set[Address] = set()
    for mac, addresses in defined:
        for address in addresses:
            if owners.setdefault(address, mac) != mac:
                shared.add(address)
    for mac, addresses in learned:
        for address in addresses:
            owners.setdefault(address, mac)
    for (version, number), mac in owners.items():
        if (version, number) not in shared:
            yield _binding(key, version, number, mac)
    if routers:
        solicited = {mac for address, mac in owners.items() if address[0] == 6 and address not in shared}
        for mac in solicited.intersection(routers):
            yield from left_to_owner(key, mac)
    if others or len(owners) > len(shared):
        yield from _responder(key, writes_nd)


@lru_cache(maxsize=1 << 10)
def single_addresses(ips: tuple[str, ...]) -> tuple[Address, ...]:
    """Those of *ips* that are one address and not a prefix; `10.0.0.5/24` is one."""
    found = []
    for text in ips:
        if "/" not in text:
            found.append((6 if ":" in text else 4, to_int(text)))
            continue
        interface = ip_interface(text)
        network = interface.network
        if network.prefixlen == network.max_prefixlen or interface.ip != network.network_address:
            found.append((interface.version, int(interface.ip)))
    return tuple(found)


def binding(key: int, version: int, number: int, mac: int) -> Flow:
    """BINDING: the address is of *mac*. Built in canonical order by hand: there are as many as there are addresses."""
    if version == 4:
        question: tuple[Match, ...] = (_network(key), Match(ADDRESS4, number))
    else:
        parts = (Match(f"reg{8 + index}", number >> 96 - 32 * index & 0xFFFFFFFF) for index in range(4))
        question = (_network(key), Match(ADDRESS4, 0), *parts)
    return Flow(table=Table.BINDING, priority=100, cookie=key, match=question, actions=(SetField(OWNER_MAC, mac),))


_binding = lru_cache(maxsize=1 << 12)(binding)


def left_to_owner(key: int, mac: int) -> tuple[Flow, Flow]:
    """REPLY: who solicits an address of *mac*, or probes for it, is heard by its owner alone, on any datapath."""
    asked = (_network(key), Match(OWNER_MAC, mac))
    probes, solicits = (canonical([*asked, *message]) for message in (_PROBE, _SOLICITATION))
    return (
        Flow(table=Table.REPLY, priority=110, cookie=key, match=probes, actions=(_CONTEST, *_TO_OWNER)),
        Flow(table=Table.REPLY, priority=105, cookie=key, match=solicits, actions=_TO_OWNER),
    )


@lru_cache(maxsize=4096)
def _network(key: int) -> Match:
    return Match("metadata", key)


@lru_cache(maxsize=4096)
def _responder(key: int, writes_nd: bool) -> tuple[Flow, ...]:
    return tuple(_responder_rows(key, writes_nd))


def _responder_rows(key: int, writes_nd: bool) -> Iterator[Flow]:
    def row(table: Table, priority: int, conditions: tuple[Match, ...], *actions: Action) -> Flow:
        items = canonical([Match("metadata", key), *conditions])
        return Flow(table=table, priority=priority, cookie=key, match=items, actions=actions)

    ask = (SetField(OWNER_MAC, 0), Resubmit(Table.BINDING), Goto(Table.REPLY))
    yield row(Table.ANSWER, 100, _ARP_REQUEST, Move("arp_tpa", ADDRESS4, 32), *ask)
    yield row(Table.ANSWER, 100, _SOLICITATION, SetField(ADDRESS4, 0), Move("nd_target", ADDRESS6, 128), *ask)
    arp_answer = (
        Move("eth_src", "eth_dst", 48),
        Move(OWNER_MAC, "eth_src", 48),
        SetField("arp_op", 2),
        Move("arp_sha", "arp_tha", 48),
        Move("arp_spa", "arp_tpa", 32),
        Move(OWNER_MAC, "arp_sha", 48),
        Move(ADDRESS4, "arp_spa", 32),
        Output(IN_PORT),
    )
    yield row(Table.REPLY, 105, (*_ARP_REQUEST, *match(arp_spa=0)), _CONTEST, *arp_answer)
    yield row(Table.REPLY, 100, _ARP_REQUEST, *arp_answer)
    if not writes_nd:
        yield row(Table.REPLY, 102, _PROBE, _CONTEST, *_TO_AGENT)
        yield row(Table.REPLY, 100, _SOLICITATION, *_TO_AGENT)
        return
    from_owner = (
        Move(OWNER_MAC, "eth_src", 48),
        Move(ADDRESS6, "ipv6_src", 128),
        SetField("icmpv6_type", Icmpv6.ADVERTISEMENT),
    )
    yield row(
        Table.REPLY,
        100,
        _PROBE,
        _CONTEST,
        SetField("eth_dst", ALL_NODES_MAC),
        SetField("ipv6_dst", to_int(ALL_NODES)),
        *from_owner,
        SetField("nd_reserved", OVERRIDE),
        Goto(Table.ADVERTISE),
    )
    yield row(Table.REPLY, 95, neighbour_discovery(Icmpv6.SOLICITATION, nd_sll=0), Goto(Table.FORWARD))
    yield row(
        Table.REPLY,
        90,
        _SOLICITATION,
        Move("eth_src", "eth_dst", 48),
        Move("ipv6_src", "ipv6_dst", 128),
        *from_owner,
        SetField("nd_reserved", SOLICITED | OVERRIDE),
        SetField("nd_options_type", TARGET_OPTION),
        Goto(Table.ADVERTISE),
    )
    yield row(Table.ADVERTISE, 100, (*_ADVERTISEMENT, *match(ipv6_dst=ALL_NODES)), Output(IN_PORT))
    yield row(Table.ADVERTISE, 90, _ADVERTISEMENT, Move(OWNER_MAC, "nd_tll", 48), Output(IN_PORT))

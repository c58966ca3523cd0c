"""What a VIF may send: the flows of GUARD and SOURCES for one MAC of a port, and the counters of what it may not.

A port has one MAC, unless it is allowed others behind its VIF; each is held to its own addresses, like a port of its
own. GUARD holds a VIF to its MACs, to untagged frames, and to the truth where a protocol repeats who it is: ARP's
sender (probes with sender address 0 included), RARP's (QEMU announces a guest with it), the link-layer options of
neighbour solicitations and advertisements (RFC 4861), and the target of advertisements. SOURCES, for a port with
defined addresses, holds IP to them: besides these only DHCP from 0.0.0.0 to broadcast, link-local IPv6, and what RFC
4862 and RFC 3810 send from `::`: duplicate address detection for an own address, router solicitations, MLDv2 reports.
Link-local addresses are made by guests, in more ways than one, so a port may use any that is not bound to another, and
they are learned; the one that is made of its MAC (EUI-64) is its own, whoever claims it, and nobody else's (MADE).
What is neither ARP nor IP passes with the right MAC.

A port without defined addresses may use any but those that are bound to another port, be it to claim them in ARP or ND
(CLAIMS, see `learn`) or as IP source (SOURCES): security groups know their members by these. Only one that is allowed
to be a router sends what others have sent it. What no VIF may say, whatever its addresses, is in `tables`; a port that
is allowed to be a DHCP server or a router may say its part of that, from its own MAC and, if it has any, from its own
addresses.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network

from hostagent.flow import Action, Drop, Flow, Goto, Match, Move, Resubmit, SetField, canonical, mac_to_int, match
from hostagent.pipeline.icmpv6 import Icmpv6, icmpv6, neighbour_discovery
from hostagent.pipeline.tables import (
    ADDRESS4,
    ADDRESS6,
    OF_GROUPS,
    OWNER_MAC,
    REASON,
    RESERVED,
    UNTAGGED,
    Denied,
    Table,
)
from netmgr.contract.link_local import made_of
from netmgr.contract.types import Allowance

__all__ = ["guard_flows"]

_LINK_LOCAL = IPv6Network("fe80::/10")


@lru_cache(maxsize=4096)
def guard_flows(
    *, ofport: int, mac: str, ips: tuple[str, ...], cookie: int, allow: tuple[Allowance, ...] = ()
) -> frozenset[Flow]:
    """All that *mac*, one of those behind the port at *ofport*, may send; *ips* empty allows any address, *allow* what
    only some may say."""
    number = mac_to_int(mac)
    flows = [*_guard(ofport, number, ips, cookie, allow), *_counters(ofport, cookie)]
    if ips:
        flows += _sources(ofport, number, ips, cookie)
    elif Allowance.ROUTER not in allow:
        flows += _unbound_sources(ofport, number, cookie)
    made = canonical([Match("in_port", ofport), Match(OWNER_MAC, 0), Match(ADDRESS6, int(made_of(number)))])
    flows.append(Flow(table=Table.MADE, priority=110, cookie=cookie, match=made, actions=Drop))  # nobody else's
    # asked for an address of its own, nobody answers a port
    own = canonical([Match("in_port", ofport), Match(OWNER_MAC, number)])
    flows.append(Flow(table=Table.REPLY, priority=120, cookie=cookie, match=own, actions=(Goto(Table.FORWARD),)))
    return frozenset(flows)


def _guard(ofport: int, mac: int, ips: tuple[str, ...], cookie: int, allow: tuple[Allowance, ...]) -> Iterator[Flow]:
    onward = (Goto(Table.SOURCES if ips else Table.SIGNAL),)
    own = (Match("in_port", ofport), Match("eth_src", mac), UNTAGGED)

    def accept(priority: int, *conditions: tuple[Match, ...], actions: tuple[Action, ...] = onward) -> Flow:
        items = canonical([*own, *(item for group in conditions for item in group)])
        return Flow(table=Table.GUARD, priority=priority, cookie=cookie, match=items, actions=actions)

    sender = (Match("arp_sha", mac),)
    arp = match(eth_type=0x0806)
    if ips:
        yield accept(100, arp, sender, match(arp_spa=0))
        for prefix in _ipv4(ips):
            yield accept(100, arp, sender, match(arp_spa=str(prefix)))
    else:
        yield accept(100, arp, sender, actions=_claim("arp_spa"))
    yield accept(100, match(eth_type=0x8035), sender)
    for option in (mac, 0):  # the option is there and says the truth, or is not there
        solicitation = neighbour_discovery(Icmpv6.SOLICITATION, nd_sll=option)
        yield accept(100, solicitation, actions=onward if ips else _claim("ipv6_src"))
        if ips:
            for prefix6 in _own6(mac, ips):
                target = str(prefix6)
                yield accept(101, neighbour_discovery(Icmpv6.ADVERTISEMENT, nd_target=target, nd_tll=option))
            advertised = neighbour_discovery(Icmpv6.ADVERTISEMENT, nd_target=str(_LINK_LOCAL), nd_tll=option)
            yield accept(100, advertised, actions=(*_owner_of("nd_target"), *onward))
        else:
            yield accept(100, neighbour_discovery(Icmpv6.ADVERTISEMENT, nd_tll=option), actions=_claim("nd_target"))
    for message in (message for allowance in allow for message in RESERVED.get(allowance, ())):
        whole = () if Match("nw_proto", 17) in message else (Match("ip_frag", 0, 1),)  # RFC 6980
        yield accept(111, message, whole)
    if not ips and Allowance.ROUTER not in allow:
        for eth_type, source in ((0x0800, "nw_src"), (0x86DD, "ipv6_src")):
            yield accept(81, match(eth_type=eth_type), actions=(*_owner_of(source), Goto(Table.SOURCES)))
    yield accept(80)


def _claim(field: str) -> tuple[Action, ...]:
    """Look up whose the address in *field* is, and on to CLAIMS."""
    return (*_owner_of(field), Goto(Table.CLAIMS))


def _owner_of(field: str) -> tuple[Action, ...]:
    question = (
        (Move(field, ADDRESS4, 32),)
        if field in ("arp_spa", "nw_src")
        else (SetField(ADDRESS4, 0), Move(field, ADDRESS6, 128))
    )
    made = () if len(question) == 1 else (Resubmit(Table.MADE),)
    return (SetField(OWNER_MAC, 0), *question, Resubmit(Table.BINDING), *made)


def _counters(ofport: int, cookie: int) -> Iterator[Flow]:
    for why in (reason for reason in Denied if reason not in OF_GROUPS):
        conditions = canonical([Match("in_port", ofport), Match(REASON, why)])
        yield Flow(table=Table.DROPPED, priority=100, cookie=cookie, match=conditions)


def _unbound_sources(ofport: int, mac: int, cookie: int) -> Iterator[Flow]:
    """Of what GUARD has looked up: nobody's, and those of any MAC behind the VIF. The rest is denied by SOURCES."""
    for conditions in ((Match("eth_src", mac), Match(OWNER_MAC, 0)), (Match(OWNER_MAC, mac),)):
        items = canonical([Match("in_port", ofport), *conditions])
        yield Flow(table=Table.SOURCES, priority=100, cookie=cookie, match=items, actions=(Goto(Table.SIGNAL),))


def _sources(ofport: int, mac: int, ips: tuple[str, ...], cookie: int) -> Iterator[Flow]:
    own = (Match("in_port", ofport), Match("eth_src", mac))

    def row(priority: int, *conditions: tuple[Match, ...], actions: tuple[Action, ...] = (Goto(Table.SIGNAL),)) -> Flow:
        items = canonical([*own, *(item for group in conditions for item in group)])
        return Flow(table=Table.SOURCES, priority=priority, cookie=cookie, match=items, actions=actions)

    for prefix in _ipv4(ips):
        yield row(100, match(eth_type=0x0800, nw_src=str(prefix)))
    yield row(
        100,
        match(eth_type=0x0800, nw_src="0.0.0.0", nw_dst="255.255.255.255", nw_proto=17, udp_src=68, udp_dst=67),
    )
    own6 = _own6(mac, ips)
    for prefix6 in own6:
        yield row(101, match(eth_type=0x86DD, ipv6_src=str(prefix6)))
    for prefix6 in (*_ipv6(ips), _LINK_LOCAL):
        yield row(100, neighbour_discovery(Icmpv6.SOLICITATION, ipv6_src="::", nd_target=str(prefix6)))
    yield row(100, match(eth_type=0x86DD, ipv6_src=str(_LINK_LOCAL)), actions=_claim("ipv6_src"))
    # GUARD has looked up whose the target is
    advertised = neighbour_discovery(Icmpv6.ADVERTISEMENT, nd_target=str(_LINK_LOCAL))
    for owner in (0, mac):
        free = (*advertised, Match(OWNER_MAC, owner))
        for prefix6 in own6:
            yield row(104, free, match(ipv6_src=str(prefix6)))
        yield row(103, free, match(ipv6_src=str(_LINK_LOCAL)), actions=_claim("ipv6_src"))
    yield row(102, advertised, actions=(SetField(REASON, Denied.ND), Goto(Table.RIVAL)))
    # a link-local source that is nobody's goes on there, as any claim
    for priority, conditions, actions in (
        (120, (Match(OWNER_MAC, mac),), (Goto(Table.SIGNAL),)),
        (86, match(eth_type=0x86DD), (SetField(REASON, Denied.SOURCE), Goto(Table.RIVAL))),
    ):
        yield Flow(
            table=Table.CLAIMS,
            priority=priority,
            cookie=cookie,
            match=canonical([*own, *conditions]),
            actions=actions,
        )
    yield row(100, icmpv6(Icmpv6.ROUTER_SOLICITATION, ipv6_src="::"))
    yield row(100, icmpv6(Icmpv6.LISTENER_REPORT_V2, ipv6_src="::"))
    yield row(80)


def _ipv4(ips: tuple[str, ...]) -> list[IPv4Network]:
    return [prefix for prefix in map(_prefix, ips) if isinstance(prefix, IPv4Network)]


def _own6(mac: int, ips: tuple[str, ...]) -> tuple[IPv6Network, ...]:
    """IPv6 addresses that are the port's whoever else claims them: its defined ones, and the link-local one that is
    made of its MAC (RFC 4291, appendix A)."""
    return tuple(dict.fromkeys((*_ipv6(ips), IPv6Network(made_of(mac)))))


def _ipv6(ips: tuple[str, ...]) -> list[IPv6Network]:
    return [prefix for prefix in map(_prefix, ips) if isinstance(prefix, IPv6Network)]


def _prefix(text: str) -> IPv4Network | IPv6Network:
    """A prefix as given; `10.0.0.5/24` means the one address, since it has host bits."""
    interface = ip_interface(text)
    if interface.ip == interface.network.network_address:
        return interface.network
    return ip_network(interface.ip)

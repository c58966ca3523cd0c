"""What the connection tracker says of a port's connections, as tickets for the guest's next host. Pure.

`dpctl/dump-conntrack` prints a line for each connection (ovs-dpctl(8)):

    tcp,orig=(src=10.0.0.2,dst=10.0.0.1,sport=40000,dport=80),reply=(…),zone=40960,mark=4,protoinfo=(state=ESTABLISHED)

`orig` is what the tracker saw first, which of a connection that was moved before is the reply (REVERSED). Every state
is ticketed: what is just opening or closing also wants to be answered. Connections that no rule allows any more are
not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address
from itertools import chain

from hostagent.pipeline.policy import BLOCKED, OUTBOUND, REVERSED
from netmgr.contract.types import TICKETS_MAX, Ticket

__all__ = ["sound", "tickets_in"]

_LINE = re.compile(r"(\w+),orig=\(src=([^,)]+),dst=([^,)]+)(?:,sport=(\d+),dport=(\d+))?[^)]*\)")
_MARK = re.compile(r",mark=(\d+)")
_ESTABLISHED = "protoinfo=(state=ESTABLISHED)"
_NUMBERS = {"icmp": 1, "igmp": 2, "tcp": 6, "udp": 17, "dccp": 33, "icmpv6": 58, "sctp": 132, "udplite": 136}
_ECHO = ("icmp", "icmpv6")


def tickets_in(dump: str) -> tuple[Ticket, ...]:
    """The connections that *dump* speaks of, at most `TICKETS_MAX`: those that stand before those that open or close.

    Lines that are not understood are passed over. A guest may have a hundred thousand connections, and while they are
    looked through other guests' moves wait: so no more lines are read than tickets are wanted.
    """
    standing: list[str] = []
    others: list[str] = []
    for line in dump.splitlines():
        (standing if _ESTABLISHED in line or "protoinfo" not in line else others).append(line)
    found: dict[Ticket, None] = {}
    for line in chain(standing, others):
        ticket = _ticket(line.strip())
        if ticket is not None:
            found[ticket] = None
            if len(found) == TICKETS_MAX:
                break
    return tuple(found)


def sound(tickets: Iterable[Ticket]) -> tuple[Ticket, ...]:
    """Those of *tickets* that can be made into flows, no more than are allowed."""
    return tuple(ticket for ticket in tickets if _is_sound(ticket))[:TICKETS_MAX]


def _ticket(line: str) -> Ticket | None:
    found = _LINE.match(line)
    if found is None:
        return None
    name, source, destination, sport, dport = found.groups()
    marked = _MARK.search(line)
    mark = int(marked[1]) if marked else 0
    protocol = _NUMBERS.get(name) or (int(name) if name.isdigit() else 0)
    if mark & BLOCKED or not protocol:
        return None
    ports = (int(sport or 0), int(dport or 0)) if name not in _ECHO else (0, 0)
    ends = ((source, ports[0]), (destination, ports[1]))
    opener, other = reversed(ends) if mark & REVERSED else ends
    ticket = Ticket(
        protocol=protocol,
        source=opener[0],
        destination=other[0],
        source_port=opener[1],
        destination_port=other[1],
        outbound=bool(mark & OUTBOUND),
    )
    return ticket if _is_sound(ticket) else None


def _is_sound(ticket: Ticket) -> bool:
    try:
        one, other = ip_address(ticket.source), ip_address(ticket.destination)
    except ValueError:
        return False
    return (
        one.version == other.version
        and 0 < ticket.protocol < 256
        and all(0 <= port < 65536 for port in (ticket.source_port, ticket.destination_port))
    )

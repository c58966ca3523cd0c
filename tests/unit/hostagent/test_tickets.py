"""Lines of the connection tracker → tickets; and what is not made into one."""

from __future__ import annotations

import time

from hostagent.tracking.tickets import sound, tickets_in
from netmgr.contract.types import TICKETS_MAX, Ticket

DUMP = """
tcp,orig=(src=10.0.0.2,dst=10.0.0.1,sport=40000,dport=80),reply=(src=10.0.0.1,dst=10.0.0.2,sport=80,dport=40000),\
zone=40960,protoinfo=(state=SYN_SENT)
tcp,orig=(src=10.0.0.1,dst=10.0.0.9,sport=50000,dport=443),reply=(src=10.0.0.9,dst=10.0.0.1,sport=443,dport=50000),\
zone=40960,mark=4,protoinfo=(state=ESTABLISHED)
udp,orig=(src=fd00::9,dst=fd00::1,sport=53,dport=3000),reply=(src=fd00::1,dst=fd00::9,sport=3000,dport=53),\
zone=40960,mark=6
icmp,orig=(src=10.0.0.1,dst=10.0.0.9,id=7,type=8,code=0),reply=(src=10.0.0.9,dst=10.0.0.1,id=7,type=0,code=0),\
zone=40960,mark=4
47,orig=(src=10.0.0.1,dst=10.0.0.9),reply=(src=10.0.0.9,dst=10.0.0.1),zone=40960,mark=4
udp,orig=(src=10.0.0.2,dst=10.0.0.1,sport=1,dport=2),reply=(src=10.0.0.1,dst=10.0.0.2,sport=2,dport=1),zone=1,mark=1
what is this
"""


def test_each_connection_is_told_from_the_side_that_opened_it_those_that_stand_first() -> None:
    own = {"source": "10.0.0.1", "destination": "10.0.0.9", "outbound": True}
    own6 = {"source": "fd00::1", "destination": "fd00::9", "outbound": True}
    assert tickets_in(DUMP) == (
        Ticket(protocol=6, source_port=50000, destination_port=443, **own),
        Ticket(protocol=17, source_port=3000, destination_port=53, **own6),
        Ticket(protocol=1, **own),
        Ticket(protocol=47, **own),
        Ticket(protocol=6, source="10.0.0.2", destination="10.0.0.1", source_port=40000, destination_port=80),
    )


def test_there_are_never_more_than_can_be_passed_on() -> None:
    line = "udp,orig=(src=10.0.0.2,dst=10.0.0.1,sport={},dport=80),reply=(src=10.0.0.1,dst=10.0.0.2),zone=40960\n"
    assert len(tickets_in("".join(line.format(port) for port in range(1, 3000)))) == TICKETS_MAX


def test_what_comes_over_the_wire_is_held_to_what_a_flow_can_say() -> None:
    good = Ticket(protocol=6, source="10.0.0.1", destination="10.0.0.2", source_port=1, destination_port=2)
    bad = [
        Ticket(protocol=6, source="here", destination="10.0.0.2"),
        Ticket(protocol=6, source="10.0.0.1", destination="fd00::1"),
        Ticket(protocol=300, source="10.0.0.1", destination="10.0.0.2"),
        Ticket(protocol=0, source="10.0.0.1", destination="10.0.0.2"),
        Ticket(protocol=6, source="10.0.0.1", destination="10.0.0.2", source_port=70000),
    ]
    assert sound([*bad, good]) == (good,)
    assert len(sound([good] * 3000)) == TICKETS_MAX


def test_a_guest_with_a_hundred_thousand_connections_does_not_hold_up_the_moves_of_others() -> None:
    def cost_s(connections: int) -> float:
        opening = "tcp,orig=(src=10.0.0.2,dst=10.1.{}.{},sport={},dport=80),zone=40960,protoinfo=(state=SYN_SENT)"
        dump = "\n".join(opening.format(at >> 8 & 255, at & 255, 1 + at % 60000) for at in range(connections))
        began = time.process_time()
        assert len(tickets_in(dump)) == TICKETS_MAX
        return time.process_time() - began

    assert min(cost_s(100_000) for _ in range(3)) < 20 * min(cost_s(2_000) for _ in range(3))

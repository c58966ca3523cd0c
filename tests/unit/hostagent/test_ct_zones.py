"""Zones of the connection tracker: who needs one, and that nobody gets another's."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from hostagent.tracking.zones import ZONES, assign, tracked_ports
from netmgr.contract.types import SecurityGroup
from tests.support.hostagent_worlds import desired, location, network, port, switch

STATEFUL, STATELESS = UUID("a" * 32), UUID("b" * 32)
GROUPS = {
    STATEFUL: SecurityGroup(uuid=STATEFUL, name="a"),
    STATELESS: SecurityGroup(uuid=STATELESS, name="b", stateful=False),
}


def test_ports_with_stateful_groups_that_are_here_or_coming_need_a_zone() -> None:
    held, coming, gone, open_, plain = (port(name, number) for number, name in enumerate("hcgop", 1))
    ports = [
        *(replace(one, security_groups=(STATEFUL,)) for one in (held, coming, gone)),
        replace(plain, security_groups=(STATELESS,)),
        open_,
    ]
    places = [location(held, "h1"), location(coming, "h2", incoming="h1"), location(gone, "h2")]
    places += [location(one, "h1") for one in (open_, plain)]
    wanted = desired(switches=[switch()], networks=[network()], ports=ports, locations=places)
    assert tracked_ports(replace(wanted, groups=GROUPS)) == {held.uuid, coming.uuid}
    assert tracked_ports(wanted) == frozenset(), "whether they are stateful is not known yet"


def test_zones_go_round_and_none_is_given_twice() -> None:
    ports = [UUID(int=number) for number in range(1, 6)]
    first = assign(ports[:3], held={}, last=0)
    assert list(first.values()) == [*ZONES[:3]]
    assert assign(ports[:3], held=first, last=ZONES[2]) == {}
    kept = {ports[0]: first[ports[0]]}
    assert assign(ports[3:], held=kept, last=ZONES[2]) == {ports[3]: ZONES[3], ports[4]: ZONES[4]}
    assert assign(ports[3:], held=kept, last=ZONES[-1]) == {ports[3]: ZONES[1], ports[4]: ZONES[2]}


def test_ports_beyond_the_number_of_zones_get_none() -> None:
    ports = [UUID(int=number) for number in range(len(ZONES) + 2)]
    assert sorted(assign(ports, held={}, last=0).values()) == list(ZONES)

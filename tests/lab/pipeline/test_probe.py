"""Probes are turned around by the peer's switch; nothing else passes with their key; what is cut is sent nothing."""

from __future__ import annotations

import pytest

from hostagent.names import OVS_TYPE
from hostagent.pipeline.probe import probe_frame, probe_number
from hostagent.pipeline.tables import Table
from netmgr.contract.types import NetworkType
from tests.lab.pipeline.test_forwarding import ALL, frame

pytestmark = pytest.mark.lab


def everywhere(fabric, kind=NetworkType.VXLAN):
    fabric.network("n", 5001, kind)
    for number, name in enumerate("abc", 1):
        fabric.port(name, number, "n", f"h{number}")
    fabric.settle()


@pytest.mark.parametrize("kind", list(OVS_TYPE))
@pytest.mark.parametrize("inner_bytes", [0, 1400])
def test_a_question_comes_back_as_its_answer_to_the_agent_that_asked(fabric, kind, inner_bytes):
    everywhere(fabric, kind)
    fabric.hand("h1", "h2", probe_frame(77, source=0x02AA, inner_bytes=inner_bytes), kind=kind)
    ((_, table, _, answer),) = fabric.hosts["h1"].signals
    assert (table, probe_number(answer)) == (Table.PROBE, 77)
    assert (fabric.crossed("h1"), fabric.crossed("h2"), fabric.crossed("h3")) == (1, 1, 0)
    assert fabric.hosts["h2"].signals == []
    assert [fabric.hear(name, host) for name, host in (("a", "h1"), ("b", "h2"), ("c", "h3"))] == [[], [], []]


def test_an_answer_is_not_answered(fabric):
    everywhere(fabric)
    question = probe_frame(77, source=0x02AA)
    fabric.hand("h1", "h2", bytes.fromhex("0670726f6265") + question[6:])
    assert fabric.crossed("h2") == 0
    assert fabric.hosts["h1"].signals == []


@pytest.mark.parametrize("to", [2, ALL, 99])
def test_what_comes_with_the_key_of_probes_reaches_no_guest(fabric, to):
    everywhere(fabric)
    fabric.hand("h1", "h2", frame(1, to))
    assert fabric.hear("b", "h2") == []
    assert (fabric.crossed("h2"), fabric.hosts["h2"].signals) == (0, [])


def test_a_guest_that_says_the_same_is_forwarded_like_any_other_and_answered_by_nobody(fabric):
    everywhere(fabric)
    said = probe_frame(77, source=0x0200_0000_0001)
    fabric.say("a", "h1", said)
    assert fabric.hear("b", "h2") == fabric.hear("c", "h3") == [said], "to an unknown MAC"
    assert fabric.hosts["h1"].signals == fabric.hosts["h2"].signals == []


def test_a_peer_that_is_cut_is_sent_neither_broadcasts_nor_what_is_its_own(fabric):
    everywhere(fabric)
    fabric.cut("h1", "h2")
    fabric.settle()
    fabric.say("a", "h1", frame(1, ALL), frame(1, 2), frame(1, 3))
    assert fabric.hear("b", "h2") == []
    assert fabric.hear("c", "h3") == [frame(1, ALL), frame(1, 3)]
    assert fabric.crossed("h1") == 2
    assert fabric.drops("h1")["", "tunnel to the destination's host does not answer"] == 1
    fabric.cut("h1")
    fabric.settle()
    fabric.say("a", "h1", frame(1, ALL), frame(1, 2))
    assert fabric.hear("b", "h2") == [frame(1, ALL), frame(1, 2)]


def test_a_peer_is_cut_for_one_tunnel_type_alone(fabric):
    fabric.network("g", 5002, NetworkType.GENEVE)
    fabric.port("d", 4, "g", "h1")
    fabric.port("e", 5, "g", "h2")
    fabric.cut("h1", "h2")
    fabric.settle()
    fabric.say("d", "h1", frame(4, 5))
    assert fabric.hear("e", "h2") == [frame(4, 5)]

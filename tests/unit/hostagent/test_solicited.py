"""When the agent answers solicitations for a switch that can't, and when it leaves that to the owners."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from itertools import pairwise
from typing import Any

import pytest
from scapy.layers.inet6 import ICMPv6ND_NS, IPv6
from scapy.layers.l2 import Ether

from hostagent import solicited
from hostagent.advertisement import advertisement
from hostagent.flow import Action, Output
from hostagent.realize.errors import RealizeError
from hostagent.solicited import Solicited

QUESTION = bytes(Ether(dst="02:00:00:00:00:02") / IPv6(src="fd00::1", dst="fd00::2", hlim=255) / ICMPv6ND_NS())
BURST = 1000


class Switches:
    """Bridges that are there; when each was told that the agent attends, or (None) that it does no more."""

    def __init__(self, *names: str) -> None:
        self.names = dict.fromkeys(names, True)
        self.told: list[tuple[str, float | None]] = []
        self.sent: list[tuple[str, tuple[Action, ...], bytes]] = []
        self.now = 0.0

    def alive(self) -> dict[str, bool]:
        return self.names

    async def attend(self, bridge: str, *, no_more: bool = False) -> None:
        if not self.names[bridge]:
            raise RealizeError("gone")
        self.told.append((bridge, None if no_more else self.now))

    def packets_out(self, bridge: str, packets: Iterable[tuple[tuple[Action, ...], bytes]]) -> None:
        self.sent += [(bridge, actions, frame) for actions, frame in packets]


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the time pass of a `Solicited` and its switches, which look as often as they do."""

    def pass_by(one: Solicited, switches: Switches, count: float) -> None:
        end = switches.now + count

        async def pause(length: float) -> None:
            switches.now += length
            if switches.now >= end:
                raise asyncio.CancelledError

        monkeypatch.setattr(solicited.asyncio, "sleep", pause)
        monkeypatch.setattr(solicited.time, "monotonic", lambda: switches.now)
        with pytest.raises(asyncio.CancelledError):
            done(one.run())

    return pass_by


def done(work: Coroutine[Any, Any, None]) -> None:
    with pytest.raises(StopIteration):
        work.send(None)


def test_a_solicitation_is_answered_by_the_port_that_it_came_from() -> None:
    switches = Switches("br")
    Solicited(switches).on_frame("br", 7, QUESTION)  # type: ignore[arg-type]
    assert switches.sent == [("br", (Output(7),), advertisement(QUESTION))]


def test_what_is_malformed_has_no_answer_and_does_no_harm() -> None:
    switches = Switches("br")
    for length in range(len(QUESTION)):
        Solicited(switches).on_frame("br", 7, QUESTION[:length])  # type: ignore[arg-type]
    assert switches.sent == []


def test_it_attends_at_once_and_again_in_time_wherever_a_switch_answers(seconds) -> None:
    switches = Switches("br", "other")
    switches.names["other"] = False
    one = Solicited(switches)  # type: ignore[arg-type]
    seconds(one, switches, 60)
    assert {bridge for bridge, _ in switches.told} == {"br"}
    times = [at for _, at in switches.told]
    assert times[0] == 0
    assert all(4 <= after - before <= 10 for before, after in pairwise(times)), "of a life of 20 s"
    assert times[-1] > 50


def test_a_switch_that_was_lost_is_told_anew_at_once(seconds) -> None:
    switches = Switches("br")
    one = Solicited(switches)  # type: ignore[arg-type]
    seconds(one, switches, 1)
    one.lost("br")
    seconds(one, switches, 1)
    assert [at for _, at in switches.told] == [0, 1]


def test_with_too_many_the_owners_are_asked_for_a_while(seconds) -> None:
    switches = Switches("br", "other")
    one = Solicited(switches)  # type: ignore[arg-type]
    seconds(one, switches, 1)
    for _ in range(BURST + 50):
        one.on_frame("br", 7, QUESTION)
    assert len(switches.sent) == BURST
    switches.told.clear()
    seconds(one, switches, 20)
    assert [at for bridge, at in switches.told if bridge == "br"] == [None], "and not told again and again"
    assert any(bridge == "other" for bridge, _ in switches.told)
    seconds(one, switches, 20)
    assert next(at for bridge, at in switches.told if bridge == "br" and at is not None) >= 30


def test_who_ends_in_order_leaves_them_to_the_owners(seconds) -> None:
    switches = Switches("br")
    one = Solicited(switches)  # type: ignore[arg-type]
    seconds(one, switches, 1)
    done(one.close())
    assert switches.told[-1] == ("br", None)

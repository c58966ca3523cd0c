"""A granted VIF's flows leave with the second of two words: whose the tap is, and which number it has."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from hostagent.arrivals import Arrivals
from hostagent.early_ofports import EarlyOfports
from hostagent.flow import Flow, Match
from hostagent.model import Bridge, Desired, Observed
from hostagent.names import switch_bridge
from hostagent.pipeline.tables import Table
from hostagent.presence import SeenVif
from hostagent.realize.errors import RealizeError
from hostagent.realize.openflow_ports import Armed, PortWord
from hostagent.realize.ovsdb_taps import NewTap
from netmgr.contract.types import LogicalPort
from tests.support.hostagent_worlds import bare, desired, location, named, network, plug, port, settled, switch

OSW = switch_bridge(named("s1"))
MINE, PEER = port("mine", 1, ips=("10.1.0.1",)), port("peer", 2, ips=("10.1.0.2",))
FRAME = bytes(12) + b"\x08\x00" + bytes(46)
OF_IPV6 = bytes(12) + b"\x86\xdd" + bytes(46)
NEXT = 7  # the number that the switch will give next


class ArmedByHand:
    """A bundle that is ready to leave, and when it did."""

    def __init__(self, on: Rehearsal, bundle: Sequence[Flow], word: PortWord) -> None:
        self.bundle, self.word, self.left, self.is_armed = bundle, word, False, True
        self._on = on

    def leave(self) -> None:
        if not self.left:
            self.left = True
            self._on.heard.append("left")

    def disarm(self) -> None:
        assert not self.left
        self.is_armed = False


class Rehearsal:
    """`Arrivals` on a host that does what it is told by hand: OVSDB's words, the switch's, and what leaves for it."""

    def __init__(self, holder: str | None = "h1", wanted: LogicalPort = MINE) -> None:
        self.wanted: Desired = desired(
            switches=[switch()],
            networks=[network()],
            ports=[wanted, PEER],
            locations=[location(wanted, holder), location(PEER, "h2")],
        )
        self.port = wanted
        self.observed: Observed = settled(self.wanted, bare())
        self.sent: list[tuple[Sequence[Flow], list[bytes]]] = []
        self.compiled: list[Sequence[Flow]] = []  # what was not packed beforehand
        self.followed: list[tuple[Sequence[Flow], Sequence[Flow]]] = []  # what deleted and added a second part
        self.released: list[str] = []
        self.claimed: list[SeenVif] = []
        self.refused = False
        self.unheard: list[Callable[[], object]] = []  # what the switch has said, and the event loop has not taken
        self.unseen: list[Callable[[], object]] = []  # what OVSDB has
        self.armed: list[Armed] = []
        self.heard: list[str] = []  # what left, and what was made of the switch's words
        self.moving: set[UUID] = set()
        self.early = EarlyOfports()
        self.early.told(OSW, "before", NEXT - 1, now=0)
        host = SimpleNamespace(
            bridges=self._bridges,
            cached=lambda: replace(self.observed, bridges=self._bridges()),
            ofport=lambda bridge, name: self.early.of(bridge, name, now=0),
            next_ofport=self.early.next_of,
            with_guess=lambda bridge, vif: replace(
                self.observed, bridges=self.early.with_guess(self._bridges(), bridge, vif)
            ),
            hear_ovsdb=lambda: self.unseen.pop(0)() if self.unseen else None,
            switches=SimpleNamespace(
                pack=lambda _bridge, add: add,
                arm=self._arm,
                fire=self._fire,
                change_flows=self._change,
                hear=self._hear,
            ),
        )
        granted = dict.fromkeys([*(uuid4() for _ in range(9)), wanted.vif_uuid], 1.0)  # nine have gone again
        state = SimpleNamespace(
            ports=self.wanted.ports,
            locations=self.wanted.locations,
            networks=self.wanted.networks,
            port_by_vif={one.vif_uuid: one.uuid for one in (wanted, PEER)},
            subports={},
        )
        self.state = state
        self.arrivals = Arrivals(
            host=cast(Any, host),
            host_uuid=named("h1"),
            state=cast(Any, state),
            desired=lambda: replace(self.wanted, locations=state.locations),
            motion=cast(Any, SimpleNamespace(in_motion=lambda ports: bool(self.moving & set(ports)))),
            guests=cast(Any, SimpleNamespace(may_claim=lambda _: True)),
            claims=cast(Any, SimpleNamespace(meet=self._meet, granted_until=granted)),
            done=lambda: None,
        )
        host.switches.resubmit = lambda *_: None
        self.arrivals.look()
        self.arrivals._expect()

    def row(self, name: str = "tap0", *, bridge: str = OSW, vif: UUID | None = None, **more: str) -> None:
        """OVSDB's word."""
        ids = {"iface-id": str(vif or self.port.vif_uuid), "attached-mac": self.port.mac, **more}
        ofport = int(ids.pop("ofport", "0"))
        self.arrivals.tap_told(NewTap(bridge, name, ofport, ids), lambda: self.released.append(name))

    def number(self, name: str = "tap0") -> bool:
        """The switch's word: it counts."""
        ofport = self.early.next_of(OSW)
        self.early.told(OSW, name, ofport, now=0)
        self.heard.append("number")
        return self.arrivals.added(OSW, name, ofport)

    def shown(self, ofport: int = NEXT) -> None:
        """The tap is in OVSDB's tables."""
        assert self.port.vif_uuid is not None
        self.observed = plug(self.observed, OSW, "tap0", self.port.vif_uuid, ofport)
        self.arrivals.look()

    def _bridges(self) -> tuple[Bridge, ...]:
        bridges = self.early.put_into(self.observed.bridges, now=0)
        assert isinstance(bridges, tuple)
        return bridges

    def _arm(self, bridge: str, bundle: Sequence[Flow], word: PortWord) -> Armed:
        assert (bridge, word.ofport) == (OSW, NEXT)
        assert not any(one.is_armed for one in self.armed), "one at a time: nobody else may change flows"
        one = cast(Any, ArmedByHand(self, bundle, word))
        self.armed.append(one)
        return cast(Armed, one)

    def _fire(self, bridge: str, armed: Any, frames: Sequence[bytes]) -> asyncio.Task[None]:
        assert bridge == OSW
        armed.leave()
        armed.is_armed = False
        self.sent.append((armed.bundle, list(frames)))
        return asyncio.ensure_future(self._confirm())

    def _hear(self, bridge: str, armed: Any = None) -> bool:
        assert bridge == OSW
        if not self.unheard:
            return False
        word = self.unheard.pop(0)
        if armed is not None and word == self.number and self.early.next_of(OSW) == armed.word.ofport:
            armed.leave()
        word()
        return True

    def _meet(self, vifs: Sequence[SeenVif]) -> bool:
        new = [vif for vif in vifs if vif.vif_uuid not in {one.vif_uuid for one in self.claimed}]
        self.claimed += new
        return bool(new)

    async def _change(self, bridge: str, *, delete: Sequence[Flow], add: Sequence[Flow]) -> None:
        if delete:
            self.followed.append((delete, add))
            self.arrivals._let_in(bridge, add)
        else:
            self.compiled.append(add)

    async def _confirm(self) -> None:
        if self.refused:
            raise RealizeError("refused")


def rehearse(scene: Callable[[Rehearsal], None], **how: Any) -> Rehearsal:
    async def main() -> Rehearsal:
        one = Rehearsal(**how)
        scene(one)
        await asyncio.sleep(0.02)  # OVSDB goes on by then
        sent, released = list(one.sent), list(one.released)
        one.arrivals.close()
        assert not any(armed.is_armed for armed in cast(Any, one.armed)), "others may change flows"
        one.sent, one.released = sent, released
        return one

    return asyncio.run(main())


def test_flows_leave_with_the_number_where_the_row_came_first():
    def scene(on: Rehearsal) -> None:
        on.row()
        assert on.sent == [], "its number is not known"
        assert on.released == [], "OVSDB gives way meanwhile"
        assert on.number()
        assert len(on.sent) == 1

    rehearse(scene)


def test_flows_leave_with_the_row_where_the_number_came_first_or_with_it():
    def told_before(on: Rehearsal) -> None:
        assert on.number(), "whose it is, OVSDB tells any moment: no look is needed"
        assert on.sent == []
        on.row()

    def told_with_it(on: Rehearsal) -> None:
        on.row(ofport=str(NEXT))

    assert len(rehearse(told_before).sent) == len(rehearse(told_with_it).sent) == 1


def test_number_that_the_switch_has_told_already_is_taken_with_the_row():
    def scene(on: Rehearsal) -> None:
        on.unheard = [on.number]
        on.row()
        assert len(on.sent) == 1
        assert on.unheard == []

    assert rehearse(scene).heard == ["left", "number"], "before anything is made of the word"


def test_flows_do_not_leave_before_all_is_looked_at_where_the_number_is_not_the_first_word_or_another():
    def after_a_frame(on: Rehearsal) -> None:
        on.unheard = [lambda: on.arrivals.on_frame(OSW, 3, FRAME), on.number]
        on.row()
        assert len(on.sent) == 1

    def of_another(on: Rehearsal) -> None:
        on.unheard = [lambda: on.number("other"), on.number]
        on.row()
        assert on.sent == []

    def after_a_change(on: Rehearsal) -> None:
        on.unheard = [lambda: on.moving.add(MINE.uuid), on.number]
        on.row()
        assert on.sent == []

    assert rehearse(after_a_frame).heard == ["number", "left"]
    assert rehearse(of_another).heard == ["number", "number"]
    assert rehearse(after_a_change).heard == ["number"]


def test_flows_do_not_leave_with_the_number_where_ovsdb_shows_something_new_meanwhile():
    def scene(on: Rehearsal) -> None:
        bridges = on.arrivals._host.bridges
        looks = iter([bridges(), (*cast(Any, bridges()), *cast(Any, bare().bridges))])  # before, and since

        def looked() -> Any:
            return next(looks, ())

        on.unheard = [on.number]
        on.arrivals._host.bridges = looked  # type: ignore[method-assign]
        on.row()

    assert rehearse(scene).heard[0] == "number"


def test_a_mistake_while_the_number_is_looked_for_leaves_nothing_armed():
    def broken(on: Rehearsal) -> None:
        raise ZeroDivisionError

    def scene(on: Rehearsal) -> None:
        on.unheard = [lambda: broken(on)]
        with pytest.raises(ZeroDivisionError):
            on.row()
        assert on.arrivals._ready is None

    rehearse(scene)

    def after_it_left(on: Rehearsal) -> None:
        def number() -> bool:
            on.armed[-1].leave()
            raise ZeroDivisionError

        on.unheard = [number]
        with pytest.raises(ZeroDivisionError):
            on.row()
        assert len(on.sent) == 1, "it is followed"

    rehearse(after_it_left)


def test_row_that_is_there_already_is_taken_with_the_number():
    def scene(on: Rehearsal) -> None:
        on.unseen = [on.row]
        assert on.number()
        assert len(on.sent) == 1

    rehearse(scene)


def test_a_port_in_motion_is_not_let_in_by_the_number_alone():
    def scene(on: Rehearsal) -> None:
        on.moving.add(MINE.uuid)
        on.unheard = [on.number]
        on.row()
        assert on.sent == []

    assert rehearse(scene).armed == []


def test_number_that_does_not_come_is_waited_for_a_moment_and_everything_goes_on():
    def scene(on: Rehearsal) -> None:
        began = time.monotonic()
        on.row()
        assert 0.001 <= time.monotonic() - began < 0.5
        assert on.sent == []
        assert on.number()
        assert len(on.sent) == 1

    rehearse(scene)


def test_number_of_a_tap_that_a_look_has_shown_asks_for_another_look():
    def scene(on: Rehearsal) -> None:
        on.shown(0)
        assert not on.number()

    rehearse(scene)


def test_number_that_nobody_awaits_asks_for_a_look():
    def scene(on: Rehearsal) -> None:
        assert not on.number()

    rehearse(scene, holder="h2")


def test_the_loop_waits_a_little_while_a_tap_is_awaited_and_not_for_one_that_does_not_come(
    monkeypatch: pytest.MonkeyPatch,
):
    def scene(on: Rehearsal) -> None:
        assert 0 < on.arrivals.pause_s() <= 0.01
        now = time.monotonic() + 1.0
        with monkeypatch.context() as later:
            later.setattr(time, "monotonic", lambda: now)
            assert on.arrivals.pause_s() == 0
            assert not on.number(), "nor does a number pass for its"

    rehearse(scene)

    def nobody(on: Rehearsal) -> None:
        assert on.arrivals.pause_s() == 0

    rehearse(nobody, holder=None)


def test_what_the_guest_has_said_goes_behind_them_and_what_it_says_then_at_once():
    given: list[bytes] = []

    def scene(on: Rehearsal) -> None:
        on.row()
        on.arrivals._host.switches.resubmit = lambda _bridge, _port, frames: given.extend(frames)  # type: ignore[method-assign]
        on.arrivals.on_frame(OSW, NEXT + 1, b"another's")
        on.number()
        on.arrivals.on_frame(OSW, NEXT, FRAME)

    assert rehearse(scene).sent[0][1] == []
    assert given == [FRAME]


def test_what_waits_for_ipv6_follows_when_the_first_flows_are_confirmed_and_so_does_what_was_said_of_it():
    given: list[bytes] = []

    def scene(on: Rehearsal) -> None:
        on.arrivals._host.switches.resubmit = lambda _bridge, _port, frames: given.extend(frames)  # type: ignore[method-assign]
        on.row()
        on.number()
        on.arrivals.on_frame(OSW, NEXT, OF_IPV6)
        on.arrivals.on_frame(OSW, NEXT, FRAME)
        assert given == [FRAME]
        assert on.followed == []

    done = rehearse(scene)
    ((first, frames),) = done.sent
    ((delete, add),) = done.followed
    assert frames == []
    assert set(delete) == {flow for flow in first if flow.table == Table.CLASSIFY}
    assert [flow.match for flow in add if flow.table == Table.CLASSIFY] == [(Match("in_port", NEXT),)]
    assert given == [FRAME, OF_IPV6]


def test_a_second_part_does_not_follow_a_first_that_was_refused():
    def scene(on: Rehearsal) -> None:
        on.refused = True
        on.row()
        on.number()

    assert rehearse(scene).followed == []


def test_a_look_that_shows_it_later_finds_nothing_to_do():
    def scene(on: Rehearsal) -> None:
        on.row()
        on.number()
        on.shown()

    done = rehearse(scene)
    assert (len(done.sent), done.compiled) == (1, [])


def test_a_look_that_shows_it_sooner_does_it_all():
    def scene(on: Rehearsal) -> None:
        on.row()
        on.shown()
        assert on.released == ["tap0"]
        assert not on.number()

    assert len(rehearse(scene).sent) == 1


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda on: on.number("other"), id="another port got the number"),
        pytest.param(
            lambda on: setattr(
                on.state, "locations", {**on.state.locations, MINE.uuid: location(MINE, "h2", version=9)}
            ),
            id="another host has it now",
        ),
        pytest.param(lambda on: on.moving.add(MINE.uuid), id="in motion"),
        pytest.param(
            lambda on: setattr(on, "wanted", replace(on.wanted, hushed=frozenset({MINE.uuid}))), id="hushed since"
        ),
        pytest.param(lambda on: setattr(on, "observed", plug(on.observed, OSW, "t", uuid4(), 3)), id="another tap"),
    ],
)
def test_nothing_leaves_ahead_where_anything_but_the_two_words_has_come(change: Callable[[Rehearsal], Any]):
    def scene(on: Rehearsal) -> None:
        on.row()
        change(on)
        on.number()
        assert on.sent == []

    assert set(rehearse(scene).released) == {"tap0"}, "OVSDB goes on"


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"holder": None}, id="held by nobody"),
        pytest.param({"holder": "h2"}, id="held elsewhere"),
        pytest.param({"wanted": replace(MINE, admin_up=False)}, id="set down"),
        pytest.param({"wanted": replace(MINE, security_groups=(uuid4(),))}, id="with groups"),
        pytest.param({"wanted": replace(MINE, shadow_of=PEER.uuid)}, id="a shadow"),
    ],
)
def test_a_port_that_may_not_speak_here_is_not_let_in_ahead(how: dict[str, Any]):
    def scene(on: Rehearsal) -> None:
        on.row()
        on.number()

    done = rehearse(scene, **how)
    assert done.sent == []
    assert done.released == ["tap0"]


def test_a_tap_of_ours_or_of_nobody_and_a_vif_that_is_plugged_already_are_not_let_in_ahead():
    def ours(on: Rehearsal) -> None:
        on.row(**{"opaque-owner": "hostagent"})
        on.number()

    def nobodys(on: Rehearsal) -> None:
        on.row(vif=uuid4())
        on.number()

    def twin(on: Rehearsal) -> None:
        on.shown(NEXT - 2)
        on.arrivals._expect()
        on.row("tap1")
        on.number("tap1")

    for scene in (ours, nobodys, twin):
        done = rehearse(scene)
        assert done.sent == [], scene.__name__
        assert len(done.released) == 1


def test_a_vif_that_is_not_granted_is_claimed_by_the_same_word_once_and_on_our_switches_only():
    def scene(on: Rehearsal) -> None:
        on.row(bridge="br-int")
        assert on.claimed == []
        on.row()
        (one,) = on.claimed
        assert (one.vif_uuid, one.mac, one.bridge, one.ovs_port) == (MINE.vif_uuid, MINE.mac, OSW, "tap0")

    def granted(on: Rehearsal) -> None:
        on.row()
        on.row("tap1", **{"opaque-owner": "hostagent"})
        assert on.claimed == []

    assert rehearse(scene, holder=None).sent == []
    rehearse(granted)


def test_flows_of_one_that_was_claimed_are_compiled_meanwhile_for_the_number_that_it_has():
    async def main() -> Rehearsal:
        on = Rehearsal(holder=None)
        on.row()
        on.number()
        on.shown()
        await asyncio.sleep(0.02)
        granted = location(MINE, "h1", version=9)
        on.state.locations = {**on.state.locations, MINE.uuid: granted}
        on.arrivals.located([MINE.uuid])
        await asyncio.sleep(0)
        return on

    done = asyncio.run(main())
    assert (len(done.sent), done.compiled) == (1, [])


def test_a_refusal_is_left_to_the_loop():
    woken: list[None] = []

    def scene(on: Rehearsal) -> None:
        on.refused = True
        on.arrivals._done = lambda: woken.append(None)
        on.row()
        on.number()

    assert len(rehearse(scene).sent) == 1
    assert woken

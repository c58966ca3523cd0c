"""Does the tunnel to a peer work? A state machine over probes; no I/O, time comes in as an argument.

Theory of operation. A probe is a frame of our own that goes through the tunnel with segment id 0, which no network
has; the peer's *switch* sends it back by a flow (`pipeline.probe`), so an answer proves both directions, encapsulation
and both switches, whether or not an agent lives there.

- A path is asked once a second; those that are well in two groups, whose probes leave together, each at its half of the
  second by the wall clock. A path is of the same group at both its ends, so what two hosts ask each other comes
  together too, with the answers, as far as their clocks agree: what costs a switch and an agent is not a probe, but
  waking up for one.
- A probe that is not back after 0.4 s is a *miss*, and the next one leaves at once; after four misses in a row the path
  is *silent*: 1.6 to 2.7 s after it broke. An answer that comes late is an answer: a slow path is not a broken one.
- What this host's own switch has not told yet is no miss: a probe counts as missed once the switch has answered an echo
  that was sent after the probe's time was up. An agent that was stopped, or a switch that is busy, so counts nothing.
- A silent path is *down* when a *witness* shows that the fault is not this host's: another peer of the same switch has
  answered since; some are asked at once. Where all are silent, and there are two or more, this host is the one that is
  *cut off*: then they are down too, but nothing is taken from any: nothing is known of them. One peer alone has no
  witness; it is believed.
- What is down and not because this host is cut off, is *cut*: nothing is sent there.
- A path that has never answered is *unheard*: its switch may not know how to. It is neither cut nor a witness.
- A path that answers is up at once. If it was down twice within a minute, three answers in a row are asked for.
- More than 100 peers are asked more seldom, 100 a second in all; what is missed is still asked again at once.

Sizes are measured with probes beside these (`path_mtu`).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple
from uuid import UUID

from hostagent.model import PathKey, PathStatus
from hostagent.underlay.path_mtu import AGAIN_S, PathMtu
from netmgr.contract.types import PeerState

__all__ = ["Liveness", "Measure", "Probe", "WantedPath", "group_of"]

INTERVAL_S = 1.0
TIMEOUT_S = 0.4
MISSES = 4
DOWN_INTERVAL_S = 0.5
GROUPS = 2
UNHEARD_S = 2.0
_PROBES_PER_S_MAX = 100
_FLAP_S, _FLAP_ANSWERS = 60.0, 3
_REMEMBER_S = 600.0  # what was learned of a path that nobody needs now
_LATE_S = 10.0  # how late an answer may be and still be known
_HISTORY = 50
_WITNESSES = 4  # asked at once when a path is silent; if they are, too, others follow in their turn
_EARLY_S = 0.001  # a clock's word on when it is time may be as much before it
_BURST = 32  # probes that leave together; the switch keeps at most 100 answers for an agent that is busy


class Probe(NamedTuple):
    """A frame to send: the outer IP packet shall be *size* bytes long, 0 for as small as can be."""

    path: PathKey
    number: int
    size: int


class WantedPath(NamedTuple):
    """A path to be asked: how large its packets may be, whether a port here needs it, and with which group it is asked
    while it is well (see `group_of`)."""

    key: PathKey
    mtu: int
    shared: bool
    group: int = 0


def group_of(own: str, peer: str) -> int:
    """The group of the path between two VTEPs, the same at both."""
    return (zlib.crc32(own.encode()) ^ zlib.crc32(peer.encode())) % GROUPS


class Measure(NamedTuple):
    """What changes from probe to probe, for people: seconds, and percent of the last 50."""

    rtt_s: float | None
    loss_percent: int
    since_s: float  # how long it has been in its state
    answered_s: float | None  # since the last answer


class _Sent(NamedTuple):
    path: PathKey
    at: float
    size: int


@dataclass(slots=True)
class _Path:
    """What is known of one path; times are those of the caller's clock."""

    key: PathKey
    mtu: PathMtu
    born: float | None = None  # when it was first asked
    shared: bool = True
    group: int = 0
    wanted: bool = True
    unwanted_since: float = 0.0
    state: PeerState = PeerState.NEW
    since: float = 0.0
    next_at: float = 0.0
    misses: int = 0
    silent_since: float | None = None
    cut: bool = False
    streak: int = 0  # answers in a row while down
    went_down: tuple[float, ...] = ()  # the last two times
    answered_at: float | None = None
    last_heard_sent: float = float("-inf")  # when the newest small probe that was answered had left
    rtt_s: float | None = None
    history: list[bool] = field(default_factory=list)


class Liveness:
    """All paths of one host. Numbers of probes count up from *first_number*, which should be hard to guess.

    The largest packet is tried again on each path every *mtu_again_s*. *ahead_s* is what the wall clock shows more than
    that of all arguments *now*.
    """

    def __init__(
        self, *, first_number: int = 1, own: str = "", mtu_again_s: float = AGAIN_S, ahead_s: float = 0.0
    ) -> None:
        self._number = first_number
        self._own = own
        self._ahead_s = ahead_s
        self._mtu_again_s = mtu_again_s
        self._paths: dict[PathKey, _Path] = {}
        self._sent: dict[int, _Sent] = {}
        self._missed: dict[int, _Sent] = {}
        self._heard: dict[UUID, float] = {}
        self._told: tuple[PathStatus, ...] = ()
        self._stale = True  # `_told` may be old

    # --- what is wanted -------------------------------------------------------------------------------------------

    def want(self, paths: Iterable[WantedPath], *, now: float) -> None:
        """Ask exactly *paths* from now on. What is known of others is kept for ten minutes, should they come back."""
        self._stale = True
        wanted = {path.key: path for path in paths}
        for key, found in list(self._paths.items()):
            if key in wanted:
                continue
            if found.wanted:
                found.wanted, found.unwanted_since = False, now
            elif now - found.unwanted_since > _REMEMBER_S:
                del self._paths[key]
        for key, path in wanted.items():
            known = self._paths.get(key)
            if known is None:
                known = self._paths[key] = _Path(
                    key=key, since=now, next_at=now, mtu=PathMtu(again_s=self._mtu_again_s)
                )
            elif not known.wanted:
                self._revive(known, now)
            known.shared, known.group = path.shared, path.group
            known.mtu.want(path.mtu, now=now)

    def recall(self, cut: Iterable[PathKey], *, now: float) -> None:
        """An earlier life of this agent had found these paths down and cut; so they stay until they answer."""
        for key in cut:
            path = self._paths.get(key)
            if path is not None and path.wanted and path.state is PeerState.NEW and path.answered_at is None:
                path.state, path.since, path.cut, path.misses = PeerState.DOWN, now, True, MISSES
                path.answered_at, path.silent_since = now, now
                self._stale = True

    @staticmethod
    def _revive(path: _Path, now: float) -> None:
        """Wanted again. Whether it answered is old news; what passed is not, and who never answered still has not."""
        path.wanted, path.next_at, path.misses, path.silent_since, path.cut = True, now, 0, None, False
        path.mtu.next_at = now
        if path.state is PeerState.DOWN or (path.state is PeerState.UP and now - path.unwanted_since > 5 * INTERVAL_S):
            path.state, path.since, path.born = PeerState.NEW, now, None

    # --- sending --------------------------------------------------------------------------------------------------

    def next_at(self) -> float | None:
        """When there is something to send or to judge; None when never."""
        times = [path.next_at for path in self._paths.values() if path.wanted]
        times += [sent.at + TIMEOUT_S for sent in self._sent.values()]
        return min(times, default=None)

    def due(self, *, now: float, able: Callable[[PathKey], bool]) -> list[Probe]:
        """The probes to send now, taken as sent; none over a path that *able* says can't be used: it is no miss."""
        probes: list[Probe] = []
        interval = self._interval()
        ready = sorted((path for path in self._paths.values() if path.wanted and path.next_at <= now), key=_longest)
        for path in ready[:_BURST]:
            if not able(path.key):
                path.next_at = now + TIMEOUT_S
                continue
            probes.append(self._send(path, 0, now))
            pause = interval if path.state is PeerState.UP else max(interval / 2, DOWN_INTERVAL_S)
            path.next_at = now + pause * self._jitter(path.key)
            if path.state is PeerState.UP and interval == INTERVAL_S:  # of more peers, some are always due
                path.next_at = self._departure(path.group, now)
            if path.state is PeerState.UP and path.mtu.next_at <= now:
                probes.append(self._send(path, path.mtu.size(), now))
                path.mtu.sent(now=now)
        return probes

    def _interval(self) -> float:
        return max(INTERVAL_S, sum(path.wanted for path in self._paths.values()) / _PROBES_PER_S_MAX)

    def _jitter(self, key: PathKey) -> float:
        """0.9 to 1.1, another one for each probe and host."""
        return 0.9 + zlib.crc32(f"{self._own} {key.vtep} {self._number}".encode()) % 1000 / 5000

    def _departure(self, group: int, now: float) -> float:
        """When the next probe leaves together with those of its *group*; by itself, if that were too soon."""
        first = group / GROUPS * INTERVAL_S - self._ahead_s
        together = (now + INTERVAL_S + _EARLY_S - first) // INTERVAL_S * INTERVAL_S + first
        return together if together - now > TIMEOUT_S else now + INTERVAL_S - TIMEOUT_S

    def _send(self, path: _Path, size: int, now: float) -> Probe:
        self._number += 1
        path.born = now if path.born is None else path.born
        self._sent[self._number] = _Sent(path.key, now, size)
        return Probe(path.key, self._number, size)

    # --- what comes back ------------------------------------------------------------------------------------------

    def answered(self, number: int, *, now: float) -> bool:
        """The probe of that *number* is back; True if it was one of ours. See `judge` for what follows."""
        late = number not in self._sent
        sent = self._sent.pop(number, None) or self._missed.pop(number, None)
        path = self._paths.get(sent.path) if sent is not None else None
        if sent is None or path is None:
            return False
        if sent.size:
            self._stale = True
            path.mtu.answered(sent.size, now=now)
            path.next_at = min(path.next_at, max(path.mtu.next_at, now))
            return True
        first = path.answered_at is None
        if not late:
            _note(path, answered=True)
        path.last_heard_sent = max(path.last_heard_sent, sent.at)
        path.answered_at, path.misses, path.silent_since = now, 0, None
        path.rtt_s = now - sent.at if path.rtt_s is None or first else path.rtt_s * 0.75 + (now - sent.at) * 0.25
        if path.state is PeerState.DOWN:
            path.streak += 1
            flapping = len(path.went_down) > 1 and path.went_down[-1] - path.went_down[-2] < _FLAP_S
            if path.streak < (_FLAP_ANSWERS if flapping else 1):
                path.next_at = now  # the next answer is asked for at once
                return True
        if path.state is not PeerState.UP:
            self._stale = True
            path.state, path.since, path.cut, path.streak = PeerState.UP, now, False, 0
            path.mtu.forget(now=now)
            path.next_at = now
        return True

    def unjudged(self, *, now: float) -> frozenset[UUID]:
        """Switches that must answer an echo before overdue probes over them count as missed."""
        return frozenset(
            sent.path.switch
            for sent in self._sent.values()
            if sent.at + TIMEOUT_S <= now and self._heard.get(sent.path.switch, float("-inf")) < sent.at + TIMEOUT_S
        )

    def heard(self, switch: UUID, *, asked_at: float) -> None:
        """This host's *switch* has answered an echo that was sent at *asked_at*."""
        self._heard[switch] = max(self._heard.get(switch, asked_at), asked_at)

    def judge(self, *, now: float) -> bool:
        """Count what is missed and draw the conclusions; True when `statuses` has changed."""
        for number, sent in list(self._sent.items()):
            if self._heard.get(sent.path.switch, float("-inf")) >= sent.at + TIMEOUT_S:
                del self._sent[number]
                self._missed[number] = sent
                self._miss(sent, now)
        for number, sent in list(self._missed.items()):
            if now - sent.at > _LATE_S:
                del self._missed[number]
        switches: dict[UUID, list[_Path]] = {}
        for path in self._paths.values():
            if path.wanted:
                switches.setdefault(path.key.switch, []).append(path)
        for paths in switches.values():
            self._stale |= _conclude(paths, now)
        if not self._stale:
            return False
        self._stale = False
        told = self._statuses()
        news, self._told = told != self._told, told
        return news

    def _miss(self, sent: _Sent, now: float) -> None:
        path = self._paths.get(sent.path)
        if path is None or not path.wanted:
            return
        if sent.size:
            self._stale = True
            path.mtu.lost(sent.size, alone=path.last_heard_sent >= sent.at, now=now)
            path.next_at = min(path.next_at, max(path.mtu.next_at, now))
            return
        _note(path, answered=False)
        path.streak = 0
        path.misses += 1
        if path.misses < MISSES:
            path.next_at = now
        elif path.silent_since is None:
            path.silent_since = now
            self._ask_witnesses(path, now)

    def _ask_witnesses(self, silent: _Path, now: float) -> None:
        others = (path for path in self._paths.values() if path.wanted and path.state is PeerState.UP)
        others = (path for path in others if path.key.switch == silent.key.switch and path.key.vtep != silent.key.vtep)
        for path in islice(others, _WITNESSES):
            path.next_at = min(path.next_at, now)

    # --- for others -----------------------------------------------------------------------------------------------

    def statuses(self) -> tuple[PathStatus, ...]:
        """What is known of each path, as of the last `judge`; sorted."""
        return self._told

    def _statuses(self) -> tuple[PathStatus, ...]:
        wanted = sorted((path for path in self._paths.values() if path.wanted), key=lambda path: path.key)
        return tuple(
            PathStatus(
                key=path.key,
                state=path.state,
                shared=path.shared,
                cut=path.cut,
                mtu_passed=path.mtu.known_passed,
                mtu_refused=path.mtu.known_refused,
            )
            for path in wanted
        )

    def measures(self, *, now: float) -> Mapping[PathKey, Measure]:
        """What probes measure of each path."""
        return {
            path.key: Measure(
                rtt_s=path.rtt_s,
                loss_percent=round(100 * path.history.count(False) / len(path.history)) if path.history else 0,
                since_s=now - path.since,
                answered_s=now - path.answered_at if path.answered_at is not None else None,
            )
            for path in self._paths.values()
            if path.wanted
        }


def _longest(path: _Path) -> float:
    return path.next_at


def _note(path: _Path, *, answered: bool) -> None:
    path.history.append(answered)
    del path.history[:-_HISTORY]


def _conclude(paths: list[_Path], now: float) -> bool:
    """States of the paths of one switch; True when one may have changed."""
    news = False
    for path in paths:
        asked = path.state is PeerState.NEW and path.answered_at is None and path.born is not None
        if asked and path.born is not None and now - path.born >= UNHEARD_S:
            path.state, path.since, news = PeerState.UNHEARD, now, True
    known = [path for path in paths if path.answered_at is not None]
    silent = [path for path in known if path.silent_since is not None]
    if not silent:
        return news
    peers = {path.key.vtep for path in known}
    cut_off = len(peers) > 1 and len(silent) == len(known)
    for path in silent:
        assert path.silent_since is not None
        if cut_off:
            _go_down(path, now)
            path.cut = False
            # should another be the first to answer, this one is given the time to do so too
            path.silent_since = now + MISSES * TIMEOUT_S
        elif len(peers) == 1 or any(_testifies(other, path) for other in known):
            _go_down(path, now)
            path.cut = True
    return True


def _testifies(witness: _Path, silent: _Path) -> bool:
    """Whether *witness*, of another peer, has answered since *silent* went silent."""
    assert silent.silent_since is not None
    return (
        witness.key.vtep != silent.key.vtep
        and witness.answered_at is not None
        and witness.silent_since is None
        and witness.answered_at > silent.silent_since
    )


def _go_down(path: _Path, now: float) -> None:
    if path.state is not PeerState.DOWN:
        path.state, path.since, path.streak = PeerState.DOWN, now, 0
        path.went_down = (*path.went_down[-1:], now)

"""What to do next with a move, told from its journal and from what both libvirts show. Pure.

libvirt moves a VM peer to peer: once it is asked, the two libvirts finish or undo the move by themselves, and the
program that asked may die without changing anything. So nobody's memory of the request is trusted. After libvirt's call
has returned or failed, and again after a restart of vmctl, `next_action()` is asked over and over, each time with a new
look at the VM on both ends, until the row is closed:

    planned ► reserved ► ready ► migrating ► committed ► done        the VM is the destination's
        └────────┴─────────┴──► failed └───► undoing ───► failed     the VM stays the source's

Before `migrating` nothing has been done to any host: such a row is closed as it stands. From there on:

- Unread is not absent. While an end that matters cannot be asked, the row waits; only a source that plainly runs the
  guest, with no job, is believed without the other end, and then the other end is cleaned when it answers.
- Nothing that runs is ever removed, and nothing is resumed while the other end may run it. A guest that both ends run
  is left to an administrator, with a sentence: the network lights only one of them.
- A copy that waits for a migration which has ended (`half`) gets its time, then goes; at the source it is resumed
  instead, if the destination has nothing.
- Cleaning is looked at again afterwards: `done` and `failed` are written when there is nothing left to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from vmctl.model import Migration, MigrationState, MoveKind

__all__ = ["Act", "Action", "Fate", "next_action"]

PATIENCE_S = 30.0  # for a half-moved copy to be finished or removed by the libvirts themselves
SILENCE_S = 5.0  # for a destination that does not answer, while the source plainly runs the guest
SETTLE_S = 2.0  # after a restart: a call that had just been sent may not have become a job yet


class Fate(StrEnum):
    """What one host's libvirt shows of the VM."""

    RUNNING = "running"
    PAUSED = "paused"
    MOVING_OUT = "moving out"  # a migration job is under way
    MOVING_IN = "moving in"
    HALF = "half moved"  # paused by a migration of which no job is left
    STRANDED = "stranded"  # runs neither here nor there: a post-copy broke
    SHUT_OFF = "shut off"
    ABSENT = "absent"
    UNREAD = "unread"


class Act(StrEnum):
    WAIT = "wait"
    COMMIT = "commit"  # write `committed`
    ROLL_BACK = "roll back"  # write `undoing`
    REMOVE_AT_SOURCE = "remove at source"  # what does not run there: a definition, a half-moved copy
    REMOVE_AT_DESTINATION = "remove at destination"
    RESUME_AT_SOURCE = "resume at source"
    REPAIR = "repair"  # ask libvirt to go on with a broken post-copy
    FINISH = "finish"  # write `done`
    CLOSE = "close"  # write `failed`


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """The next thing to do. The sentence is for the journal and the user; empty keeps the one that is there."""

    act: Act
    sentence: str = ""


_WAIT = Action(act=Act.WAIT)
_LIVES = (Fate.RUNNING, Fate.PAUSED)
_COPY = (Fate.HALF, Fate.MOVING_IN)
_OFF = (Fate.SHUT_OFF, Fate.ABSENT)


def next_action(
    *, move: Migration, source: Fate, destination: Fate, asked: bool, error: str = "", waited_s: float = 0.0
) -> Action:
    """What to do next with *move*, of which no call of this process is under way.

    *asked* is False after a restart: whether libvirt ever got the request is then not known. *error* is libvirt's
    sentence where its call failed. *waited_s* is how long the looks have gone on in this state.
    """
    look = _Look(move, source, destination, asked, error, waited_s)
    if move.state is MigrationState.COMMITTED:
        return look.committed()
    if move.state is MigrationState.UNDOING:
        return look.undoing()
    if move.state is MigrationState.MIGRATING:
        return look.cold() if move.kind is MoveKind.COLD else look.live()
    assert not move.state.final, f"migration {move.id} is closed"
    return look.nothing_moved()


@dataclass(frozen=True, slots=True)
class _Look:
    move: Migration
    source: Fate
    destination: Fate
    asked: bool
    error: str
    waited_s: float

    def nothing_moved(self) -> Action:
        why = self.error or "vmctl was stopped before anything had moved"
        return Action(act=Act.CLOSE, sentence=f"{why}; {self.move.vm_name} is on {self.move.source} as before")

    def live(self) -> Action:
        source, destination = self.source, self.destination
        if source is Fate.MOVING_OUT:
            return _WAIT
        if source is Fate.UNREAD:
            return _WAIT  # the guest may run there, whatever the other end shows
        if destination is Fate.UNREAD:
            if source is Fate.RUNNING and self.waited_s >= SILENCE_S:
                return self._roll_back(
                    f"; {self.move.destination} does not answer: what is left there goes when it does"
                )
            return _WAIT
        if source in _LIVES and destination in (*_LIVES, Fate.MOVING_OUT):
            return self._both()
        if Fate.STRANDED in (source, destination):
            return self._stranded()
        if destination in (*_LIVES, Fate.MOVING_OUT):
            return self._commit()
        if destination in _COPY or source in _COPY:
            return _WAIT if self.waited_s < PATIENCE_S else self._roll_back()
        if not self.asked and source in _LIVES and self.waited_s < SETTLE_S:
            return _WAIT
        if source is Fate.ABSENT and destination is Fate.SHUT_OFF and not self.error:
            return Action(
                act=Act.COMMIT,
                sentence=f"{self.move.vm_name} came to {self.move.destination} and is shut off there",
            )
        if source in _OFF and destination is Fate.ABSENT and source is Fate.ABSENT:
            return Action(act=Act.CLOSE, sentence=self._nowhere())
        return self._roll_back()

    def cold(self) -> Action:
        source, destination = self.source, self.destination
        alive = (*_LIVES, Fate.MOVING_OUT, Fate.STRANDED)
        if source is Fate.UNREAD:
            return _WAIT
        if destination is Fate.UNREAD:
            if self.waited_s >= SILENCE_S and source is not Fate.ABSENT:
                return self._roll_back(
                    f"; {self.move.destination} does not answer: what is left there goes when it does"
                )
            return _WAIT
        if source in _COPY or destination in _COPY:  # somebody else moves it
            return _WAIT if self.waited_s < PATIENCE_S else self._both()
        if source in alive and destination in alive:
            return self._both()
        if destination in alive or (destination is Fate.SHUT_OFF and source in _OFF and not self.error):
            return self._commit()
        if source is Fate.ABSENT:
            sentence = self._nowhere() if destination is Fate.ABSENT else ""
            return Action(act=Act.CLOSE, sentence=sentence) if sentence else self._commit()
        return self._roll_back()

    def committed(self) -> Action:
        source, destination = self.source, self.destination
        if source is Fate.UNREAD:
            return _WAIT
        if source is Fate.ABSENT:
            return Action(act=Act.FINISH)
        if source in (Fate.MOVING_OUT, Fate.MOVING_IN):
            return _WAIT
        if source in _LIVES or source is Fate.STRANDED:
            if destination is Fate.UNREAD:
                return _WAIT
            return self._both() if destination in _LIVES else Action(act=Act.FINISH)
        # shut off, or half moved: only while the destination surely has it
        if destination is Fate.UNREAD or destination in _COPY:
            return _WAIT
        return Action(act=Act.FINISH if destination in (Fate.ABSENT, Fate.STRANDED) else Act.REMOVE_AT_SOURCE)

    def undoing(self) -> Action:
        source, destination = self.source, self.destination
        if source is Fate.UNREAD or destination is Fate.UNREAD or source is Fate.MOVING_OUT:
            return _WAIT
        if destination in (*_LIVES, Fate.MOVING_OUT):
            return self._both() if source in _LIVES else self._commit()
        if destination in _COPY:
            return Action(act=Act.REMOVE_AT_DESTINATION)
        if destination is Fate.SHUT_OFF and not self.move.had_copy and source is not Fate.ABSENT:
            return Action(act=Act.REMOVE_AT_DESTINATION)
        if source in _COPY:
            return Action(act=Act.RESUME_AT_SOURCE)
        return Action(act=Act.CLOSE)

    def _commit(self) -> Action:
        where = "migrating on from" if self.destination is Fate.MOVING_OUT else f"{self.destination} on"
        return Action(act=Act.COMMIT, sentence=f"{self.move.vm_name} is {where} {self.move.destination}")

    def _roll_back(self, more: str = "") -> Action:
        move = self.move
        because = f": {self.error}" if self.error else ""
        if self.source is Fate.SHUT_OFF and move.kind is MoveKind.LIVE:
            said = f"{move.vm_name} went off while it moved to {move.destination}{because}"
            said += f"; it is shut off on {move.source}"
        elif self.source is Fate.ABSENT:
            said = self._nowhere()
        else:
            shown = "resumed" if self.source in _COPY else str(self.source)
            said = (
                f"{move.vm_name} was not moved to {move.destination}{because}; it is {shown} on {move.source} as before"
            )
        return Action(act=Act.ROLL_BACK, sentence=said + more)

    def _both(self) -> Action:
        move = self.move
        return Action(
            act=Act.CLOSE,
            sentence=f"{move.vm_name} is {self.source} on {move.source} and {self.destination} on {move.destination}; "
            f"the network lights only one of them: stop the one that is not wanted (virsh destroy {move.vm_name})",
        )

    def _stranded(self) -> Action:
        move = self.move
        if self.waited_s < PATIENCE_S:
            return Action(act=Act.REPAIR)
        return Action(
            act=Act.CLOSE,
            sentence=f"{move.vm_name} broke while it ran on {move.destination} with memory still on {move.source}: it "
            f"is {self.source} on {move.source} and {self.destination} on {move.destination}; if `virsh migrate "
            f"--postcopy-resume` does not mend it, destroy both and start it again (vmctl vm start {move.vm_name})",
        )

    def _nowhere(self) -> str:
        move = self.move
        because = f": {self.error}" if self.error else ""
        return (
            f"{move.vm_name} runs on neither end{because}: {self.source} on {move.source}, {self.destination} on "
            f"{move.destination}; start it again (vmctl vm start {move.vm_name})"
        )

"""How a move ends, told from what both libvirts show. Pure.

libvirt moves a VM peer to peer: once it is asked, the two libvirts finish or undo the move by themselves, and the
program that asked may die without changing anything. So nobody's memory of the request is trusted: after libvirt's call
has returned or failed, and again after a restart of vmctl, the journal's row is closed by `verdict()`, which looks at
the VM on both ends. A host that cannot be asked leaves the row open; the look is repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from vmctl.model import MigrationState

__all__ = ["Ended", "Fate", "verdict"]


class Fate(StrEnum):
    """What one host's libvirt shows of the VM."""

    RUNNING = "running"
    PAUSED = "paused"
    MOVING_OUT = "moving out"  # a migration job is under way
    MOVING_IN = "moving in"
    SHUT_OFF = "shut off"
    ABSENT = "absent"
    UNREAD = "unread"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a move ended; the sentence is for the journal and the user."""

    state: MigrationState
    sentence: str


_LIVES = (Fate.RUNNING, Fate.PAUSED)


def verdict(
    *, vm: str, source: str, destination: str, at_source: Fate, at_destination: Fate, error: str, patient: bool = True
) -> Ended | None:
    """How the move of *vm* ended, None while it has not or cannot be told yet.

    *error* is libvirt's sentence where its call failed, empty where it did not or the caller does not know. What waits
    at the destination while nothing moves out of the source any more is about to go; *patient* is False when it has
    had its time.
    """
    if Fate.UNREAD in (at_source, at_destination):
        return None
    if at_source is Fate.MOVING_OUT or (Fate.MOVING_IN in (at_source, at_destination) and patient):
        return None
    if at_source in _LIVES and at_destination in _LIVES:
        return Ended(
            state=MigrationState.FAILED,
            sentence=f"{vm} is {at_source} on {source} and {at_destination} on {destination}: stop the one that is not "
            f"wanted there (virsh destroy {vm}); the network lights only one of them",
        )
    if at_destination in (*_LIVES, Fate.MOVING_OUT):
        return Ended(state=MigrationState.DONE, sentence=f"{vm} is {at_destination} on {destination}")
    why = f": {error}" if error else ""
    if at_source in _LIVES:
        return Ended(
            state=MigrationState.FAILED,
            sentence=f"{vm} was not moved to {destination}{why}; it is {at_source} on {source} as before"
            + (f"; a half-moved copy waits on {destination}" if at_destination is Fate.MOVING_IN else ""),
        )
    if at_source is Fate.ABSENT and at_destination is Fate.SHUT_OFF and not error:
        return Ended(state=MigrationState.DONE, sentence=f"{vm} came to {destination} and is shut off there")
    return Ended(
        state=MigrationState.FAILED,
        sentence=f"{vm} runs on neither end{why}: {at_source} on {source}, {at_destination} on {destination}; "
        f"start it again (vmctl vm start {vm})",
    )

"""How a move ended, for everything that two libvirts can show."""

import itertools

import pytest

from vmctl.migration import Ended, Fate, verdict
from vmctl.model import MigrationState


def end(source: Fate, destination: Fate, *, error: str = "", patient: bool = True) -> Ended | None:
    return verdict(
        vm="vm1",
        source="h1",
        destination="h2",
        at_source=source,
        at_destination=destination,
        error=error,
        patient=patient,
    )


def state(source: Fate, destination: Fate, **options: str | bool) -> MigrationState | None:
    ended = end(source, destination, **options)  # type: ignore[arg-type]
    return ended.state if ended else None


@pytest.mark.parametrize("destination", [Fate.RUNNING, Fate.PAUSED])
@pytest.mark.parametrize("source", [Fate.ABSENT, Fate.SHUT_OFF])
def test_vm_that_lives_only_at_the_destination_has_moved(source: Fate, destination: Fate) -> None:
    assert state(source, destination) is MigrationState.DONE
    assert state(source, destination, error="connection reset") is MigrationState.DONE


@pytest.mark.parametrize("destination", [Fate.ABSENT, Fate.SHUT_OFF])
def test_vm_that_lives_only_at_the_source_was_not_moved_and_the_reason_is_kept(destination: Fate) -> None:
    ended = end(Fate.RUNNING, destination, error="port is not granted")
    assert ended is not None
    assert ended.state is MigrationState.FAILED
    assert ended.sentence == "vm1 was not moved to h2: port is not granted; it is running on h1 as before"


@pytest.mark.parametrize("other", list(Fate))
def test_nothing_is_said_while_a_host_cannot_be_asked(other: Fate) -> None:
    assert end(Fate.UNREAD, other, patient=False) is None
    assert end(other, Fate.UNREAD, patient=False) is None


def test_nothing_is_said_while_a_job_runs() -> None:
    for destination in set(Fate) - {Fate.UNREAD}:
        assert end(Fate.MOVING_OUT, destination, patient=False) is None
    assert end(Fate.RUNNING, Fate.MOVING_IN) is None


def test_copy_that_does_not_go_away_is_named_in_the_end() -> None:
    ended = end(Fate.RUNNING, Fate.MOVING_IN, error="lost", patient=False)
    assert ended is not None
    assert ended.state is MigrationState.FAILED
    assert "half-moved copy waits on h2" in ended.sentence


def test_vm_that_lives_on_both_ends_is_called_by_its_name() -> None:
    ended = end(Fate.PAUSED, Fate.RUNNING)
    assert ended is not None
    assert ended.state is MigrationState.FAILED
    assert "paused on h1 and running on h2" in ended.sentence


def test_vm_that_lives_nowhere_is_failed() -> None:
    ended = end(Fate.ABSENT, Fate.ABSENT, error="crash")
    assert ended is not None
    assert ended.state is MigrationState.FAILED
    assert "runs on neither end: crash" in ended.sentence


def test_guest_that_shut_down_right_after_its_move_has_moved() -> None:
    assert state(Fate.ABSENT, Fate.SHUT_OFF) is MigrationState.DONE


def test_move_onwards_from_the_destination_counts_as_arrived() -> None:
    assert state(Fate.ABSENT, Fate.MOVING_OUT) is MigrationState.DONE


def test_every_case_ends_final_once_patience_is_over_and_both_hosts_are_read() -> None:
    for source, destination in itertools.product(set(Fate) - {Fate.UNREAD, Fate.MOVING_OUT}, set(Fate) - {Fate.UNREAD}):
        ended = end(source, destination, patient=False)
        assert ended is not None, (source, destination)
        assert ended.state.final
        assert "vm1" in ended.sentence

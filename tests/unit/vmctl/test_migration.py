"""What to do next with a move: each state of the journal with everything that two libvirts can show."""

import itertools
import random
from dataclasses import replace
from uuid import UUID

import pytest

from vmctl.migration import PATIENCE_S, SETTLE_S, SILENCE_S, Act, Action, Fate, next_action
from vmctl.model import Migration, MigrationState, MoveKind

LIVES = (Fate.RUNNING, Fate.PAUSED)
BEFORE = (MigrationState.PLANNED, MigrationState.RESERVED, MigrationState.READY)
OPEN = [state for state in MigrationState if not state.final]
LATE = PATIENCE_S + 1


def a_move(state: MigrationState, kind: MoveKind = MoveKind.LIVE, *, had_copy: bool = False) -> Migration:
    return Migration(
        id=1, vm_uuid=UUID(int=1), vm_name="vm1", source="h1", destination="h2", state=state, kind=kind,
        had_copy=had_copy,
    )  # fmt: skip


def step(
    state: MigrationState,
    source: Fate,
    destination: Fate,
    *,
    kind: MoveKind = MoveKind.LIVE,
    waited_s: float = LATE,
    asked: bool = True,
    error: str = "",
    had_copy: bool = False,
) -> Action:
    move = a_move(state, kind, had_copy=had_copy)
    return next_action(move=move, source=source, destination=destination, asked=asked, error=error, waited_s=waited_s)


def act(state: MigrationState, source: Fate, destination: Fate, **options) -> Act:  # type: ignore[no-untyped-def]
    return step(state, source, destination, **options).act


# --- promises that hold for every state, every sight -----------------------------------------------------------------


@pytest.mark.parametrize("state", OPEN)
@pytest.mark.parametrize("kind", MoveKind)
def test_there_is_an_answer_for_everything_and_nothing_that_may_run_is_touched(
    state: MigrationState, kind: MoveKind
) -> None:
    may_run = (*LIVES, Fate.MOVING_OUT, Fate.UNREAD)
    for source, destination in itertools.product(Fate, Fate):
        for waited_s, asked, error in itertools.product((0.0, SETTLE_S + 1, LATE), (True, False), ("", "broke")):
            found = step(state, source, destination, kind=kind, waited_s=waited_s, asked=asked, error=error)
            seen = (state, kind, source, destination, waited_s, asked, error, found)
            if found.act is Act.REMOVE_AT_SOURCE:
                assert source not in may_run, seen
                assert destination in (*LIVES, Fate.MOVING_OUT, Fate.SHUT_OFF), seen
            if found.act is Act.REMOVE_AT_DESTINATION:
                assert destination not in may_run, seen
                assert source is not Fate.UNREAD, seen
            if found.act is Act.RESUME_AT_SOURCE:
                assert source in (Fate.HALF, Fate.MOVING_IN), seen
                assert destination in (Fate.ABSENT, Fate.SHUT_OFF, Fate.STRANDED), seen
            if found.act in (Act.COMMIT, Act.ROLL_BACK):
                assert state not in BEFORE, seen
                assert "vm1" in found.sentence, seen
            if found.act is Act.COMMIT:
                assert destination not in (Fate.ABSENT, Fate.UNREAD, Fate.HALF, Fate.MOVING_IN), seen
                assert source not in (*LIVES, Fate.MOVING_OUT, Fate.UNREAD) or kind is MoveKind.COLD, seen


def test_row_that_was_not_handed_over_is_closed_without_asking_anybody() -> None:
    for state, source, destination in itertools.product(BEFORE, Fate, Fate):
        found = step(state, source, destination, asked=False)
        assert found.act is Act.CLOSE
        assert found.sentence == "vmctl was stopped before anything had moved; vm1 is on h1 as before"
    said = step(MigrationState.READY, Fate.UNREAD, Fate.UNREAD, error="network blue is not on h2").sentence
    assert said == "network blue is not on h2; vm1 is on h1 as before"


@pytest.mark.parametrize("kind", MoveKind)
def test_no_state_waits_for_ever_once_both_hosts_are_read_and_no_job_runs(kind: MoveKind) -> None:
    busy = (Fate.UNREAD, Fate.MOVING_OUT, Fate.MOVING_IN)
    for state, source, destination in itertools.product(OPEN, set(Fate) - set(busy), set(Fate) - set(busy)):
        if state is MigrationState.COMMITTED and destination is Fate.HALF:
            continue  # a copy that comes back to where the VM was committed to: another move's business
        assert act(state, source, destination, kind=kind) is not Act.WAIT, (state, source, destination)


# --- a live move, handed over ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("destination", LIVES)
@pytest.mark.parametrize("source", [Fate.ABSENT, Fate.SHUT_OFF, Fate.HALF])
def test_vm_that_lives_only_at_the_destination_has_moved(source: Fate, destination: Fate) -> None:
    for error in ("", "connection reset"):
        assert act(MigrationState.MIGRATING, source, destination, error=error) is Act.COMMIT


@pytest.mark.parametrize("destination", [Fate.ABSENT, Fate.SHUT_OFF])
def test_vm_that_lives_only_at_the_source_was_not_moved_and_the_reason_is_kept(destination: Fate) -> None:
    found = step(MigrationState.MIGRATING, Fate.RUNNING, destination, error="port is not granted")
    assert found.act is Act.ROLL_BACK
    assert found.sentence == "vm1 was not moved to h2: port is not granted; it is running on h1 as before"


def test_source_that_cannot_be_asked_is_waited_for_whatever_the_destination_shows() -> None:
    for destination in Fate:
        assert act(MigrationState.MIGRATING, Fate.UNREAD, destination) is Act.WAIT


def test_dead_destination_does_not_keep_a_running_vm_waiting_for_its_verdict() -> None:
    assert act(MigrationState.MIGRATING, Fate.RUNNING, Fate.UNREAD, waited_s=0.0) is Act.WAIT
    found = step(MigrationState.MIGRATING, Fate.RUNNING, Fate.UNREAD, waited_s=SILENCE_S, error="end of file")
    assert found.act is Act.ROLL_BACK
    assert found.sentence == (
        "vm1 was not moved to h2: end of file; it is running on h1 as before; "
        "h2 does not answer: what is left there goes when it does"
    )
    assert act(MigrationState.UNDOING, Fate.RUNNING, Fate.UNREAD) is Act.WAIT
    assert act(MigrationState.MIGRATING, Fate.HALF, Fate.UNREAD) is Act.WAIT


def test_nothing_is_decided_while_a_job_runs() -> None:
    for destination in Fate:
        assert act(MigrationState.MIGRATING, Fate.MOVING_OUT, destination) is Act.WAIT
    assert act(MigrationState.MIGRATING, Fate.RUNNING, Fate.MOVING_IN, waited_s=0.0) is Act.WAIT


def test_call_that_may_have_been_sent_just_before_vmctl_died_gets_its_time() -> None:
    assert act(MigrationState.MIGRATING, Fate.RUNNING, Fate.ABSENT, asked=False, waited_s=0.0) is Act.WAIT
    assert act(MigrationState.MIGRATING, Fate.RUNNING, Fate.ABSENT, asked=False, waited_s=SETTLE_S) is Act.ROLL_BACK
    assert act(MigrationState.MIGRATING, Fate.RUNNING, Fate.ABSENT, asked=True, waited_s=0.0) is Act.ROLL_BACK


def test_half_moved_copy_that_stays_is_removed() -> None:
    for copy in (Fate.HALF, Fate.MOVING_IN):
        assert act(MigrationState.MIGRATING, Fate.RUNNING, copy, waited_s=0.0) is Act.WAIT
        assert act(MigrationState.MIGRATING, Fate.RUNNING, copy) is Act.ROLL_BACK
        assert act(MigrationState.UNDOING, Fate.RUNNING, copy) is Act.REMOVE_AT_DESTINATION


def test_source_left_paused_runs_again_once_the_destination_has_nothing() -> None:
    assert act(MigrationState.MIGRATING, Fate.HALF, Fate.ABSENT, waited_s=0.0) is Act.WAIT
    found = step(MigrationState.MIGRATING, Fate.HALF, Fate.HALF)
    assert (found.act, "resumed on h1" in found.sentence) == (Act.ROLL_BACK, True)
    assert act(MigrationState.UNDOING, Fate.HALF, Fate.HALF) is Act.REMOVE_AT_DESTINATION
    assert act(MigrationState.UNDOING, Fate.HALF, Fate.ABSENT) is Act.RESUME_AT_SOURCE
    assert act(MigrationState.UNDOING, Fate.RUNNING, Fate.ABSENT) is Act.CLOSE


def test_vm_that_lives_on_both_ends_is_left_to_a_person_by_name() -> None:
    for state in (MigrationState.MIGRATING, MigrationState.COMMITTED, MigrationState.UNDOING):
        found = step(state, Fate.PAUSED, Fate.RUNNING)
        assert found.act is Act.CLOSE
        assert "paused on h1 and running on h2" in found.sentence


def test_vm_that_lives_nowhere_is_failed() -> None:
    found = step(MigrationState.MIGRATING, Fate.ABSENT, Fate.ABSENT, error="crash")
    assert found.act is Act.CLOSE
    assert "runs on neither end: crash" in found.sentence


def test_guest_that_shut_down_while_it_moved_is_off_at_the_source() -> None:
    found = step(MigrationState.MIGRATING, Fate.SHUT_OFF, Fate.ABSENT, error="domain is not running")
    assert found.act is Act.ROLL_BACK
    assert found.sentence == "vm1 went off while it moved to h2: domain is not running; it is shut off on h1"


def test_guest_that_shut_down_right_after_its_move_has_moved() -> None:
    assert act(MigrationState.MIGRATING, Fate.ABSENT, Fate.SHUT_OFF) is Act.COMMIT


def test_move_onwards_from_the_destination_counts_as_arrived() -> None:
    assert act(MigrationState.MIGRATING, Fate.ABSENT, Fate.MOVING_OUT) is Act.COMMIT


def test_broken_post_copy_is_mended_and_in_the_end_named() -> None:
    assert act(MigrationState.MIGRATING, Fate.STRANDED, Fate.STRANDED, waited_s=1.0) is Act.REPAIR
    found = step(MigrationState.MIGRATING, Fate.STRANDED, Fate.STRANDED)
    assert found.act is Act.CLOSE
    assert "memory still on h1" in found.sentence


# --- a cold move -----------------------------------------------------------------------------------------------------


def test_cold_move_commits_when_both_have_the_definition_and_rolls_back_when_only_the_source_has() -> None:
    cold = MoveKind.COLD
    assert act(MigrationState.MIGRATING, Fate.SHUT_OFF, Fate.SHUT_OFF, kind=cold) is Act.COMMIT
    assert act(MigrationState.MIGRATING, Fate.SHUT_OFF, Fate.SHUT_OFF, kind=cold, error="no") is Act.ROLL_BACK
    assert act(MigrationState.MIGRATING, Fate.SHUT_OFF, Fate.ABSENT, kind=cold) is Act.ROLL_BACK
    assert act(MigrationState.MIGRATING, Fate.RUNNING, Fate.SHUT_OFF, kind=cold) is Act.ROLL_BACK
    assert act(MigrationState.MIGRATING, Fate.ABSENT, Fate.SHUT_OFF, kind=cold) is Act.COMMIT
    assert act(MigrationState.MIGRATING, Fate.SHUT_OFF, Fate.RUNNING, kind=cold) is Act.COMMIT


# --- cleaning --------------------------------------------------------------------------------------------------------


def test_committed_move_ends_when_the_source_has_nothing_left() -> None:
    assert act(MigrationState.COMMITTED, Fate.SHUT_OFF, Fate.RUNNING) is Act.REMOVE_AT_SOURCE
    assert act(MigrationState.COMMITTED, Fate.HALF, Fate.RUNNING) is Act.REMOVE_AT_SOURCE
    assert act(MigrationState.COMMITTED, Fate.SHUT_OFF, Fate.SHUT_OFF) is Act.REMOVE_AT_SOURCE
    assert act(MigrationState.COMMITTED, Fate.ABSENT, Fate.RUNNING) is Act.FINISH
    assert act(MigrationState.COMMITTED, Fate.UNREAD, Fate.RUNNING) is Act.WAIT


def test_last_definition_of_a_vm_is_never_removed() -> None:
    assert act(MigrationState.COMMITTED, Fate.SHUT_OFF, Fate.ABSENT) is Act.FINISH
    assert act(MigrationState.COMMITTED, Fate.SHUT_OFF, Fate.UNREAD) is Act.WAIT
    assert act(MigrationState.UNDOING, Fate.ABSENT, Fate.SHUT_OFF) is Act.CLOSE


def test_definition_that_the_destination_had_before_stays_there() -> None:
    assert act(MigrationState.UNDOING, Fate.RUNNING, Fate.SHUT_OFF) is Act.REMOVE_AT_DESTINATION
    assert act(MigrationState.UNDOING, Fate.RUNNING, Fate.SHUT_OFF, had_copy=True) is Act.CLOSE


def test_rolled_back_move_that_turns_out_to_have_arrived_is_committed() -> None:
    assert act(MigrationState.UNDOING, Fate.ABSENT, Fate.RUNNING) is Act.COMMIT


# --- all of it, with two libvirts that do as they please -------------------------------------------------------------


class World:
    """Two libvirts and a vmctl that is killed now and then; what is true, and what each look shows of it."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.move = a_move(MigrationState.MIGRATING)
        self.source, self.destination = Fate.RUNNING, Fate.ABSENT
        self.asked, self.waited_s, self.error = True, 0.0, ""
        self.plan = self.rng.choice(["arrives", "aborts", "half", "lost finish", "goes off", "never begins"])
        self.phase = 0

    def libvirts(self) -> None:
        """One thing that the libvirts do by themselves."""
        steps = {
            "arrives": [(Fate.MOVING_OUT, Fate.MOVING_IN), (Fate.HALF, Fate.HALF), (Fate.HALF, Fate.RUNNING),
                        (Fate.SHUT_OFF, Fate.RUNNING), (Fate.ABSENT, Fate.RUNNING)],
            "aborts": [(Fate.MOVING_OUT, Fate.MOVING_IN), (Fate.RUNNING, Fate.MOVING_IN), (Fate.RUNNING, Fate.ABSENT)],
            "half": [(Fate.MOVING_OUT, Fate.MOVING_IN), (Fate.HALF, Fate.HALF)],
            "lost finish": [(Fate.MOVING_OUT, Fate.MOVING_IN), (Fate.HALF, Fate.RUNNING)],
            "goes off": [(Fate.MOVING_OUT, Fate.MOVING_IN), (Fate.SHUT_OFF, Fate.HALF), (Fate.SHUT_OFF, Fate.ABSENT)],
            "never begins": [],
        }[self.plan]  # fmt: skip
        if self.phase < len(steps):
            self.source, self.destination = steps[self.phase]
            self.phase += 1
        self.over = self.phase >= len(steps)

    def look(self) -> tuple[Fate, Fate]:
        def seen(fate: Fate) -> Fate:
            return Fate.UNREAD if self.rng.random() < 0.2 else fate

        return seen(self.source), seen(self.destination)

    def vmctl(self) -> None:
        if self.rng.random() < 0.15:  # killed, and started again
            self.asked, self.waited_s, self.error = False, 0.0, ""
        source, destination = self.look()
        action = next_action(
            move=self.move, source=source, destination=destination, asked=self.asked, error=self.error,
            waited_s=self.waited_s,
        )  # fmt: skip
        self.waited_s += 5.0
        if self.rng.random() < 0.15:
            return  # killed between the look and the deed
        self.do(action.act)

    def do(self, act: Act) -> None:
        state = {Act.COMMIT: MigrationState.COMMITTED, Act.ROLL_BACK: MigrationState.UNDOING,
                 Act.FINISH: MigrationState.DONE, Act.CLOSE: MigrationState.FAILED}.get(act)  # fmt: skip
        if state is not None:
            self.move = replace(self.move, state=state)
            self.waited_s = 0.0
        if act is Act.REMOVE_AT_SOURCE:
            assert self.source not in LIVES
            self.source = Fate.ABSENT
        if act is Act.REMOVE_AT_DESTINATION:
            assert self.destination not in LIVES
            self.destination = Fate.ABSENT
        if act is Act.RESUME_AT_SOURCE:
            assert self.destination not in LIVES
            self.source = Fate.RUNNING


@pytest.mark.parametrize("seed", range(300))
def test_vm_ends_on_exactly_one_host_whatever_the_libvirts_do_and_whenever_vmctl_is_killed(seed: int) -> None:
    world = World(seed)
    for _ in range(400):
        if world.move.state.final:
            break
        if world.rng.random() < 0.5:
            world.libvirts()
        world.vmctl()
    assert world.move.state.final, "the row never closes"
    while world.phase and not world.over and world.plan in ("aborts", "goes off"):
        world.libvirts()
    alive = [fate for fate in (world.source, world.destination) if fate in LIVES]
    wanted = 0 if world.plan == "goes off" and world.phase > 1 else 1
    assert len(alive) == wanted, (world.plan, world.source, world.destination)
    assert (world.move.state is MigrationState.DONE) == (world.destination in LIVES)
    if world.move.state is MigrationState.DONE:
        assert world.source is Fate.ABSENT
    else:
        assert world.destination is Fate.ABSENT

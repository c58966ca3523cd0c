"""`make test-kernel`: run tests on Open vSwitch's kernel datapath, in machines with a kernel of their own.

    scripts/test-kernel                          the tests of the data plane
    scripts/test-kernel -k tunnel -x             options of pytest
    scripts/test-kernel tests/lab/test_ports.py  some tests
    scripts/test-kernel --machines 1 …           one machine; as a rule there are two, which share the tests
    scripts/test-kernel --limit-min 240 …        minutes until it is given up; as a rule 120
    scripts/test-kernel --rest …                 without the tests that earlier runs of this code have seen pass
    scripts/test-kernel --command ovs-vsctl -V   any command, in one machine

A line is shown for each test when it ends; failures in full, what was skipped and why, minutes and outcomes of each
file, and counts come last. What each machine says is kept in build/test-kernel/NUMBER/console.log, results in junit.xml
there. The exit status is that of pytest, or 3 where of some test nothing is known. Whatever ends us (an error, Ctrl-C,
SIGKILL) ends the machines. What has passed is written down at once, so `--rest` goes on where a run was ended; once any
file of the programs or tests has changed, it is all of them again.
"""

from __future__ import annotations

import compileall
import contextlib
import fcntl
import json
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from scripts.kernelkit.boot import Booted, boot, kernel_and_initrd
from scripts.kernelkit.passed import Passed, mark
from scripts.kernelkit.share import KNOWN, PLACE
from scripts.kernelkit.tally import INCOMPLETE, Tally, clock
from scripts.labkit.errors import LabError
from scripts.labkit.node import REPOSITORY

__all__ = ["main", "run"]

_OUT = REPOSITORY / "build/test-kernel"
_LIMIT_MIN = 120.0
_MACHINES = 2  # each keeps one core busy
_CODE = ("netmgr", "hostagent", "vmctl", "scripts", "tests")
_LOOK_S = 0.5
_STILL_S = 120.0  # after this long without a line, one says what is being waited for
_PATIENCE = 4  # what these processors do in a second of their clock, ours do in a quarter of one
_TEST_S = 600  # by the machine's clock, which stands still while others are served
_ENVIRONMENT = {
    "OPLAB_DATAPATH": "system",
    "OPLAB_DIR": "/var/oplab",  # the host's labs are none of these machines'
    "OPLAB_PATIENCE": str(_PATIENCE),
    "PYTHONUNBUFFERED": "1",
}


def main() -> None:
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments[:1]):
        print(__doc__.strip())
        return
    options = {"--machines": float(_MACHINES), "--limit-min": _LIMIT_MIN}
    rest = False
    while arguments and (arguments[0] == "--rest" or (arguments[0] in options and len(arguments) > 1)):
        if arguments[0] == "--rest":
            rest, arguments = True, arguments[1:]
            continue
        try:
            options[arguments[0]] = float(arguments[1])
        except ValueError:
            sys.exit(f"test-kernel: {arguments[0]} {arguments[1]}: wanted a number")
        arguments = arguments[2:]
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        if arguments[:1] == ["--command"]:
            sys.exit(run(arguments[1:]))
        limit_s = options["--limit-min"] * 60
        sys.exit(_tests(arguments, machines=int(options["--machines"]), limit_s=limit_s, rest=rest))
    except LabError as error:
        _say(str(error))
        sys.exit(INCOMPLETE)
    except KeyboardInterrupt:
        _say("interrupted; the machines are gone")
        sys.exit(130)


def run(command: Sequence[str], *, out: Path = _OUT) -> int:
    """Run *command* in a machine, in this checkout, to its end, showing what it says; its exit status.

    Raises LabError without one.
    """
    shutil.rmtree(out, ignore_errors=True)
    with boot(command, out=out, place=out, environment=_environment(), files=kernel_and_initrd(_say)) as machine:
        while machine.runs(_LOOK_S, show=sys.stdout.buffer):
            pass
    status = machine.status()
    if status is None:
        raise LabError(f"the machine ended without an exit status; its last words are in {machine.log}")
    return status


def _tests(arguments: Sequence[str], *, machines: int, limit_s: float, rest: bool) -> int:
    """Run pytest on *machines*, with *rest* without what has passed; the exit status of all."""
    began = time.monotonic()
    files = kernel_and_initrd(_say)
    tally, interrupted = Tally(), False
    with contextlib.ExitStack() as stack:
        stack.enter_context(_alone(_OUT.with_suffix(".lock")))
        shutil.rmtree(_OUT, ignore_errors=True)
        _OUT.mkdir(parents=True)
        passed = Passed(_OUT.with_suffix(".passed"), mark(REPOSITORY, _CODE))
        if rest:
            (_OUT / KNOWN).write_text("".join(f"{test}\n" for test in sorted(passed.tests)))
        _compile()
        running: dict[int, Booted] = {}
        for number in range(1, machines + 1):
            place = _OUT / str(number)
            environment = {**_environment(), PLACE: str(place)}
            command = _pytest(arguments, place)
            running[number] = stack.enter_context(
                boot(command, out=_OUT, place=place, environment=environment, files=files)
            )
        all_of_them = dict(running)
        _say(f"starting {machines} machine{'s' if machines > 1 else ''}; it takes a minute or two until the first test")
        try:
            _follow(running, tally, passed, began=began, limit_s=limit_s, stops="-x" in arguments)
        except LabError as error:
            _say(str(error))
        except KeyboardInterrupt:
            interrupted = True
    for line in tally.summary(took_s=time.monotonic() - began):
        print(line, flush=True)
    if interrupted:
        raise KeyboardInterrupt
    statuses = {number: machine.status() for number, machine in all_of_them.items()}
    if None in statuses.values() or not (tally.wanted or tally.left_out):
        for number, machine in all_of_them.items():
            print(f"machine {number} (status {statuses[number]}) said last:\n{machine.last_words()}", flush=True)
    return tally.status(statuses)


def _follow(
    running: dict[int, Booted], tally: Tally, passed: Passed, *, began: float, limit_s: float, stops: bool
) -> None:
    """Show what the machines tell and write down what has *passed*, until all have ended; with *stops*, until one has
    ended with a failure.

    Raises LabError when time is over.
    """
    told = dict.fromkeys(running, 0)
    shown = began
    while running:
        for number, machine in list(running.items()):
            try:
                goes_on = machine.runs(_LOOK_S / len(running))
            except LabError as error:  # the others go on
                _say(f"machine {number}: {error}")
                machine.end()
                goes_on = False
            events, told[number] = _events(machine.place / "events.jsonl", told[number])
            now_s = time.monotonic() - began
            for event in events:
                passed.take(event)
                if line := tally.take(number, event, now_s=now_s):
                    print(line, flush=True)
                    shown = time.monotonic()
            if not goes_on:
                del running[number]
                if stops and machine.status():
                    return
        now = time.monotonic()
        if now - began > limit_s:
            raise LabError(f"{clock(limit_s)} are over and not all tests have ended; --limit-min gives them longer")
        if now - shown > _STILL_S:
            shown = now
            _say(f"{clock(now - began)}, still running: {', '.join(tally.running()) or 'pytest begins'}")


def _compile() -> None:
    """Have bytecode of ours ready: there each of many processes would else spend seconds on it."""
    for package in _CODE:
        compileall.compile_dir(str(REPOSITORY / package), quiet=2)


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold *lock*. Raises LabError when another run of this checkout does: it writes where we would."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LabError("another run goes on in this checkout; wait for its end, or use another checkout") from None
        yield


def _pytest(arguments: Sequence[str], place: Path) -> list[str]:
    report = ["-v", "--color=no", f"--timeout={_TEST_S}", f"--junitxml={place / 'junit.xml'}"]
    chosen = [] if any(word.startswith("tests") for word in arguments) else ["-m", "datapath", "tests/lab"]
    plugins = ["-p", "no:cacheprovider", "-p", "scripts.kernelkit.share"]
    return [str(REPOSITORY / ".venv/bin/python"), "-m", "pytest", *plugins, *report, *chosen, *arguments]


def _environment() -> dict[str, str]:
    return {**_ENVIRONMENT, "COLUMNS": str(shutil.get_terminal_size((120, 24)).columns)}


def _events(file: Path, offset: int) -> tuple[list[dict[str, object]], int]:
    """Whole lines of *file* from *offset* on, and where they end."""
    if not file.exists():
        return [], offset
    with file.open("rb") as lines:
        lines.seek(offset)
        whole, newline, _ = lines.read().rpartition(b"\n")
    return [json.loads(line) for line in whole.splitlines()], offset + len(whole + newline)


def _say(sentence: str) -> None:
    print(f"test-kernel: {sentence}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

"""Machines of `make test-kernel` share one run: each test is run by one of them, and none is lost from the sum."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.kernelkit.passed import Passed, mark
from scripts.kernelkit.share import KNOWN, PLACE
from scripts.kernelkit.tally import FAILED, INCOMPLETE, Tally
from scripts.labkit.node import REPOSITORY

TESTS = {
    "test_few.py": "import time\ndef test_one(): time.sleep(0.3)\n",
    "test_many.py": """
        import pytest, time
        def test_passes(): time.sleep(0.3)
        def test_fails(): print("words of the test"); assert 1 == 2
        def test_is_skipped(): pytest.skip("for a reason")
        @pytest.fixture
        def broken(): raise RuntimeError("no lab")
        def test_has_no_lab(broken): pass
    """,
}


def collected(tally: Tally, *tests: str) -> None:
    tally.take(1, {"event": "collected", "tests": list(tests), "left_out": 0}, now_s=0)


def end(tally: Tally, test: str, outcome: str = "passed", *, machine: int = 1, text: str = "") -> str:
    tally.take(machine, {"event": "begins", "test": test}, now_s=60)
    return tally.take(machine, {"event": "ended", "test": test, "outcome": outcome, "text": text}, now_s=67)


def write_tests(directory: Path) -> list[str]:
    """The command that runs TESTS in *directory*, as machines do."""
    for name, text in TESTS.items():
        (directory / name).write_text("\n".join(line.removeprefix(" " * 8) for line in text.splitlines()) + "\n")
    (directory / "pytest.ini").write_text("[pytest]\n")
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "scripts.kernelkit.share", "."]


def test_two_sessions_run_each_test_once_and_tell_what_came_of_it(tmp_path: Path) -> None:
    command = write_tests(tmp_path)
    places = [tmp_path / "out" / number for number in "12"]
    sessions = []
    for place in places:
        place.mkdir(parents=True)
        environment = {**os.environ, PLACE: str(place), "PYTHONPATH": str(REPOSITORY)}
        sessions.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL))
    statuses: dict[int, int | None] = {number: session.wait() for number, session in enumerate(sessions)}

    tally, ran = Tally(), {}
    for number, place in enumerate(places):
        for line in (place / "events.jsonl").read_text().splitlines():
            event: dict[str, Any] = json.loads(line)
            tally.take(number, event, now_s=1)
            if event["event"] == "ended":
                assert event["test"] not in ran
                ran[event["test"]] = number
    assert sorted((one.test, one.outcome) for one in tally.ended) == [
        ("test_few.py::test_one", "passed"),
        ("test_many.py::test_fails", "failed"),
        ("test_many.py::test_has_no_lab", "failed"),
        ("test_many.py::test_is_skipped", "skipped"),
        ("test_many.py::test_passes", "passed"),
    ]
    assert len({machine for test, machine in ran.items() if "many" in test}) == 1, "they may share a lab"
    assert tally.missing == tally.running() == []
    assert tally.status(statuses) == FAILED
    said = "\n".join(tally.summary(took_s=61))
    for words in ("assert 1 == 2", "words of the test", "no lab", "for a reason"):
        assert words in said
    assert said.splitlines()[-1] == "2 passed, 2 failed, 1 skipped, of 5, in 1:01"


def test_what_has_passed_on_the_same_code_is_left_out_and_counted(tmp_path: Path) -> None:
    command = write_tests(tmp_path)
    place = tmp_path / "out" / "1"
    place.mkdir(parents=True)
    known = ["test_few.py::test_one", "test_many.py::test_passes", "test_many.py::test_that_is_gone"]
    (place.parent / KNOWN).write_text("\n".join(known) + "\n")
    environment = {**os.environ, PLACE: str(place), "PYTHONPATH": str(REPOSITORY)}
    status = subprocess.run(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL).returncode

    tally = Tally()
    for line in (place / "events.jsonl").read_text().splitlines():
        tally.take(1, json.loads(line), now_s=1)
    ran = ["fails", "has_no_lab", "is_skipped"]
    assert sorted(one.test for one in tally.ended) == [f"test_many.py::test_{name}" for name in ran]
    assert (status, tally.status({1: status})) == (FAILED, FAILED)
    assert list(tally.summary(took_s=1))[-1] == "2 failed, 1 skipped, of 3, in 0:01; 2 more passed in earlier runs"


def test_a_run_of_which_nothing_is_left_is_good() -> None:
    tally = Tally()
    tally.take(1, {"event": "collected", "tests": [], "left_out": 7}, now_s=0)
    assert tally.status({1: 5}) == 0  # pytest: nothing to run
    assert tally.status({1: 4}) == 4
    assert tally.status({1: None}) == INCOMPLETE
    assert list(tally.summary(took_s=9))[-1] == "no test ran, of 0, in 0:09; 7 more passed in earlier runs"


def test_what_has_passed_is_known_for_as_long_as_the_code_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "code" / "__pycache__").mkdir(parents=True)
    (tmp_path / "code" / "a.py").write_text("1")
    code, file = mark(tmp_path, ["code"]), tmp_path / "passed"
    first = Passed(file, code)
    for test, outcome in [("a", "passed"), ("b", "failed"), ("c", "passed"), ("d", "skipped"), ("c", "failed")]:
        first.take({"event": "begins", "test": test})
        first.take({"event": "ended", "test": test, "outcome": outcome})
    (tmp_path / "code" / "__pycache__" / "a.pyc").write_text("compiled")
    assert Passed(file, mark(tmp_path, ["code"])).tests == {"a"}

    (tmp_path / "code" / "a.py").write_text("2")
    assert Passed(file, mark(tmp_path, ["code"])).tests == set()
    (tmp_path / "code" / "a.py").write_text("1")
    assert Passed(file, code).tests == set(), "what passed before other code was run may have been forgotten"


def test_it_is_said_what_came_of_each_file_and_how_long_that_took() -> None:
    tally = Tally()
    collected(tally, "t/a.py::x", "t/a.py::y", "t/b.py::x", "t/b.py::z")
    for test, outcome in [("t/a.py::x", "passed"), ("t/b.py::x", "failed"), ("t/a.py::y", "skipped")]:
        end(tally, test, outcome)
    said = list(tally.summary(took_s=60))
    assert "  0:14 t/a.py: 1 passed, 1 skipped" in said
    assert "  0:07 t/b.py: 1 failed, 1 not run to their end" in said


def test_a_line_says_how_far_it_is() -> None:
    tally = Tally()
    collected(tally, "t::a", "t::b")
    assert end(tally, "t::a") == "[1/2  1:07]  passed  t::a (7 s)"


@pytest.mark.parametrize(
    ("outcomes", "statuses", "wanted"),
    [
        (["passed", "skipped"], {1: 0, 2: 0}, 0),
        (["passed", "failed"], {1: 1, 2: 0}, FAILED),
        (["passed", "failed"], {1: 0, 2: 0}, FAILED),
        (["passed"], {1: 0, 2: 0}, INCOMPLETE),  # of one nothing was told
        (["passed", "passed"], {1: 0, 2: None}, INCOMPLETE),
        (["passed", "failed"], {1: 1, 2: None}, FAILED),
        ([], {1: 4, 2: 4}, 4),  # words that pytest does not know
        (["passed"], {1: 2, 2: 0}, 2),
    ],
)
def test_the_status_is_good_only_where_each_test_is_known_to_be(
    outcomes: list[str], statuses: dict[int, int | None], wanted: int
) -> None:
    tally = Tally()
    collected(tally, "t::a", "t::b")
    for test, outcome in zip(("t::a", "t::b"), outcomes, strict=False):
        end(tally, test, outcome)
    assert tally.status(statuses) == wanted


def test_what_did_not_end_is_named() -> None:
    tally = Tally()
    collected(tally, "t::a", "t::b", "t::c")
    end(tally, "t::a")
    tally.take(2, {"event": "begins", "test": "t::b"}, now_s=70)
    said = list(tally.summary(took_s=3600))
    assert "did not end: t::b" in said
    assert said[-1] == "1 passed, 2 not run to their end, of 3, in 60:00"

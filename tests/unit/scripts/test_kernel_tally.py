"""Machines of `make test-kernel` share one run: each test is run by one of them, and none is lost from the sum."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.kernelkit.share import PLACE
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
    tally.take(1, {"event": "collected", "tests": list(tests)}, now_s=0)


def end(tally: Tally, test: str, outcome: str = "passed", *, machine: int = 1, text: str = "") -> str:
    tally.take(machine, {"event": "begins", "test": test}, now_s=60)
    return tally.take(machine, {"event": "ended", "test": test, "outcome": outcome, "text": text}, now_s=67)


def test_two_sessions_run_each_test_once_and_tell_what_came_of_it(tmp_path: Path) -> None:
    for name, text in TESTS.items():
        (tmp_path / name).write_text("\n".join(line.removeprefix(" " * 8) for line in text.splitlines()) + "\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "scripts.kernelkit.share", "."]
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

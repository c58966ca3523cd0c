"""A plugin of pytest, in each of the machines that share a run: who runs which tests, and what came of each.

All machines collect the same tests. Before the first test of a file a machine claims the file, by making a directory
that only one of them can make; a file that is another's is passed over in silence. So a machine that is done early
takes what is left, and tests that share a lab stay together. Files that may take long come first.

    OUT/known              tests that nobody has to run again, where there are such
    OUT/claims/FILE        made by the machine that runs FILE
    PLACE/events.jsonl     written here, one event a line (`tally.Tally.take`), read on the host while we run
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

__all__ = ["KNOWN", "PLACE", "Share"]

PLACE = "TEST_KERNEL_PLACE"
"""Environment: the directory of this machine; the one above it is that of all."""
KNOWN = "known"
_QUICK = "pipeline"  # a directory of tests whose labs are up at once


class Share:
    """What one machine knows of the run."""

    def __init__(self, place: Path) -> None:
        self._known = place.parent / KNOWN
        self._left_out = 0
        self._claims = place.parent / "claims"
        self._events = (place / "events.jsonl").open("a")
        self._ours: dict[str, bool] = {}
        self._reports: list[pytest.TestReport] = []

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        known = set(self._known.read_text().splitlines()) if self._known.exists() else set()
        left_out = [item for item in items if item.nodeid in known]
        items[:] = [item for item in items if item.nodeid not in known]
        config.hook.pytest_deselected(items=left_out)
        self._left_out = len(left_out)
        tests = Counter(_file(item) for item in items)
        items.sort(key=lambda item: (_QUICK in _file(item), -tests[_file(item)], _file(item)))  # stable within a file

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._tell(event="collected", tests=[item.nodeid for item in session.items], left_out=self._left_out)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """True, which is to say that it is dealt with, for a test of another machine."""
        return None if self._is_ours(_file(item)) else True

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._reports = []
        self._tell(event="begins", test=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._reports.append(report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        said = [report for report in self._reports if report.outcome != "passed"]
        outcome = next((report.outcome for report in said if report.failed), said[0].outcome if said else "passed")
        self._tell(event="ended", test=nodeid, outcome=outcome, text="\n".join(_words(said)))

    def _is_ours(self, file: str) -> bool:
        if file not in self._ours:
            try:
                (self._claims / file.replace("/", "+")).mkdir(parents=True)
                self._ours[file] = True
            except FileExistsError:
                self._ours[file] = False
        return self._ours[file]

    def _tell(self, **event: Any) -> None:
        self._events.write(json.dumps(event) + "\n")
        self._events.flush()


def pytest_configure(config: pytest.Config) -> None:
    if place := os.environ.get(PLACE):
        config.pluginmanager.register(Share(Path(place)))


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


def _words(reports: list[pytest.TestReport]) -> Iterator[str]:
    """Why a test was skipped, or how it failed, with what it printed."""
    for report in reports:
        if isinstance(report.longrepr, tuple):  # of a skip: file, line, reason
            yield str(report.longrepr[2])
        else:
            yield report.longreprtext
            yield from (f"{title}:\n{text}" for title, text in report.sections)

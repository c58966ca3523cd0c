"""What of a host is said upward, and to those that look on here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hostagent.reporting import Reporting
from netmgr.contract.types import HostReport


class Stream:
    """Notes what goes to the manager."""

    connected = True

    def __init__(self) -> None:
        self.reports: list[HostReport] = []

    def report(self, report: HostReport) -> None:
        self.reports.append(report)


def test_who_looks_on_is_told_when_a_host_is_in_sync_again_though_its_report_is_the_same() -> None:
    stream, told = Stream(), []
    reporting = Reporting(stream)  # type: ignore[arg-type]
    reporting.on_change.append(lambda: told.append(reporting.report))
    word: dict[str, Any] = {"refusals": {}, "missing": {}}
    report = replace(HostReport(), repairs_total=1)
    reporting.tell(report, in_sync=False, **word)
    reporting.tell(report, in_sync=True, **word)
    reporting.tell(report, in_sync=True, **word)
    assert (len(told), len(stream.reports)) == (2, 1)

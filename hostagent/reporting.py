"""What the agent says upward and to those who watch: acknowledgements, and the report on the host.

Both are levels. A word is said when it differs from the last one, and again on each new stream, because a stream that
was lost may have lost it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from uuid import UUID

from hostagent.sync_client import SyncClient
from netmgr.contract.types import HostReport, Ref, VifState

__all__ = ["Reporting"]

_HALF_DONE_S = 1.0

Rejections = tuple[tuple[Ref, str], ...]


class Reporting:
    """The last words of one host."""

    def __init__(self, sync: SyncClient) -> None:
        self._sync = sync
        self._acknowledged: tuple[int, Rejections] | None = None
        self._busy_since: float | None = None
        self.report = HostReport()
        """The host as last reported."""
        self.on_change: list[Callable[[], None]] = []
        """Called after each report that says something new, when the host falls out of sync or is in sync again,
        and when the stream comes or goes."""
        self._in_sync = False

    def acknowledge(self, revision: int, refused: Rejections) -> None:
        """Everything up to *revision* is realized, but for what is *refused*."""
        word = (revision, refused)
        if self._acknowledged != word and self._sync.connected:
            self._acknowledged = word
            self._sync.acknowledge(revision, refused)

    def hold_s(self, *, busy: bool, now: float) -> float:
        """For how long the report is to wait: while *busy* it would tell of what is half done, but not for ever."""
        if not busy:
            self._busy_since = None
            return 0.0
        self._busy_since = now if self._busy_since is None else self._busy_since
        return self._busy_since + _HALF_DONE_S - now

    def tell(
        self, report: HostReport, *, in_sync: bool, refusals: Mapping[UUID, str], missing: Mapping[UUID, str]
    ) -> None:
        """The host fares so; a dark VIF's reason is why the manager refused it, or why its endpoint is not there.

        Whether the host is *in_sync* is not in the report, but those that look on here wait for it.
        """
        vifs = tuple(
            replace(vif, reason=reason)
            if vif.state is VifState.DARK and (reason := missing.get(vif.vif_uuid) or refusals.get(vif.vif_uuid, ""))
            else vif
            for vif in report.vifs
        )
        report = replace(report, vifs=vifs)
        news, flipped = report != self.report, in_sync != self._in_sync
        self.report, self._in_sync = report, in_sync
        if news:
            self._sync.report(report)
        if news or flipped:
            self._changed()

    def on_connection(self, connected: bool) -> None:
        """A new stream knows nothing yet of what was said on the last one."""
        self._acknowledged = None
        if connected:
            self._sync.report(self.report)
        self._changed()

    def _changed(self) -> None:
        for changed in self.on_change:
            changed()

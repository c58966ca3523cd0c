"""The hosts as this replica sees them over their streams: in memory, true since the host's latest word.

Nothing here is durable: a restarted manager knows no host until it has connected again. `HostLive` values are replaced,
never changed, so readers in any thread see one consistent value. Only the event loop's thread writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from uuid import UUID

from netmgr.contract.types import HostReport, Kind
from netmgr.model import HostLive
from netmgr.sync.retries import dark_vifs

__all__ = ["Fleet"]


class Fleet:
    """Implements `netmgr.api.ports.FleetReader`; callable from any thread where not said otherwise."""

    def __init__(self) -> None:
        self._hosts: dict[UUID, HostLive] = {}
        self._hosts_by_vif: dict[UUID, set[UUID]] = {}
        self._dark: dict[UUID, frozenset[UUID]] = {}
        self._heard: list[Callable[[UUID], None]] = []
        self._news: asyncio.Event | None = None  # while somebody has it

    # --- readers ---------------------------------------------------------------------------------------------------

    def live(self, host_uuid: UUID) -> HostLive | None:
        """The latest word of one host; None when it has not connected to this replica since its start."""
        return self._hosts.get(host_uuid)

    def lives(self) -> Mapping[UUID, HostLive]:
        """A snapshot of all of them."""
        return dict(self._hosts)

    def connected_count(self) -> int:
        """How many hosts have a stream open now."""
        return sum(live.connected for live in self.lives().values())

    def realized(self, host_uuid: UUID, kind: Kind, uuid: UUID, *, version: int) -> bool:
        """True when a host of the object's span has confirmed *version* of it and rejects nothing of it.

        Only for hosts in the object's span: no other is sent the revision, so no other acknowledges it.
        """
        live = self._hosts.get(host_uuid)
        return live is not None and live.acked_revision >= version and (kind, uuid) not in live.rejections

    def in_sync(self, host_uuid: UUID) -> bool:
        """True when the host is connected and everything sent to it is acknowledged and nothing rejected."""
        live = self._hosts.get(host_uuid)
        return (
            live is not None
            and live.connected
            and live.wanted_revision > 0
            and live.acked_revision >= live.wanted_revision
            and not live.rejections
        )

    def hosts_of_vif(self, vif_uuid: UUID) -> frozenset[UUID]:
        """The hosts whose latest report has this VIF. In the event loop's thread only."""
        return frozenset(self._hosts_by_vif.get(vif_uuid, ()))

    def dark_hosts(self) -> tuple[UUID, ...]:
        """The hosts whose latest report has dark VIFs. In the event loop's thread only."""
        return tuple(self._dark)

    def dark_vifs(self, host_uuid: UUID) -> frozenset[UUID]:
        """The VIFs that are dark by the latest report of a host. In the event loop's thread only."""
        return self._dark.get(host_uuid, frozenset())

    @contextmanager
    def listening(self, heard: Callable[[UUID], None]) -> Iterator[None]:
        """Have *heard* called with each host of which something is new, in the event loop's thread, where this is."""
        self._heard.append(heard)
        try:
            yield
        finally:
            self._heard.remove(heard)

    async def changed(self, timeout_s: float) -> None:
        """Return at the next acknowledgement, report, connect or disconnect of any host, or after *timeout_s*.

        In the event loop's thread only. A change between two calls is missed: read after waiting, and bound the wait.
        """
        try:
            await asyncio.wait_for(self.news().wait(), timeout_s)
        except TimeoutError:
            return

    def news(self) -> asyncio.Event:
        """Is set at the next change; take it before you read."""
        if self._news is None:
            self._news = asyncio.Event()
        return self._news

    # --- writers: the event loop's thread --------------------------------------------------------------------------

    def connect(self, host_uuid: UUID, *, agent_version: str, now_s: float) -> None:
        """A stream was admitted. What the host had acknowledged before is asked anew; its last report stays."""
        before = self._hosts.get(host_uuid)
        report = before.report if before else HostReport()
        self._put(
            HostLive(host_uuid=host_uuid, connected=True, since=now_s, report=report, agent_version=agent_version)
        )

    def disconnect(self, host_uuid: UUID, *, now_s: float) -> None:
        """The host's stream is gone."""
        self._change(host_uuid, connected=False, since=now_s)

    def forget(self, host_uuid: UUID) -> None:
        """The host is enrolled no more."""
        if host_uuid in self._hosts:
            self._index(host_uuid, HostReport())
            del self._hosts[host_uuid]
            self._notify(host_uuid)

    def sent(self, host_uuid: UUID, *, revision: int) -> None:
        """The host is about to be sent the last part of *revision*."""
        self._change(host_uuid, wanted_revision=revision)

    def acknowledge(self, host_uuid: UUID, *, revision: int, rejections: Mapping[tuple[str, UUID], str]) -> None:
        """The host has realized everything up to *revision* but for *rejections*; it can't have more than was sent."""
        live = self._hosts[host_uuid]
        acked = max(live.acked_revision, min(revision, live.wanted_revision))
        self._change(host_uuid, acked_revision=acked, rejected=dict(rejections))

    def withhold(self, host_uuid: UUID, sentences: Mapping[tuple[str, UUID], str]) -> None:
        """All that the host is not sent now, because it could not read it, each with a sentence."""
        live = self._hosts.get(host_uuid)
        if live is not None and live.withheld != sentences:
            self._change(host_uuid, withheld=dict(sentences))

    def report(self, host_uuid: UUID, report: HostReport) -> None:
        """The host's whole status."""
        self._index(host_uuid, report)
        self._change(host_uuid, report=report)

    def _index(self, host_uuid: UUID, report: HostReport) -> None:
        live = self._hosts.get(host_uuid)
        if live is None:
            return
        self._dark.pop(host_uuid, None)
        if dark := dark_vifs(report):
            self._dark[host_uuid] = dark
        before, after = ({vif.vif_uuid for vif in one.vifs} for one in (live.report, report))
        for vif in before - after:
            self._hosts_by_vif[vif].discard(host_uuid)
            if not self._hosts_by_vif[vif]:
                del self._hosts_by_vif[vif]
        for vif in after - before:
            self._hosts_by_vif.setdefault(vif, set()).add(host_uuid)

    def _change(self, host_uuid: UUID, **changes: object) -> None:
        live = self._hosts.get(host_uuid)
        if live is not None:
            self._put(replace(live, **changes))  # type: ignore[arg-type]

    def _put(self, live: HostLive) -> None:
        self._hosts[live.host_uuid] = live
        self._notify(live.host_uuid)

    def _notify(self, host_uuid: UUID) -> None:
        for heard in tuple(self._heard):
            heard(host_uuid)
        if self._news is not None:
            self._news.set()
            self._news = None

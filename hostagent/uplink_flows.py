"""Whether uplink bridges still switch, and how they are made to.

Theory of operation. Open vSwitch gives a bridge that nobody controls one flow, which takes every frame as a learning
switch does. Once somebody has deleted it nobody gives it back, and no tunnel and no VLAN of the host works. A
connection to the bridge would tell at once, but in user space it costs a percent of what the switch forwards
(docs/bench.md). So vswitchd's control socket is asked every second. Flows that others put beside it are theirs.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from hostagent.flow import NORMAL, Flow, Output
from hostagent.realize.errors import RealizeError
from hostagent.realize.openflow import OpenFlowConnection
from hostagent.realize.unixctl import unixctl

__all__ = ["UplinkFlows", "switches_all"]

log = structlog.get_logger(__name__)

_EVERY_S = 1.0
_ALL = Flow(table=0, priority=0, cookie=0, match=(), actions=(Output(NORMAL),))
_SWITCHES_ALL = re.compile(r"^duration=\d+s, n_packets=\d+, n_bytes=\d+, (priority=\d+)?,actions=NORMAL$", re.MULTILINE)


def switches_all(dump: str) -> bool:
    """Whether a bridge with these flows (`ovs-appctl bridge/dump-flows`) has one of table 0 that switches any frame."""
    return _SWITCHES_ALL.search(dump) is not None


class UplinkFlows:
    """Made on the event loop; `follow` says which bridges are ours. *changed* is called when one has gone silent."""

    def __init__(self, rundir: Path, *, changed: Callable[[], None]) -> None:
        self._rundir = rundir
        self._changed = changed
        self._names: frozenset[str] = frozenset()
        self._silent: frozenset[str] = frozenset()
        self._watching: asyncio.Task[None] | None = None

    @property
    def silent(self) -> frozenset[str]:
        """Bridges that switched nothing of their own accord when they were last asked."""
        return self._silent & self._names

    def follow(self, names: Iterable[str]) -> None:
        """These are our uplink bridges, no others."""
        self._names = frozenset(names)

    async def ask(self) -> None:
        """Ask each bridge now."""
        for name in sorted(self._names):
            try:
                switches = switches_all(await unixctl(self._rundir, "bridge/dump-flows", name))
            except RealizeError:  # a switch that does not answer is told of elsewhere, and not read is not absent
                continue
            self._silent = self._silent - {name} if switches else self._silent | {name}

    async def put_normal(self, bridge: str) -> None:
        """Give *bridge* the flow that it should have; others stay.

        Raises:
            RealizeError: no connection, or refused.
        """
        connection = await OpenFlowConnection.connect(
            str(self._rundir / f"{bridge}.mgmt"),
            bridge=bridge,
            on_change=lambda: None,
            on_packet_in=lambda *_: None,
            on_close=lambda _: None,
        )
        try:
            await connection.bundle((), (_ALL,))
        finally:
            connection.close()
        self._silent -= {bridge}

    def start(self) -> None:
        self._watching = asyncio.create_task(self._watch(), name="uplink-flows")

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            before = self._silent
            await self.ask()
            if self._silent - before:
                self._changed()

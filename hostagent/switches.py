"""The switches of our bridges: an OpenFlow connection each, and their flows and meters as last read.

Theory of operation. A bundle that the switch has confirmed is what the switch now holds, so it is put into what was
read; changes by others come as `on_change` and cause a whole dump.

A bridge's connection exists as long as the bridge does and vswitchd answers. A connection that ends (vswitchd restarts,
the bridge goes) leaves nothing known of the bridge's flows, and is sought again at once and then every 100 ms, in the
background.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import structlog

from hostagent.flow import Action, Flow
from hostagent.flow_set import FlowSet
from hostagent.model import ChangeMeters, MeterLimit, Unread
from hostagent.pipeline.drops import Counted, Drop, drops_of
from hostagent.pipeline.tables import ATTENDED, CANARY
from hostagent.realize.errors import RealizeError
from hostagent.realize.openflow import OpenFlowConnection
from hostagent.realize.openflow_bundle import Bundle
from hostagent.realize.openflow_ports import Armed, PortWord
from hostagent.realize.unixctl import await_revalidation

__all__ = ["Switches"]

log = structlog.get_logger(__name__)

_RECONNECT_S = 0.1
_ECHO_S = 2.0
_REVALIDATION_S = 1.0  # of the switch's own accord, twice over


class Switches:
    """Made on the event loop; `follow` says which bridges are ours. *dirty* is called when there is something new to
    look at, "flows" or "settled"; *packet_in* with bridge, cookie, table, in_port and frame; *port* with bridge, name
    and ofport when a port is there, 0 when it is gone; *lost* when a bridge's switch is not heard any more."""

    def __init__(
        self,
        rundir: Path,
        *,
        dirty: Callable[[str], None],
        packet_in: Callable[[str, int, int, int, bytes], None],
        port: Callable[[str, str, int], None],
        lost: Callable[[str], None],
    ) -> None:
        self._rundir = rundir
        self._dirty = dirty
        self._packet_in = packet_in
        self._port = port
        self._gone = lost
        self._bundles: dict[str, int] = {}  # bundles committed by us, by bridge
        self._flows: dict[str, FlowSet] = {}
        self._meters: dict[str, frozenset[MeterLimit]] = {}
        self._stale: set[str] = set()
        self._switches: dict[str, OpenFlowConnection] = {}
        self._why_none: dict[str, str] = {}
        self._connecting: dict[str, asyncio.Task[None]] = {}
        self._retry_at: dict[str, float] = {}
        self._removed_from: set[str] = set()  # bridges whose cached megaflows may still know removed flows
        self._settling: asyncio.Task[None] | None = None
        self._closing = False
        self.added: Callable[[str, Sequence[Flow]], None] = lambda _bridge, _flows: None
        """Called when a bridge has confirmed flows that were added to it."""
        self.expected: Callable[[str], Iterable[Flow]] = lambda _bridge: ()
        """What a bridge will probably have, when its flows are read for the first time."""

    async def close(self) -> None:
        self._closing = True
        tasks = [*self._connecting.values(), *([self._settling] if self._settling is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in list(self._switches.values()):
            connection.close()

    # --- reading ---------------------------------------------------------------------------------------------------

    def flows(self, bridge: str) -> FlowSet | Unread:
        """The flows of *bridge* as last read."""
        known = self._flows.get(bridge) if bridge in self._switches else None
        return known if known is not None else Unread(self._why_none.get(bridge, "not connected yet"))

    def meters(self) -> dict[str, frozenset[MeterLimit]]:
        """By bridge: its meters as last read."""
        return {name: meters for name, meters in self._meters.items() if name in self._switches}

    def forget(self) -> None:
        """Read everything anew next time."""
        self._stale.update(self._switches)

    @property
    def settling(self) -> bool:
        """True while a frame may still be switched by what was removed: a barrier does not tell of cached megaflows."""
        return self._settling is not None and not self._settling.done()

    async def drops(self) -> dict[str, tuple[Drop, ...]]:
        """By bridge: the frames that ended there, by port and reason, as the switch counts them now.

        Raises:
            RealizeError: a switch did not answer.
        """
        return {
            name: drops_of(await switch.count(), await switch.meter_drops())
            for name, switch in sorted(self._switches.items())
        }

    async def count(self, bridge: str) -> tuple[Counted, ...]:
        """The flows of *bridge*, each with what has met it.

        Raises:
            RealizeError: no connection, or the switch did not answer.
        """
        return tuple(await self._switch(bridge).count())

    async def count_table(self, table: int) -> dict[str, tuple[Counted, ...]]:
        """By bridge: the flows of one *table*, with what has met each.

        Raises:
            RealizeError: a switch did not answer.
        """
        return {name: await switch.count(table) for name, switch in sorted(self._switches.items())}

    def alive(self) -> dict[str, bool]:
        """By bridge: whether its switch answers; as of now, or of the last `probe`."""
        return {name: not connection.closed for name, connection in self._switches.items()}

    def connected(self, bridge: str) -> bool:
        """Whether there is an OpenFlow connection to *bridge*."""
        return bridge in self._switches

    def packets_out(self, bridge: str, packets: Iterable[tuple[tuple[Action, ...], bytes]]) -> None:
        """Have the switch do the actions with each frame; lost without a word where there is no connection."""
        if bridge in self._switches:
            self._switches[bridge].packets_out(packets)

    def resubmit(self, bridge: str, in_port: int, frames: Sequence[bytes]) -> None:
        """Have the switch take *frames* as if they had just come in by *in_port*; lost where there is no connection."""
        if frames and bridge in self._switches:
            self._switches[bridge].resubmit(in_port, frames)

    def hear(self, bridge: str, armed: Armed | None = None) -> bool:
        """Take what the switch of *bridge* has said already, ahead of the event loop; if it is the word that *armed*
        waits for, that leaves first. False where nothing was said."""
        return bridge in self._switches and self._switches[bridge].hear(armed)

    async def echo(self, bridge: str, timeout_s: float) -> bool:
        """Whether the switch of *bridge* answers an echo within *timeout_s*; if not, the connection is ended."""
        try:
            await self._switch(bridge).echo(timeout_s)
        except RealizeError:
            return False
        return True

    async def probe(self) -> None:
        """Ask every switch for an echo; a connection whose switch does not answer is ended."""
        probes = (connection.echo(_ECHO_S) for connection in list(self._switches.values()))
        await asyncio.gather(*probes, return_exceptions=True)

    # --- changing --------------------------------------------------------------------------------------------------

    async def change_flows(
        self, bridge: str, *, delete: Sequence[Flow], add: Sequence[Flow], urgent: bool = False
    ) -> None:
        """One bundle over the open connection; returns when the switch has confirmed it.

        Raises:
            RealizeError: no connection, or refused.
        """
        confirmed = self._switch(bridge).bundle(delete, add, urgent=urgent)
        await self._changed(bridge, delete, add, confirmed)

    def pack(self, bridge: str, add: Sequence[Flow]) -> Bundle | None:
        """A bundle that adds these flows to *bridge*, made before it is due; None where that can't be."""
        with suppress(RealizeError):  # that is told when they are to be added
            return self._switch(bridge).pack((), add)
        return None

    def arm(self, bridge: str, bundle: Bundle, word: PortWord) -> Armed | None:
        """*bundle*, ready to leave within a call (`fire`), or with the switch's *word* (`hear`). None where it is for
        `change_flows`."""
        connection = self._switches.get(bridge)
        return connection.arm(bundle, word) if connection is not None else None

    def fire(self, bridge: str, armed: Armed, frames: Sequence[bytes]) -> asyncio.Task[None]:
        """Send what was armed, unless it has left, and right behind it *frames* (see `resubmit`). The task ends as
        `change_flows` does."""
        sent = armed.fire(frames)
        return asyncio.create_task(self._changed(bridge, armed.bundle.delete, armed.bundle.add, sent))

    async def attend(self, bridge: str, *, no_more: bool = False) -> None:
        """Have *bridge* send solicitations that it can't answer here for 20 s from now, or *no_more* of them.

        Raises:
            RealizeError: no connection, or refused.
        """
        flows = (ATTENDED,)
        await self._switch(bridge).bundle(*((flows, ()) if no_more else ((), flows)))

    async def flush_zone(self, bridge: str, zone: int) -> None:
        """Forget all connections in *zone* of the connection tracker that *bridge* uses.

        Raises:
            RealizeError: no connection, or refused.
        """
        await self._switch(bridge).flush_zone(zone)

    async def change_meters(self, step: ChangeMeters) -> None:
        """Carry *step* out.

        Raises:
            RealizeError: no connection, or refused.
        """
        connection = self._switches.get(step.bridge)
        if connection is None:
            raise RealizeError(f"bridge {step.bridge}: not connected; its meters follow when it answers")
        try:
            await connection.change_meters(put=step.put, remove=step.remove)
            self._meters[step.bridge] = await connection.meters()  # of flows that went with one the monitor tells
        except RealizeError:
            self._stale.add(step.bridge)
            raise

    def removed_from(self, bridge: str) -> None:
        """Flows of *bridge* were removed: it settles once no cached megaflow knows them."""
        self._removed_from.add(bridge)
        if not self.settling:
            self._settling = asyncio.create_task(self._settle(), name="revalidation")

    def follow(self, wanted: Iterable[str]) -> None:
        """These are our bridges, no others."""
        names = set(wanted)
        for name in set(self._switches) - names:
            self._switches.pop(name).close()
            self._flows.pop(name, None)
        for name in names - set(self._switches) - set(self._connecting):
            if time.monotonic() >= self._retry_at.get(name, 0.0):
                self._connecting[name] = asyncio.create_task(self._connect(name), name=f"openflow-{name}")

    async def read_stale(self) -> None:
        """Read what others have changed, or what is not known."""
        for name in sorted(self._stale & set(self._switches)):
            self._stale.discard(name)
            bundles = self._bundles.get(name, 0)
            try:
                before = self._flows.get(name)
                flows = await self._switches[name].dump(before=before or frozenset())
                self._flows[name] = FlowSet(_lasting(flows))
                self._meters[name] = await self._switches[name].meters()
                if self._bundles.get(name, 0) != bundles:  # committed during the dump: in it or not, who knows
                    self._stale.add(name)
            except RealizeError as error:
                self._flows.pop(name, None)
                self._why_none[name] = error.sentence
                self._stale.add(name)
                asyncio.get_running_loop().call_later(_RECONNECT_S, self._dirty, "flows")

    # --- inside ----------------------------------------------------------------------------------------------------

    def _switch(self, bridge: str) -> OpenFlowConnection:
        connection = self._switches.get(bridge)
        if connection is None:
            why = self._why_none.get(bridge, "not connected yet")
            raise RealizeError(f"bridge {bridge}: {why}; its flows follow when it answers")
        return connection

    async def _changed(
        self, bridge: str, delete: Sequence[Flow], add: Sequence[Flow], confirmed: Awaitable[None]
    ) -> None:
        try:
            await confirmed
        except RealizeError:
            self._stale.add(bridge)
            raise
        self._bundles[bridge] = self._bundles.get(bridge, 0) + 1
        self.added(bridge, add)
        before = self._flows.get(bridge)
        if before is None:
            self._stale.add(bridge)
            return
        self._flows[bridge] = before.changed(delete=delete, add=add)

    async def _settle(self) -> None:
        while self._removed_from:
            connection = self._switches.get(self._removed_from.pop())
            if connection is None:
                continue  # what forwarded for the bridge is gone with it
            try:
                kick = partial(connection.bundle, (), (CANARY,))
                await await_revalidation(self._rundir, kick=kick)
            except RealizeError as error:
                log.warning("revalidation: not confirmed, waited out", bridge=connection.bridge, reason=error.sentence)
                await asyncio.sleep(_REVALIDATION_S)
        self._settling = None
        self._dirty("settled")

    async def _connect(self, name: str) -> None:
        """Connect in the background: a switch that does not answer must not keep the loop from the others."""
        try:
            connection = await OpenFlowConnection.connect(
                str(self._rundir / f"{name}.mgmt"),
                bridge=name,
                on_change=partial(self._flows_changed, name),
                on_packet_in=partial(self._packet_in, name),
                on_close=partial(self._switch_lost, name),
                on_port=partial(self._port, name),
                timeout_s=2.0,
            )
            flows = await connection.dump(expected=partial(self.expected, name))
            meters = await connection.meters()
        except RealizeError as error:
            if self._why_none.get(name) != error.sentence:
                log.info("openflow: no connection yet", bridge=name, reason=error.sentence)
            self._why_none[name] = error.sentence
            self._retry_at[name] = time.monotonic() + _RECONNECT_S
            asyncio.get_running_loop().call_later(_RECONNECT_S, self._dirty, "flows")
            return
        finally:
            del self._connecting[name]
        if not connection.closed:
            log.info("openflow: connected", bridge=name, flows=len(flows))
            self._why_none.pop(name, None)
            self._switches[name] = connection
            self._flows[name], self._meters[name] = FlowSet(_lasting(flows)), meters
        self._dirty("flows")

    def _flows_changed(self, bridge: str) -> None:
        self._stale.add(bridge)
        self._dirty("flows")

    def _switch_lost(self, bridge: str, why: str) -> None:
        self._gone(bridge)
        if self._switches.pop(bridge, None) is None or self._closing:
            return
        log.warning("openflow: connection lost", bridge=bridge, reason=why)
        self._flows.pop(bridge, None)
        self._stale.discard(bridge)
        self._why_none[bridge] = f"bridge {bridge}: the OpenFlow connection ended ({why})"
        self._dirty("flows")


def _lasting(flows: frozenset[Flow]) -> frozenset[Flow]:
    """*flows* without the one that comes and goes by itself."""
    return flows - {ATTENDED} if ATTENDED in flows else flows

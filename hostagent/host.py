"""The host as the agent sees it: the modules of `realize` together, read into `Observed`, changed by `Step`s.

Theory of operation. Each part of the host is read again only when something said that it changed; what was read is
kept. Flows are the exception to re-reading: a bundle that the switch has confirmed is what the switch now holds, so it
is put into what was read; changes by others come as `on_change` and cause a whole dump. `forget()` makes everything
be read anew.

Events of the kernel's links and of libvirt's networks cause a reading beside the loop (`readings`).

A bridge's OpenFlow connection exists as long as the bridge does and vswitchd answers. A connection that ends (vswitchd
restarts, the bridge goes) turns the bridge's flows into `Unread`, and is sought again at once and then every 100 ms,
in the background.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from hostagent.flow import Action, Flow, sharing
from hostagent.model import (
    Bridge,
    ChangeFlows,
    ChangeMeters,
    DefineNetwork,
    KeepNetwork,
    Link,
    MeterLimit,
    Observed,
    PathStatus,
    RemoveNetwork,
    Step,
    Unread,
)
from hostagent.names import SWITCH_KEY, is_ours
from hostagent.pipeline.drops import Counted, Drop, drops_of
from hostagent.pipeline.tables import CANARY
from hostagent.readings import LinkReadings, NetworkReadings
from hostagent.realize.domains import DomainEvent, Domains
from hostagent.realize.errors import RealizeError
from hostagent.realize.libvirt_link import LibvirtLink
from hostagent.realize.netlink import NetlinkStep
from hostagent.realize.openflow import OpenFlowConnection
from hostagent.realize.ovsdb import OvsDb, OvsStep
from hostagent.realize.unixctl import await_revalidation, unixctl
from hostagent.strays import Stray, believed

__all__ = ["Events", "Host", "HostPaths"]

log = structlog.get_logger(__name__)

_RECONNECT_S = 0.1
_ECHO_S = 2.0
_REVALIDATION_S = 1.0  # of the switch's own accord, twice over
_CT_PASSES_MAX = 8  # times that a traced frame may meet the connection tracker; more than the pipeline has
NO_LIBVIRT = "none"
_NO_LIBVIRT = "libvirt is switched off on this host"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPaths:
    """Where the host's daemons answer. `libvirt_uri` "none" means that there is no libvirt to care for."""

    ovs_rundir: Path = Path("/run/openvswitch")
    libvirt_uri: str = "qemu:///system"

    @property
    def libvirt_absent(self) -> bool:
        """True where no local libvirt daemon has a socket; nothing of it can be compared then."""
        if self.libvirt_uri != "qemu:///system":
            return self.libvirt_uri == NO_LIBVIRT
        return not any((Path("/run/libvirt") / name).exists() for name in ("libvirt-sock", "virtqemud-sock"))

    @property
    def ovsdb(self) -> str:
        return f"unix:{self.ovs_rundir}/db.sock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """What the host tells the agent; called on the event loop, must not wait."""

    dirty: Callable[[str], None]  # which part: "ovsdb", "links", "networks", "flows"
    packet_in: Callable[[str, int, int, int, bytes], None]  # bridge, cookie, table, in_port, frame
    domain: Callable[[DomainEvent], None]
    libvirt: Callable[[], None]  # connection made or lost


class Host:
    """Made on the event loop; `start` it, `close` it. Closing changes nothing on the host."""

    def __init__(self, paths: HostPaths, events: Events) -> None:
        self._paths = paths
        self._events = events
        self._bundles: dict[str, int] = {}  # bundles committed by us, by bridge
        self._flows: dict[str, frozenset[Flow]] = {}
        self._meters: dict[str, frozenset[MeterLimit]] = {}
        self._stale_flows: set[str] = set()
        self._switches: dict[str, OpenFlowConnection] = {}
        self._why_no_switch: dict[str, str] = {}
        self._connecting: dict[str, asyncio.Task[None]] = {}
        self._retry_at: dict[str, float] = {}
        self._removed_from: set[str] = set()  # bridges whose cached megaflows may still know removed flows
        self._settling: asyncio.Task[None] | None = None
        self._closing = False
        self.paths: tuple[PathStatus, ...] = ()
        """What is known of the ways to peers; whoever probes them says it."""
        self.expected: Callable[[str], Iterable[Flow]] = lambda _bridge: ()
        """What a bridge will probably have, when its flows are read for the first time."""
        self._ovsdb = OvsDb(paths.ovsdb, on_change=partial(events.dirty, "ovsdb"))
        self._links = LinkReadings(partial(events.dirty, "links"))
        self.libvirt = LibvirtLink(paths.libvirt_uri) if paths.libvirt_uri != NO_LIBVIRT else None
        self.domains: Domains | None = None
        self._networks: NetworkReadings | None = None
        if self.libvirt is not None:
            self._networks = NetworkReadings(self.libvirt, partial(events.dirty, "networks"))
            self.domains = Domains(self.libvirt, on_event=events.domain, on_reconnect=events.libvirt)

    def start(self) -> None:
        self._ovsdb.start()
        self._links.start()
        if self.libvirt is not None:
            self.libvirt.start()

    async def close(self) -> None:
        self._closing = True
        tasks = [*self._connecting.values(), *([self._settling] if self._settling is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in list(self._switches.values()):
            connection.close()
        await self._ovsdb.close()
        await self._links.close()
        if self._networks is not None:
            await self._networks.close()
        if self.libvirt is not None:
            await self.libvirt.close()

    # --- reading ---------------------------------------------------------------------------------------------------

    async def observe(self) -> Observed:
        """The host as it is, reading again what changed since the last time."""
        bridges = self._ovsdb.read_bridges()
        if isinstance(bridges, tuple):
            self._connect_switches(bridge.name for bridge in bridges if _is_switch(bridge))
        links = await self._links.now()
        if self._networks is not None:
            self._networks.refresh()
        await self._dump_stale()
        return self._observed(bridges, links)

    async def read_links(self) -> tuple[Link, ...] | Unread:
        """The kernel's interfaces as they are, read again if they changed."""
        if not self._links.fresh:
            self._links.forget()
        return await self._links.now()

    @property
    def links_fresh(self) -> bool:
        """False while the kernel has told of a change of links that is not read yet."""
        return self._links.fresh

    def cached(self) -> Observed:
        """The host as last read, without waiting for anything."""
        return self._observed(self._ovsdb.read_bridges(), self._links.last)

    def forget(self) -> None:
        """Read everything anew next time, from the source."""
        self._links.forget()
        if self._networks is not None:
            self._networks.forget()
        self._stale_flows.update(self._switches)

    @property
    def reading_networks(self) -> bool:
        """True while libvirt's networks are being read: what is observed of them is not the newest."""
        return self._networks is not None and self._networks.reading

    @property
    def awaits_networks(self) -> bool:
        """True while nothing is known of libvirt's networks and they are being read."""
        return self._networks is not None and self._networks.awaited

    @property
    def settling(self) -> bool:
        """True while a frame may still be switched by what was removed: a barrier does not tell of cached megaflows."""
        return self._settling is not None and not self._settling.done()

    async def drops(self) -> dict[str, tuple[Drop, ...]]:
        """By bridge: the frames that ended there, by port and reason, as the switch counts them now.

        Raises:
            RealizeError: a switch did not answer.
        """
        return {name: drops_of(await switch.count()) for name, switch in sorted(self._switches.items())}

    async def count(self, bridge: str) -> tuple[Counted, ...]:
        """The flows of *bridge*, each with what has met it.

        Raises:
            RealizeError: no connection, or the switch did not answer.
        """
        return tuple(await self._switch(bridge).count())

    async def trace(self, bridge: str, flow: str) -> str:
        """What vswitchd says that *bridge* would do with a frame like *flow*; to the connection tracker it is new.

        Raises:
            RealizeError: vswitchd did not answer, or does not understand *flow*.
        """
        new = ("--ct-next", "trk,new") * _CT_PASSES_MAX
        return await unixctl(self._paths.ovs_rundir, "ofproto/trace", bridge, flow, *new)

    async def connections(self, zone: int) -> str:
        """What vswitchd says of the connections in *zone* of its connection tracker, a line each.

        Raises:
            RealizeError: vswitchd did not answer, or has datapaths of both kinds and does not know which is meant.
        """
        return await unixctl(self._paths.ovs_rundir, "dpctl/dump-conntrack", f"zone={zone}")

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

    async def apply(self, steps: Sequence[Step]) -> list[tuple[Step, str]]:
        """Carry *steps* out in their order; those that failed, with the sentence.

        A failed step does not stop the others: what depends on it fails by itself, and says so.
        """
        failed: list[tuple[Step, str]] = []
        index = 0
        while index < len(steps):
            step = steps[index]
            if isinstance(step, OvsStep):
                batch: list[OvsStep] = [step]
                while index + len(batch) < len(steps):
                    following = steps[index + len(batch)]
                    if not isinstance(following, OvsStep):
                        break
                    batch.append(following)
                failed += await self._apply_ovsdb(batch)
                index += len(batch)
                continue
            try:
                await self._apply_one(step)
            except RealizeError as error:
                failed.append((step, error.sentence))
            index += 1
        return failed

    async def change_flows(
        self, bridge: str, *, delete: Sequence[Flow], add: Sequence[Flow], urgent: bool = False
    ) -> None:
        """One bundle over the open connection; returns when the switch has confirmed it.

        Raises:
            RealizeError: no connection, or refused.
        """
        connection = self._switch(bridge)
        try:
            await connection.bundle(delete, add, urgent=urgent)
        except RealizeError:
            self._stale_flows.add(bridge)
            raise
        self._bundles[bridge] = self._bundles.get(bridge, 0) + 1
        before = self._flows.get(bridge)
        if before is None:
            self._stale_flows.add(bridge)
            return
        replaced, ends = {flow.key() for flow in add}, {_end(flow) for flow in add}
        gone = [flow for flow in before if _end(flow) in ends and flow.key() in replaced]
        self._flows[bridge] = before.difference(delete, gone).union(add)

    async def flush_zone(self, bridge: str, zone: int) -> None:
        """Forget all connections in *zone* of the connection tracker that *bridge* uses.

        Raises:
            RealizeError: no connection, or refused.
        """
        await self._switch(bridge).flush_zone(zone)

    async def forget_macs(self, wanted: Collection[Stray]) -> None:
        """Have uplink bridges forget those of *wanted* that they believe. Only an entry that was set can be removed, so
        each is set first.

        Raises:
            RealizeError: vswitchd did not answer.
        """
        rundir = self._paths.ovs_rundir
        for bridge in sorted({one.bridge for one in wanted}):
            known = believed(await unixctl(rundir, "fdb/show", bridge))
            for one in sorted(wanted):
                if one.bridge == bridge and (one.ofport, one.vlan, one.mac) in known:
                    await unixctl(rundir, "fdb/add", bridge, one.port, str(one.vlan), one.mac)
                    await unixctl(rundir, "fdb/del", bridge, str(one.vlan), one.mac)
                    log.info("forgotten: its guest is elsewhere", bridge=bridge, vlan=one.vlan, mac=one.mac)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _switch(self, bridge: str) -> OpenFlowConnection:
        connection = self._switches.get(bridge)
        if connection is None:
            why = self._why_no_switch.get(bridge, "not connected yet")
            raise RealizeError(f"bridge {bridge}: {why}; its flows follow when it answers")
        return connection

    async def _apply_ovsdb(self, batch: Sequence[OvsStep]) -> list[tuple[Step, str]]:
        try:
            await self._ovsdb.apply(batch)
        except RealizeError as error:
            if len(batch) == 1:
                return [(batch[0], error.sentence)]
            failed: list[tuple[Step, str]] = []
            for step in batch:  # one that can't be done must not hold the others up
                failed += await self._apply_ovsdb([step])
            return failed
        self._links.forget()  # bridges and ports are links too
        return []

    async def _apply_one(self, step: Step) -> None:
        if isinstance(step, NetlinkStep):
            self._links.forget()
            await self._links.netlink.apply([step])
        elif isinstance(step, DefineNetwork | KeepNetwork | RemoveNetwork):
            if self._networks is None:
                raise RealizeError("libvirt is switched off on this host; no network can be defined")
            await self._networks.apply(step)
        elif isinstance(step, ChangeFlows):
            await self.change_flows(step.bridge, delete=step.delete, add=step.add)
            if step.delete:
                self._removed_from.add(step.bridge)
                if not self.settling:
                    self._settling = asyncio.create_task(self._settle(), name="revalidation")
        elif isinstance(step, ChangeMeters):
            await self._change_meters(step)
        else:
            raise AssertionError(f"step out of order: {step}")

    async def _change_meters(self, step: ChangeMeters) -> None:
        connection = self._switches.get(step.bridge)
        if connection is None:
            raise RealizeError(f"bridge {step.bridge}: not connected; its meters follow when it answers")
        self._stale_flows.add(step.bridge)  # whatever comes of it: meters are read with flows
        await connection.change_meters(put=step.put, remove=step.remove)

    async def _settle(self) -> None:
        while self._removed_from:
            connection = self._switches.get(self._removed_from.pop())
            if connection is None:
                continue  # what forwarded for the bridge is gone with it
            try:
                kick = partial(connection.bundle, (), (CANARY,))
                await await_revalidation(self._paths.ovs_rundir, kick=kick)
            except RealizeError as error:
                log.warning("revalidation: not confirmed, waited out", bridge=connection.bridge, reason=error.sentence)
                await asyncio.sleep(_REVALIDATION_S)
        self._settling = None
        self._events.dirty("settled")

    def _connect_switches(self, wanted: Iterable[str]) -> None:
        names = set(wanted)
        for name in set(self._switches) - names:
            self._switches.pop(name).close()
            self._flows.pop(name, None)
        for name in names - set(self._switches) - set(self._connecting):
            if time.monotonic() >= self._retry_at.get(name, 0.0):
                self._connecting[name] = asyncio.create_task(self._connect(name), name=f"openflow-{name}")

    async def _connect(self, name: str) -> None:
        """Connect in the background: a switch that does not answer must not keep the loop from the others."""
        try:
            connection = await OpenFlowConnection.connect(
                str(self._paths.ovs_rundir / f"{name}.mgmt"),
                bridge=name,
                on_change=partial(self._flows_changed, name),
                on_packet_in=partial(self._packet_in, name),
                on_close=partial(self._switch_lost, name),
                timeout_s=2.0,
            )
            connection.expect(self.expected(name))
            flows, meters = await connection.dump(), await connection.meters()
        except RealizeError as error:
            if self._why_no_switch.get(name) != error.sentence:
                log.info("openflow: no connection yet", bridge=name, reason=error.sentence)
            self._why_no_switch[name] = error.sentence
            self._retry_at[name] = time.monotonic() + _RECONNECT_S
            asyncio.get_running_loop().call_later(_RECONNECT_S, self._events.dirty, "flows")
            return
        finally:
            del self._connecting[name]
        if not connection.closed:
            log.info("openflow: connected", bridge=name, flows=len(flows))
            self._why_no_switch.pop(name, None)
            self._switches[name] = connection
            self._flows[name], self._meters[name] = flows, meters
        self._events.dirty("flows")

    async def _dump_stale(self) -> None:
        for name in sorted(self._stale_flows & set(self._switches)):
            self._stale_flows.discard(name)
            bundles = self._bundles.get(name, 0)
            try:
                before = self._flows.get(name)
                found = await self._switches[name].dump(before=before or frozenset())
                self._flows[name] = sharing(found, before)
                self._meters[name] = await self._switches[name].meters()
                if self._bundles.get(name, 0) != bundles:  # committed during the dump: in it or not, who knows
                    self._stale_flows.add(name)
            except RealizeError as error:
                self._flows.pop(name, None)
                self._why_no_switch[name] = error.sentence
                self._stale_flows.add(name)
                asyncio.get_running_loop().call_later(_RECONNECT_S, self._events.dirty, "flows")

    def _observed(self, bridges: tuple[Bridge, ...] | Unread, links: tuple[Link, ...] | Unread) -> Observed:
        flows: dict[str, frozenset[Flow] | Unread] = {}
        if isinstance(bridges, tuple):
            for bridge in bridges:
                if _is_switch(bridge):
                    name = bridge.name
                    why = self._why_no_switch.get(name, "not connected yet")
                    known = self._flows.get(name) if name in self._switches else None
                    flows[name] = known if known is not None else Unread(why)
        return Observed(
            bridges=bridges,
            links=links,
            libvirt_networks=self._networks.last if self._networks is not None else Unread(_NO_LIBVIRT),
            flows=flows,
            meters={name: meters for name, meters in self._meters.items() if name in self._switches},
            loose_qos=self._ovsdb.read_loose_qos(),
            paths=self.paths,
        )

    def _flows_changed(self, bridge: str) -> None:
        self._stale_flows.add(bridge)
        self._events.dirty("flows")

    def _packet_in(self, bridge: str, cookie: int, table: int, in_port: int, frame: bytes) -> None:
        self._events.packet_in(bridge, cookie, table, in_port, frame)

    def _switch_lost(self, bridge: str, why: str) -> None:
        if self._switches.pop(bridge, None) is None or self._closing:
            return
        log.warning("openflow: connection lost", bridge=bridge, reason=why)
        self._flows.pop(bridge, None)
        self._stale_flows.discard(bridge)
        self._why_no_switch[bridge] = f"bridge {bridge}: the OpenFlow connection ended ({why})"
        self._events.dirty("flows")


def _end(flow: Flow) -> int | bytes | None:
    """A part of its key, quick to compare."""
    return flow.match[-1].value if flow.match else None


def _is_switch(bridge: Bridge) -> bool:
    return is_ours(bridge.external_ids) and SWITCH_KEY in bridge.external_ids

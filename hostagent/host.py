"""The host as the agent sees it: the modules of `realize` together, read into `Observed`, changed by `Step`s.

Theory of operation. Each part of the host is read again only when something said that it changed; what was read is
kept. Flows are the exception to re-reading (`switches`). `forget()` makes everything be read anew.

Events of the kernel's links and of libvirt's networks cause a reading beside the loop (`readings`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import UUID

import structlog

from hostagent.early_ofports import EarlyOfports
from hostagent.model import (
    Bridge,
    ChangeFlows,
    ChangeMeters,
    DefineNetwork,
    KeepNetwork,
    Link,
    Observed,
    PathStatus,
    PutNormal,
    RemoveNetwork,
    Step,
    Unread,
)
from hostagent.names import is_switch_bridge, is_uplink_bridge
from hostagent.readings import LinkReadings, NetworkReadings
from hostagent.realize.domains import DomainEvent, Domains
from hostagent.realize.errors import RealizeError
from hostagent.realize.libvirt_link import LibvirtLink
from hostagent.realize.netlink import NetlinkStep
from hostagent.realize.ovsdb import OvsDb, OvsStep
from hostagent.realize.ovsdb_taps import NewTap
from hostagent.realize.ovsdb_writes import OvsdbWrites
from hostagent.realize.unixctl import socket_of, unixctl
from hostagent.strays import Stray, believed
from hostagent.switches import Switches
from hostagent.uplink_flows import UplinkFlows

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
    ovs_database: Path = Path("/etc/openvswitch/conf.db")
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

    dirty: Callable[[str], None]  # which part: "ovsdb", "links", "networks", "flows", "settled"
    port: Callable[[str, str, int], None] = lambda _bridge, _name, _ofport: None  # a switch has told of a port
    tap: Callable[[NewTap, Callable[[], None]], None] = lambda _tap, go_on: go_on()  # OVSDB has: see `OvsDb`
    lost: Callable[[str], None] = lambda _bridge: None  # a bridge's switch is not heard any more
    packet_in: Callable[[str, int, int, int, bytes], None]  # bridge, cookie, table, in_port, frame
    domain: Callable[[DomainEvent], None]
    libvirt: Callable[[], None]  # connection made or lost


class Host:
    """Made on the event loop; `start` it, `close` it. Closing changes nothing on the host."""

    def __init__(self, paths: HostPaths, events: Events) -> None:
        self._paths = paths
        self._events = events
        self._early = EarlyOfports()
        self.switches = Switches(
            paths.ovs_rundir,
            dirty=events.dirty,
            packet_in=events.packet_in,
            port=self._port_told,
            lost=self._lost,
        )
        self.paths: tuple[PathStatus, ...] = ()
        """What is known of the ways to peers; whoever probes them says it."""
        self._ovsdb = OvsDb(paths.ovsdb, on_change=partial(events.dirty, "ovsdb"), on_tap=events.tap)
        self._ovsdb_writes = OvsdbWrites(paths.ovs_database)
        self._links = LinkReadings(partial(events.dirty, "links"))
        self._uplinks = UplinkFlows(paths.ovs_rundir, changed=partial(events.dirty, "flows"))
        self.libvirt = LibvirtLink(paths.libvirt_uri) if paths.libvirt_uri != NO_LIBVIRT else None
        self.domains: Domains | None = None
        self._networks: NetworkReadings | None = None
        if self.libvirt is not None:
            self._networks = NetworkReadings(self.libvirt, partial(events.dirty, "networks"))
            self.domains = Domains(self.libvirt, on_event=events.domain, on_reconnect=events.libvirt)

    def start(self) -> None:
        self._ovsdb.start()
        self._ovsdb_writes.start()
        self._links.start()
        self._uplinks.start()
        if self.libvirt is not None:
            self.libvirt.start()

    async def close(self) -> None:
        await self.switches.close()
        self._ovsdb_writes.close()
        await self._ovsdb.close()
        await self._links.close()
        await self._uplinks.close()
        if self._networks is not None:
            await self._networks.close()
        if self.libvirt is not None:
            await self.libvirt.close()

    # --- reading ---------------------------------------------------------------------------------------------------

    async def observe(self) -> Observed:
        """The host as it is, reading again what changed since the last time."""
        bridges = self.bridges()
        if isinstance(bridges, tuple):
            self.switches.follow(bridge.name for bridge in bridges if is_switch_bridge(bridge.external_ids))
            self._uplinks.follow(bridge.name for bridge in bridges if is_uplink_bridge(bridge.external_ids))
        links = await self._links.now()
        if self._networks is not None:
            self._networks.refresh()
        await self.switches.read_stale()
        return self._observed(self.bridges(), links)

    async def ask_uplinks(self) -> Observed:
        """The host as last read, once uplink bridges were asked whether they switch, as else is done each second."""
        await self._uplinks.ask()
        return self.cached()

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
        return self._observed(self.bridges(), self._links.last)

    def bridges(self) -> tuple[Bridge, ...] | Unread:
        """All bridges of the host, as OVSDB shows them, and with the ofports that switches have told. Never waits."""
        return self._early.put_into(self._ovsdb.read_bridges(), now=time.monotonic())

    def ofport(self, bridge: str, name: str) -> int:
        """The number that the switch has told for the port *name*, while OVSDB does not show it; 0: none."""
        return self._early.of(bridge, name, now=time.monotonic())

    def hear_ovsdb(self) -> None:
        """Look at what OVSDB has said already, ahead of the event loop."""
        self._ovsdb.hear()

    def next_ofport(self, bridge: str) -> int:
        """The number that *bridge* will probably give its next port; 0: there is no telling."""
        return self._early.next_of(bridge)

    def with_guess(self, bridge: str, vif: UUID) -> Observed:
        """The host as last read, as if *vif* were plugged into *bridge* with the number that it will probably get. For
        what can be prepared; nothing may be done to the switch by it."""
        bridges = self.bridges()
        if not isinstance(bridges, Unread):
            bridges = self._early.with_guess(bridges, bridge, vif)
        return self._observed(bridges, self._links.last)

    def forget(self) -> None:
        """Read everything anew next time, from the source."""
        self._links.forget()
        if self._networks is not None:
            self._networks.forget()
        self.switches.forget()

    @property
    def reading_networks(self) -> bool:
        """True while libvirt's networks are being read: what is observed of them is not the newest."""
        return self._networks is not None and self._networks.reading

    @property
    def awaits_networks(self) -> bool:
        """True while nothing is known of libvirt's networks and they are being read."""
        return self._networks is not None and self._networks.awaited

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
        return await self.ask_switch("dpctl/dump-conntrack", f"zone={zone}")

    async def ask_switch(self, command: str, *arguments: str) -> str:
        """The answer of vswitchd's control socket.

        Raises:
            RealizeError: as of `connections`, or the command was refused.
        """
        return await unixctl(self._paths.ovs_rundir, command, *arguments)

    def switch_process(self) -> str:
        """Which vswitchd runs: another word after each of its starts."""
        return str(socket_of(self._paths.ovs_rundir))

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

    def _lost(self, bridge: str) -> None:
        self._early.lost(bridge)
        self._events.lost(bridge)

    def _port_told(self, bridge: str, name: str, ofport: int) -> None:
        self._early.told(bridge, name, ofport, now=time.monotonic())
        if ofport:
            self._events.port(bridge, name, ofport)

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
            await self.switches.change_flows(step.bridge, delete=step.delete, add=step.add)
            if step.delete:
                self.switches.removed_from(step.bridge)
        elif isinstance(step, PutNormal):
            await self._uplinks.put_normal(step.bridge)
        elif isinstance(step, ChangeMeters):
            await self.switches.change_meters(step)
        else:
            raise AssertionError(f"step out of order: {step}")

    def _observed(self, bridges: tuple[Bridge, ...] | Unread, links: tuple[Link, ...] | Unread) -> Observed:
        ours = (
            [bridge.name for bridge in bridges if is_switch_bridge(bridge.external_ids)]
            if isinstance(bridges, tuple)
            else []
        )
        return Observed(
            bridges=bridges,
            links=links,
            libvirt_networks=self._networks.last if self._networks is not None else Unread(_NO_LIBVIRT),
            flows={name: self.switches.flows(name) for name in ours},
            meters=self.switches.meters(),
            loose_qos=self._ovsdb.read_loose_qos(),
            silent_uplinks=self._uplinks.silent,
            paths=self.paths,
        )

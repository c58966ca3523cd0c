"""Guests and their VIFs as this host sees them: from OVSDB, libvirt's events and first frames to events of ports.

Theory of operation. OVSDB says which VIFs are here and which domain each belongs to, so a domain's event finds its
ports without a question to anybody. A VIF counts as gone when OVS has not had it for a second: a vswitchd that
restarts takes every port away for a moment, and a bridge whose switch does not answer says nothing about its ports.
At the agent's start nothing is gone before ten seconds have passed.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from uuid import UUID

from hostagent.migration import Event, FirstFrame, Guest, Paused, Restarted, Resumed, TapGone, TapSeen
from hostagent.model import Desired, Observed, Phase, Plug, Unread
from hostagent.motion import Motion
from hostagent.presence import ABSENT_S, SeenVif
from hostagent.realize.domains import DomainEvent, DomainEventKind, DomainState

__all__ = ["Guests"]

START_GRACE_S = 10.0


class Guests:
    """What is known of the guests' VIFs on this host."""

    def __init__(
        self, *, motion: Motion, port_by_vif: Mapping[UUID, UUID], parents: Mapping[UUID, UUID] | None = None
    ) -> None:
        self._motion = motion
        self._port_by_vif = port_by_vif
        self._parents = {} if parents is None else parents  # of sub-ports
        self._grace_until = time.monotonic() + START_GRACE_S
        self._by_ofport: dict[tuple[str, int], SeenVif] = {}
        self._by_domain: dict[UUID, list[SeenVif]] = {}
        self._gone: set[UUID] = set()  # VIFs whose absence was told
        self._domains: dict[UUID, Guest] = {}  # as last heard from libvirt
        self._plugged: dict[UUID, tuple[UUID, Plug]] = {}  # VIF -> its domain, its port
        self.vifs: tuple[SeenVif, ...] = ()
        self.arriving: frozenset[UUID] = frozenset()
        """VIFs that came since the last look and that the switch has not looked at yet: being plugged, this moment."""
        self._looked = False
        self.absent_since: dict[UUID, float] = {}
        """By VIF of the ports this host holds or is to get: since when (monotonic) it is not here."""

    def look(self, vifs: Sequence[SeenVif], *, dead_bridges: Collection[str], desired: Desired, now: float) -> None:
        """Take in one reading of OVSDB. *dead_bridges* are those whose switch does not answer."""
        known = {vif.vif_uuid for vif in self.vifs} - self.arriving
        # What was there before the first look may have been there since another boot: only the switch can tell.
        self.arriving = frozenset(
            vif.vif_uuid
            for vif in vifs
            if self._looked and vif.awaited and vif.vif_uuid not in known and vif.bridge not in dead_bridges
        )
        self._looked = True
        self.vifs = tuple(vifs)
        self._by_ofport = {(vif.bridge, vif.ofport): vif for vif in vifs if vif.plugged}
        self._by_domain = {}
        for vif in vifs:
            if vif.vm_uuid is not None:
                self._by_domain.setdefault(vif.vm_uuid, []).append(vif)
        for domain in [uuid for uuid, guest in self._domains.items() if guest is Guest.GONE]:
            if domain not in self._by_domain:
                del self._domains[domain]
        here = {vif.vif_uuid for vif in vifs if vif.plugged}
        unsure = {vif.vif_uuid for vif in vifs if vif.bridge in dead_bridges}
        ours = self._ours(desired)
        for vif_uuid in [uuid for uuid in self.absent_since if uuid not in ours or uuid in here]:
            del self.absent_since[vif_uuid]
        for vif_uuid, port_uuid in ours.items():
            if vif_uuid in here:
                if vif_uuid in self._gone or self._motion.guest(port_uuid) is Guest.GONE:
                    self._motion.withdraw_release(port_uuid)
                    self._motion.feed(port_uuid, TapSeen())
                    self._tell_state(vif_uuid, port_uuid)
                self._gone.discard(vif_uuid)
            elif vif_uuid in unsure:
                self.absent_since.pop(vif_uuid, None)
            else:
                since = self.absent_since.setdefault(vif_uuid, max(now, self._grace_until - ABSENT_S))
                if now - since >= ABSENT_S and vif_uuid not in self._gone:
                    self._gone.add(vif_uuid)
                    self._motion.feed(port_uuid, TapGone())
        self._gone &= set(ours)

    def plugs(self, observed: Observed) -> dict[UUID, Plug]:
        """Taps that somebody took out of OVSDB while libvirt's guest runs and its link exists, and those plugged.

        An endpoint without a domain is unplugged by whoever removes its port; it is never put back.
        """
        if isinstance(observed.links, Unread):
            return {}
        for vif in self.vifs:
            if vif.vm_uuid is not None and vif.plugged and not vif.twin_of:
                plug = Plug(bridge=vif.bridge, port=vif.ovs_port, external_ids=dict(vif.external_ids))
                self._plugged[vif.vif_uuid] = (vif.vm_uuid, plug)
        links = {link.name for link in observed.links}
        for vif_uuid, (domain, plug) in list(self._plugged.items()):
            alive = self._domains.get(domain, Guest.GONE) is not Guest.GONE
            if not alive or plug.port not in links:
                del self._plugged[vif_uuid]
        return {vif_uuid: plug for vif_uuid, (_, plug) in self._plugged.items()}

    def with_living_guest(self) -> tuple[SeenVif, ...]:
        """VIFs that may be claimed without a hook: not those of a guest that is paused or has ended, nor those of a
        port that has just left: a migration's source keeps its tap for a second or two."""
        return tuple(filter(self.may_claim, self.vifs))

    def may_claim(self, vif: SeenVif) -> bool:
        """Whether *vif* is one of `with_living_guest`, or would be."""
        port = self._port_by_vif.get(vif.vif_uuid)
        if port is not None and self._motion.phase(port) is Phase.RELAYING:
            return False
        return vif.vm_uuid is None or self._domains.get(vif.vm_uuid, Guest.UNKNOWN) in (Guest.RUNS, Guest.UNKNOWN)

    def next_look(self, *, now: float) -> float | None:
        """Seconds until an absent VIF counts as gone."""
        waiting = [since + ABSENT_S - now for vif, since in self.absent_since.items() if vif not in self._gone]
        return max(0.01, min(waiting)) if waiting else None

    def on_event(self, event: DomainEvent) -> None:
        """libvirt's or QEMU's word on a domain."""
        if event.kind is DomainEventKind.PAUSED:
            self._domains[event.domain] = Guest.PAUSED
            self._feed(event.domain, Paused())
        elif event.kind is DomainEventKind.STARTED and event.migrated:
            self._domains[event.domain] = Guest.PAUSED  # it waits for its memory
        elif event.kind in (DomainEventKind.RESUMED, DomainEventKind.STARTED):
            self._domains[event.domain] = Guest.RUNS
            self._feed(event.domain, Resumed())
        elif event.kind is DomainEventKind.STOPPED:
            self._domains[event.domain] = Guest.GONE
            self._feed(event.domain, TapGone())

    def port_at(self, bridge: str, ofport: int) -> UUID | None:
        """The port of the tap that is *ofport* on *bridge*."""
        vif = self._by_ofport.get((bridge, ofport))
        return self._port_by_vif.get(vif.vif_uuid) if vif is not None and not vif.twin_of else None

    def on_frame(self, bridge: str, in_port: int, frame: bytes) -> bool:
        """A frame came out of a tap of a port that is incoming; True when it is the guest's own."""
        vif = self._by_ofport.get((bridge, in_port))
        if vif is None or len(frame) < 12:
            return False
        port_uuid = self._port_by_vif.get(vif.vif_uuid)
        if port_uuid is None or (vif.mac and frame[6:12].hex(":") != vif.mac):
            return False
        self._motion.feed(self._parents.get(port_uuid, port_uuid), FirstFrame())
        return True

    def resync(self, states: Iterable[DomainState]) -> None:
        """All active domains, read after events may have been lost."""
        self._domains = {state.domain: Guest.RUNS if state.running else Guest.PAUSED for state in states}
        for domain in self._by_domain:
            self._feed(domain, Restarted(self._domains.get(domain, Guest.UNKNOWN)))

    def _feed(self, domain: UUID, event: Event) -> None:
        for vif in self._by_domain.get(domain, ()):
            port_uuid = self._port_by_vif.get(vif.vif_uuid)
            if port_uuid is not None and not vif.twin_of:
                self._motion.feed(port_uuid, event)

    def _tell_state(self, vif_uuid: UUID, port_uuid: UUID) -> None:
        vif = next(vif for vif in self.vifs if vif.vif_uuid == vif_uuid)
        state = self._domains.get(vif.vm_uuid) if vif.vm_uuid is not None else None
        if state is not None:
            self._motion.feed(port_uuid, Restarted(state))

    def _ours(self, desired: Desired) -> dict[UUID, UUID]:
        """VIF → port of those that this host holds or is to get; sub-ports hear of their guest by their parent."""
        if desired.host is None:
            return {}
        found = {}
        for port_uuid in self._motion.ports():
            port, location = desired.ports.get(port_uuid), desired.locations.get(port_uuid)
            if port is None or port.vif_uuid is None or port.parent_port is not None or location is None:
                continue
            if desired.host.uuid in (location.holder_host, location.incoming_host):
                found[port.vif_uuid] = port_uuid
        return found

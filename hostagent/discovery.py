"""What guests of this host claim, told to the manager: copies of frames → `learning` → the manager's stream.

Theory of operation. The pipeline copies a claim to an address that is nobody's, or another port's; what a DHCP server
says to clients, from which the one that is a guest here is found by its MAC; what a guest says to the server, since
only what it has asked for can be granted it, and it may give its address up; of a port that is allowed further MACs,
frames of MACs that are not known; what was denied a guest because it is another port's; and probes for such an address.
What a port claims is told upward, whole, when it is not what the manager has pushed of the port: so a word that was
lost is said again on the next stream, and nothing is said twice. What the manager has decided comes back as `Learned`,
which is on disk like all that it pushed; a host that starts, or that a guest has moved to, goes on from there.

That an address or MAC is still used the switch knows: each has flows, whose counters are read once a minute.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_address
from typing import Final
from uuid import UUID

import structlog

from hostagent.dhcp import read_asked, read_given_up, read_leases
from hostagent.indexed import held_here
from hostagent.learning import HUSH_S, Claimed, Learning, read_claim, read_probe
from hostagent.model import Desired
from hostagent.names import network_key
from hostagent.pipeline.drops import Counted
from hostagent.pipeline.learn import claimed_address, source_of
from hostagent.pipeline.tables import Table
from hostagent.realize.errors import RealizeError
from netmgr.contract.link_local import is_link_local
from netmgr.contract.nested import learning_macs
from netmgr.contract.types import Allowance, Learned, LearnedAddress, LearnedMac, LogicalPort

__all__ = ["Discovery"]

log = structlog.get_logger(__name__)

_HEADER_BYTES: Final = 14  # of Ethernet


class Discovery:
    """Made on the event loop. *learned* is what the manager has pushed, *tell* says a word to it, *count* reads the
    counters of a table by bridge, *port_at* knows the port of a tap; *changed* wakes the agent's loop."""

    def __init__(
        self,
        *,
        learned: Mapping[UUID, Learned],
        tell: Callable[[Learned], None],
        count: Callable[[Table], Awaitable[Mapping[str, tuple[Counted, ...]]]],
        port_at: Callable[[str, int], UUID | None],
        changed: Callable[[], None],
    ) -> None:
        self._learned = learned
        self._tell = tell
        self._count = count
        self._port_at = port_at
        self._changed = changed
        self._learning = Learning()
        self._ports: dict[UUID, LogicalPort] = {}  # that this host speaks for; shadows never speak
        self._by_mac: dict[tuple[int, str], tuple[UUID, str]] = {}  # by key of their network and MAC that learns
        self._hushed: frozenset[UUID] = frozenset()
        self._packets: dict[tuple[str, int, str], int] = {}

    def look(self, desired: Desired) -> None:
        """Take in whom this host speaks for: the ports that it holds."""
        host = desired.host.uuid if desired.host is not None else None
        here = held_here(desired.locations, host) if host is not None else {}
        held = (uuid for uuid, location in here.items() if location.holder_host == host)
        ports = (port for uuid in held if (port := desired.ports.get(uuid)) is not None)
        self._ports = {port.uuid: port for port in ports if port.shadow_of is None}
        self._by_mac = {
            (network_key(port.network_uuid), mac or port.mac): (port.uuid, mac)
            for port in self._ports.values()
            for mac in self._learning_macs(port)
        }
        self._learning.keep_only(self._ports)
        for uuid in self._ports:
            pushed = self._learned.get(uuid)
            if pushed is not None and not self._learning.knows(uuid):
                self._revive(self._ports[uuid], pushed)

    def _revive(self, port: LogicalPort, pushed: Learned) -> None:
        learning, others = self._learning_macs(port), Allowance.NESTED in port.allow
        told = [Claimed(one.address, one.source, one.mac, one.probed) for one in pushed.addresses]
        macs = [one.mac for one in pushed.macs]
        refused = {one.address for one in pushed.addresses if one.refused}
        used = [one for one in told if not one.probed]
        claims = [one for one in used if one.mac in learning or (_is_own(port, one) and one.address not in refused)]
        rivals = [one for one in told if one not in claims]
        more: list[Claimed | str] = [*rivals, *([] if others else macs)]
        self._learning.revive(port.uuid, claims, macs if others else (), more, now=time.monotonic())

    def _learning_macs(self, port: LogicalPort) -> tuple[str, ...]:
        pushed = self._learned.get(port.uuid)
        return learning_macs(port, pushed.macs if pushed is not None else ())

    def on_frame(self, bridge: str, network: int, table: int, in_port: int, frame: bytes) -> None:
        """A copy of a frame on the network with that key, made in *table*."""
        if table == Table.LEASES:
            self._on_servers_word(network, frame)
        else:
            port = self._ports.get(self._port_at(bridge, in_port) or UUID(int=0))
            if port is not None and len(frame) >= _HEADER_BYTES:
                rival = table in (Table.RIVAL, Table.CONTEST)
                self._on_guests_frame(port, network_key(port.network_uuid), frame, rival=rival)
        if self.hushed() != self._hushed:
            for uuid in self.hushed() - self._hushed:
                log.warning("hushed: too much is claimed", port_or_network=str(uuid), for_s=HUSH_S)
                asyncio.get_running_loop().call_later(HUSH_S, self._changed)
            self._hushed = self.hushed()
            self._changed()

    def _on_servers_word(self, network: int, frame: bytes) -> None:
        now = time.monotonic()
        ports = (port.network_uuid for port in self._ports.values() if network_key(port.network_uuid) == network)
        uuid = next(ports, None)
        if uuid is None:
            return
        self._learning.spend_of_network(uuid, now=now)
        for lease in read_leases(frame):
            port, mac = self._by_mac.get((network, lease.mac), (None, ""))
            if not port or not self._learning.has_asked(port, lease.question, now=now):
                continue  # granted to another in the guest's name, or asked for before the guest or the agent came
            if self._learning.lease(port, lease.address, mac=mac, seconds=lease.seconds, now=now):
                log.info("learned", port=str(port), address=lease.address, source="dhcp", for_s=lease.seconds)
                self._say(port)

    def _on_guests_frame(self, port: LogicalPort, network: int, frame: bytes, *, rival: bool) -> None:
        now = time.monotonic()
        self._learning.spend(port.uuid, now=now)
        source = frame[6:12].hex(":")
        own = (port.mac, *(one.mac for one in port.nested))
        probe = read_probe(frame) if rival else None
        if probe is not None:  # the switch copies no others than those for another port's address
            self._on_rivals_use(port, [replace(probe, mac=source if source != port.mac else "")], now)
        elif rival and not (source not in own and Allowance.NESTED in port.allow):
            self._on_rivals_word(port, source if source not in own else "", frame, now)
        elif self._by_mac.get((network, source), (None, ""))[0] == port.uuid:
            _, mac = self._by_mac[network, source]
            self._on_guests_word(port.uuid, mac, frame, now)
        elif source in own:
            self._on_guests_word(port.uuid, source if source != port.mac else "", frame, now)
        elif self._is_new(port, source) and self._learning.hear_mac(port.uuid, source, now=now):
            log.info("learned", port=str(port.uuid), mac=source)
            self._say(port.uuid)

    def _on_rivals_word(self, port: LogicalPort, mac: str, frame: bytes, now: float) -> None:
        """What the switch has found to name another port, or this port where it is only half a lie."""
        found: list[Claimed | str] = [mac] if mac else []
        claimed = read_claim(frame)
        if claimed is not None and claimed.address not in (*port.ips, *(ip for one in port.nested for ip in one.ips)):
            found.append(claimed)
        self._on_rivals_use(port, found, now)

    def _on_rivals_use(self, port: LogicalPort, found: Iterable[Claimed | str], now: float) -> None:
        news = [one for one in found if self._learning.hear_rival(port.uuid, one, now=now)]
        if news:
            log.info("another port's", port=str(port.uuid), used=[str(one) for one in news])
            self._say(port.uuid)

    def _is_new(self, port: LogicalPort, mac: str) -> bool:
        defined = (port.mac, *(one.mac for one in port.nested))
        return Allowance.NESTED in port.allow and mac not in defined and not int(mac[:2], 16) & 1

    def _on_guests_word(self, port: UUID, mac: str, frame: bytes, now: float) -> None:
        claimed = read_claim(frame)
        if claimed is not None and self._learning.hear(port, replace(claimed, mac=mac), now=now):
            log.info("learned", port=str(port), address=claimed.address, source=claimed.source.value)
            self._say(port)
        for question in read_asked(frame):
            self._learning.ask(port, question, now=now)
        given_up = [address for address in read_given_up(frame) if self._learning.give_up(port, address)]
        if given_up:
            log.info("given up", port=str(port), addresses=given_up)
            self._say(port)

    def restate(self) -> None:
        """Say what the manager does not have as it is here."""
        for port in self._ports:
            if self._learning.knows(port):
                self._say(port)

    def hushed(self) -> frozenset[UUID]:
        """Ports and networks of whose frames no copies are to be made now."""
        return self._learning.hushed(now=time.monotonic())

    async def refresh(self) -> None:
        """Read which addresses and MACs are still used; forget those that have not been for long."""
        try:
            used = _sums(_addresses_used(await self._count(Table.CLAIMS)))
            if any(self._learning.macs(port) for port in self._ports):
                used |= _sums(_macs_used(await self._count(Table.GUARD)))
        except RealizeError as error:
            log.warning("learned addresses: use not read; none is forgotten", reason=error.sentence)
            return
        now = time.monotonic()
        for (bridge, ofport, text), number in used.items():
            port = self._port_at(bridge, ofport)
            if port is not None and number != self._packets.get((bridge, ofport, text), 0):
                self._learning.refresh(port, text, now=now)
                self._learning.refresh_mac(port, text, now=now)
        self._packets = used
        for port in self._learning.age(now=now):
            self._say(port)

    def _say(self, uuid: UUID) -> None:
        """Tell what is claimed behind a port, if that is not what the manager has pushed."""
        port = self._ports[uuid]
        learning = self._learning_macs(port)
        rivals, rival_macs = self._learning.rivals(uuid)
        claims = [one for one in self._learning.claims(uuid) if one.mac in learning or _is_own(port, one)]
        told = {one.address for one in claims}
        for one in sorted(rivals, key=lambda rival: rival.probed):  # who uses an address has probed for it before
            if (one.probed or one.mac not in learning) and one.address not in told:
                claims.append(one)
                told.add(one.address)
        macs = self._learning.macs(uuid) if Allowance.NESTED in port.allow else rival_macs
        pushed = self._learned.get(uuid) or Learned(port_uuid=uuid, network_uuid=port.network_uuid)
        same = {_word(one) for one in claims} == {_word(one) for one in pushed.addresses}
        if same and set(macs) == {one.mac for one in pushed.macs}:
            return
        addresses = tuple(
            LearnedAddress(address=one.address, source=one.source, mac=one.mac, probed=one.probed) for one in claims
        )
        seen = tuple(LearnedMac(mac=mac) for mac in macs)
        self._tell(Learned(port_uuid=uuid, network_uuid=port.network_uuid, addresses=addresses, macs=seen))


def _is_own(port: LogicalPort, claimed: Claimed) -> bool:
    """Whether it is one that a MAC with defined addresses may learn: link-local."""
    return is_link_local(claimed.address) and claimed.mac in ("", *(one.mac for one in port.nested))


def _word(one: Claimed | LearnedAddress) -> tuple[str, str, bool]:
    """What of an address the manager is told; what showed it first, and since when, it keeps itself."""
    return one.address, one.mac, one.probed


def _sums(uses: Iterator[tuple[tuple[str, int, str], int]]) -> dict[tuple[str, int, str], int]:
    found: dict[tuple[str, int, str], int] = {}
    for key, packets in uses:
        found[key] = found.get(key, 0) + packets
    return found


def _addresses_used(counted: Mapping[str, tuple[Counted, ...]]) -> Iterator[tuple[tuple[str, int, str], int]]:
    for bridge, flows in counted.items():
        for flow, packets, _ in flows:
            found = claimed_address(flow)
            if found is not None:
                ofport, (version, number) = found
                text = str(ip_address(number.to_bytes(4 if version == 4 else 16, "big")))
                yield (bridge, ofport, text), packets


def _macs_used(counted: Mapping[str, tuple[Counted, ...]]) -> Iterator[tuple[tuple[str, int, str], int]]:
    for bridge, flows in counted.items():
        for flow, packets, _ in flows:
            found = source_of(flow)
            if found is not None:
                ofport, mac = found
                yield (bridge, ofport, mac.to_bytes(6, "big").hex(":")), packets

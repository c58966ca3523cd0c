"""What guests of this host claim, told to the manager: copies of frames → `learning` → the manager's stream.

Theory of operation. The pipeline copies a claim to an address that is nobody's, or another port's; what a DHCP server
says to clients, from which the one that is a guest here is found by its MAC; and what a guest says to the server, since
it may give its address up. What a port claims
is told upward, whole, when it is not what the manager has pushed of the port: so a word that was lost is said again on
the next stream, and nothing is said twice. What the manager has decided comes back as `Learned`, which is on disk like
all that it pushed; a host that starts, or that a guest has moved to, goes on from there.

That an address is still used the switch knows: each has a flow, whose counter is read once a minute.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from ipaddress import ip_address
from uuid import UUID

import structlog

from hostagent.dhcp import read_given_up, read_leases
from hostagent.learning import HUSH_S, Claimed, Learning, read_claim
from hostagent.model import Desired
from hostagent.names import network_key
from hostagent.pipeline.drops import Counted
from hostagent.pipeline.learn import claimed_address
from hostagent.pipeline.tables import Table
from hostagent.realize.errors import RealizeError
from netmgr.contract.types import Learned, LearnedAddress

__all__ = ["Discovery"]

log = structlog.get_logger(__name__)


class Discovery:
    """Made on the event loop. *learned* is what the manager has pushed, *tell* says a word to it, *count* reads the
    counters of CLAIMS by bridge, *port_at* knows the port of a tap; *changed* wakes the agent's loop."""

    def __init__(
        self,
        *,
        learned: Mapping[UUID, Learned],
        tell: Callable[[Learned], None],
        count: Callable[[], Awaitable[Mapping[str, tuple[Counted, ...]]]],
        port_at: Callable[[str, int], UUID | None],
        changed: Callable[[], None],
    ) -> None:
        self._learned = learned
        self._tell = tell
        self._count = count
        self._port_at = port_at
        self._changed = changed
        self._learning = Learning()
        self._networks: dict[UUID, UUID] = {}  # of the ports that this host speaks for
        self._by_mac: dict[tuple[int, str], UUID] = {}  # these ports, by key of their network and MAC
        self._hushed: frozenset[UUID] = frozenset()
        self._packets: dict[tuple[str, int, str], int] = {}

    def look(self, desired: Desired) -> None:
        """Take in whom this host speaks for: ports without defined addresses that it holds."""
        host = desired.host.uuid if desired.host is not None else None
        held = {uuid for uuid, location in desired.locations.items() if location.holder_host == host and host}
        ports = (port for uuid in held if (port := desired.ports.get(uuid)) is not None)
        mine = [port for port in ports if not port.ips and port.shadow_of is None]
        self._networks = {port.uuid: port.network_uuid for port in mine}
        self._by_mac = {(network_key(port.network_uuid), port.mac): port.uuid for port in mine}
        self._learning.keep_only(self._networks)
        for uuid in self._networks:
            pushed = self._learned.get(uuid)
            if pushed is not None and not self._learning.knows(uuid):
                claims = [Claimed(one.address, one.source) for one in pushed.addresses]
                self._learning.revive(uuid, claims, now=time.monotonic())

    def on_frame(self, bridge: str, network: int, table: int, in_port: int, frame: bytes) -> None:
        """A copy of a frame on the network with that key, made in *table*."""
        if table == Table.LEASES:
            self._on_servers_word(network, frame)
        else:
            port = self._port_at(bridge, in_port)
            if port in self._networks:
                self._on_guests_word(port, frame)
        if self.hushed() != self._hushed:
            for uuid in self.hushed() - self._hushed:
                log.warning("hushed: too much is claimed", port_or_network=str(uuid), for_s=HUSH_S)
                asyncio.get_running_loop().call_later(HUSH_S, self._changed)
            self._hushed = self.hushed()
            self._changed()

    def _on_servers_word(self, network: int, frame: bytes) -> None:
        now = time.monotonic()
        uuid = next((uuid for uuid in self._networks.values() if network_key(uuid) == network), None)
        if uuid is None:
            return
        self._learning.spend_of_network(uuid, now=now)
        for lease in read_leases(frame):
            port = self._by_mac.get((network, lease.mac))
            if port is not None and self._learning.lease(port, lease.address, seconds=lease.seconds, now=now):
                log.info("learned", port=str(port), address=lease.address, source="dhcp", for_s=lease.seconds)
                self._say(port)

    def _on_guests_word(self, port: UUID, frame: bytes) -> None:
        now = time.monotonic()
        self._learning.spend(port, now=now)
        claimed = read_claim(frame)
        if claimed is not None and self._learning.hear(port, claimed, now=now):
            log.info("learned", port=str(port), address=claimed.address, source=claimed.source.value)
            self._say(port)
        given_up = [address for address in read_given_up(frame) if self._learning.give_up(port, address)]
        if given_up:
            log.info("given up", port=str(port), addresses=given_up)
            self._say(port)

    def restate(self) -> None:
        """Say what the manager does not have as it is here."""
        for port in self._networks:
            if self._learning.knows(port):
                self._say(port)

    def hushed(self) -> frozenset[UUID]:
        """Ports and networks of whose frames no copies are to be made now."""
        return self._learning.hushed(now=time.monotonic())

    async def refresh(self) -> None:
        """Read which addresses are still used; forget those that have not been for long."""
        try:
            counted = await self._count()
        except RealizeError as error:
            log.warning("learned addresses: use not read; none is forgotten", reason=error.sentence)
            return
        now, packets = time.monotonic(), dict(_uses(counted))
        for (bridge, ofport, address), number in packets.items():
            port = self._port_at(bridge, ofport)
            if port is not None and number != self._packets.get((bridge, ofport, address), 0):
                self._learning.refresh(port, address, now=now)
        self._packets = packets
        for port in self._learning.age(now=now):
            self._say(port)

    def _say(self, port: UUID) -> None:
        claims = self._learning.claims(port)
        pushed = self._learned.get(port)
        if {one.address for one in claims} == {one.address for one in (pushed.addresses if pushed else ())}:
            return
        addresses = tuple(LearnedAddress(address=one.address, source=one.source) for one in claims)
        self._tell(Learned(port_uuid=port, network_uuid=self._networks[port], addresses=addresses))


def _uses(counted: Mapping[str, tuple[Counted, ...]]) -> Iterator[tuple[tuple[str, int, str], int]]:
    for bridge, flows in counted.items():
        for flow, packets, _ in flows:
            found = claimed_address(flow)
            if found is not None:
                ofport, (version, number) = found
                text = str(ip_address(number.to_bytes(4 if version == 4 else 16, "big")))
                yield (bridge, ofport, text), packets

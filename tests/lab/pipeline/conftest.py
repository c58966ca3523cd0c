"""Three hosts, each a real ovs-vswitchd, with real encapsulated frames on an underlay between them.

They have no devices and forward in user space (`DummySwitch`), or forward in the kernel where the lab does
(`KernelSwitch`): a test that keeps to `Fabric` and to the verbs of `host.switch` runs on both.

A `Fabric` holds what netmgr would push (networks, ports, locations) and, for each host, what only it knows (phases).
`settle` lets every host compile its flows from that and commit them over its OpenFlow connection. Then a test sends
frames out of guests (`say`) and sees what guests hear (`hear`) and what went over the wires (`crossed`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from uuid import UUID, uuid5

import pytest

from hostagent.advertisement import advertisement
from hostagent.flow import Flow, Output
from hostagent.flows import compile_flows
from hostagent.model import Bridge, Desired, Interface, Observed, OvsPort, PathKey, PathStatus, Phase
from hostagent.names import (
    OWNER,
    SUBPORT_KEY,
    SWITCH_KEY,
    TAGGED_KEY,
    patch_port,
    subport_end,
    switch_bridge,
    trunk_port,
    tunnel_port,
    uplink_bridge,
)
from hostagent.pipeline.drops import Drop, drops_of
from hostagent.pipeline.probe import way_out
from hostagent.pipeline.tables import ATTENDED, Table
from hostagent.realize.openflow import OpenFlowConnection
from hostagent.resolve import resolve
from hostagent.subports import subport_patches
from hostagent.tracking.tickets import tickets_in
from hostagent.tracking.zones import ZONES
from netmgr.contract.types import (
    Allowance,
    HostConfig,
    Learned,
    LearnedAddress,
    LearnedMac,
    LearnedSource,
    Location,
    LogicalPort,
    NestedMac,
    NetworkType,
    OpaqueNetwork,
    OpaqueSwitch,
    PeerState,
    SecurityGroup,
    SecurityRule,
    Ticket,
    VtepAssignment,
)
from scripts.labkit.dummy_switch import DummySwitch
from scripts.labkit.kernel_switch import make_switch

SPACE = UUID("11111111-2222-3333-4444-555555555555")
SWITCH = OpaqueSwitch(uuid=UUID("aa" * 16), name="s1", zone_uuids=(), vtep_pool="10.0.0.0/24", pnic_globs=("p0",))
VLANS = (100, 200)  # that the hosts' trunks carry
OVS_TYPES = {NetworkType.VXLAN: "vxlan", NetworkType.GENEVE: "geneve", NetworkType.NVGRE: "gre"}

_WAYS = 6  # of a frame from switch to switch, there and back


def named(name: str) -> UUID:
    """The UUID of whatever the tests call *name*."""
    return uuid5(SPACE, name)


def mac(number: int) -> str:
    return f"02:00:00:00:00:{number:02x}"


@dataclass
class Host:
    """One host: its switch, its VTEP, its phases, the packets that its flows sent to the agent."""

    name: str
    switch: DummySwitch
    vtep: str
    phases: dict[UUID, Phase] = field(default_factory=dict)
    relay_vteps: dict[UUID, str] = field(default_factory=dict)
    hushed: set[UUID] = field(default_factory=set)
    tickets: dict[UUID, tuple[Ticket, ...]] = field(default_factory=dict)
    paths: tuple[PathStatus, ...] = ()
    signals: list[tuple[int, int, int, bytes]] = field(default_factory=list)

    @property
    def uuid(self) -> UUID:
        return named(self.name)

    @property
    def bridge(self) -> str:
        return switch_bridge(SWITCH.uuid)

    def read(self) -> Bridge:
        """The integration bridge as OVSDB shows it."""
        ports = []
        for row in self.switch.interfaces():
            ids = dict(row["external_ids"][1])
            ofport = row["ofport"] if isinstance(row["ofport"], int) else None
            interface = Interface(name=row["name"], type=row["type"], ofport=ofport, external_ids=ids)
            if "iface-id" in ids or "opaque-owner" in ids:
                ports.append(OvsPort(name=row["name"], interfaces=(interface,), external_ids=ids))
        return Bridge(name=self.bridge, external_ids={**OWNER, SWITCH_KEY: str(SWITCH.uuid)}, ports=tuple(ports))


class Fabric:
    """Three hosts `h1`, `h2`, `h3`, and what the manager says to all of them."""

    def __init__(self, hosts: dict[str, Host], underlay: DummySwitch) -> None:
        self.hosts = hosts
        self.underlay = underlay
        self.networks: dict[UUID, OpaqueNetwork] = {}
        self.ports: dict[UUID, LogicalPort] = {}
        self.locations: dict[UUID, Location] = {}
        self.learned: dict[UUID, Learned] = {}
        self.groups: dict[UUID, SecurityGroup] = {}
        self.zones: dict[UUID, int] = {}
        self.as_in_the_kernel = False  # flows that ask nothing of a switch but what the kernel's datapath can

    def network(self, name: str, segment: int, kind: NetworkType = NetworkType.VXLAN) -> None:
        self.networks[named(name)] = OpaqueNetwork(
            uuid=named(name), name=name, zone_uuid=SPACE, switch_uuid=SWITCH.uuid, segment_id=segment, type=kind
        )

    def port(
        self,
        name: str,
        number: int,
        network: str,
        host: str,
        *,
        ips: tuple[str, ...] = (),
        tap: bool = True,
        allow: tuple[Allowance, ...] = (),
        nested: tuple[NestedMac, ...] = (),
    ) -> None:
        """A logical port with MAC *number*, held by *host*, its tap plugged there."""
        uuid = named(name)
        self.ports[uuid] = LogicalPort(
            uuid=uuid,
            name=name,
            network_uuid=named(network),
            vif_uuid=named(f"vif {name}"),
            mac=mac(number),
            ips=ips,
            allow=allow,
            nested=nested,
        )
        self.locations[uuid] = Location(
            port_uuid=uuid,
            network_uuid=named(network),
            holder_host=named(host),
            holder_vtep=self.hosts[host].vtep,
            version=1,
            mac=mac(number),
        )
        if tap:
            self.plug(name, host)

    def subport(self, name: str, number: int, network: str, parent: str, tag: int, **more: object) -> None:
        """A sub-port of *parent* with MAC *number*, where that is; `settle` makes its patch."""
        where = self.locations[named(parent)]
        self.port(name, number, network, "h1", tap=False, **more)  # type: ignore[arg-type]
        self.ports[named(name)] = replace(
            self.ports[named(name)], vif_uuid=named(name), parent_port=named(parent), tag=tag
        )
        self.locations[named(name)] = replace(
            where, port_uuid=named(name), network_uuid=named(network), mac=mac(number), version=1
        )

    def learn(self, name: str, *addresses: str, refused: str = "") -> None:
        """What the manager has said of *addresses* that the guest of port *name* uses."""
        port = self.ports[named(name)]
        self._learn(
            port, tuple(LearnedAddress(address=one, source=LearnedSource.ARP, refused=refused) for one in addresses), ()
        )

    def learn_behind(self, name: str, *macs: str, refused: str = "", **addresses: str) -> None:
        """What the manager has said of *macs* behind port *name*; *addresses* of them as `m<index>=address`."""
        found = tuple(
            LearnedAddress(address=address, source=LearnedSource.ARP, mac=macs[int(index[1:])])
            for index, address in addresses.items()
        )
        self._learn(self.ports[named(name)], found, tuple(LearnedMac(mac=one, refused=refused) for one in macs))

    def _learn(self, port: LogicalPort, addresses: tuple[LearnedAddress, ...], macs: tuple[LearnedMac, ...]) -> None:
        self.learned[port.uuid] = Learned(
            port_uuid=port.uuid, network_uuid=port.network_uuid, addresses=addresses, macs=macs
        )

    def group(self, name: str, *rules: SecurityRule, stateful: bool = True) -> None:
        """A security group, whose members are the addresses of the ports that have it."""
        members = tuple(
            sorted({ip for port in self.ports.values() if named(name) in port.security_groups for ip in port.ips})
        )
        self.groups[named(name)] = SecurityGroup(
            uuid=named(name), name=name, stateful=stateful, rules=rules, members=members
        )

    def guarded(self, name: str, *groups: str) -> None:
        """Port *name* has *groups* from now on, and a zone of the connection tracker of its own."""
        uuid = named(name)
        self.ports[uuid] = replace(self.ports[uuid], security_groups=tuple(map(named, groups)))
        self.zones.setdefault(uuid, ZONES.start + len(self.zones))
        for group in self.groups.values():
            self.group(group.name, *group.rules, stateful=group.stateful)

    def hand_over(self, name: str, source: str, destination: str) -> tuple[Ticket, ...]:
        """What *source* knows of the connections of port *name* becomes tickets at *destination*."""
        dump = self.hosts[source].switch.appctl("dpctl/dump-conntrack", f"zone={self.zones[named(name)]}")
        tickets = tickets_in(dump)
        self.hosts[destination].tickets[named(name)] = tickets
        return tickets

    def hush(self, host: str, name: str) -> None:
        """The agent of *host* wants no more copies of what the guest of *name* claims."""
        self.hosts[host].hushed |= {named(name)}

    def plug(self, name: str, host: str) -> None:
        one = self.hosts[host]
        vif = named(f"vif {name}")
        one.switch.add_port(one.bridge, f"{name}-{host}", f"external_ids:iface-id={vif}")

    def set_down(self, name: str) -> None:
        """As `netmgr port set NAME --down`."""
        self.ports[named(name)] = replace(self.ports[named(name)], admin_up=False)

    def relocate(self, name: str, **changes: str | bool | None) -> None:
        """Change the location of a port: `holder`, `incoming` (names of hosts, None for nobody), `parked`."""
        location = self.locations[named(name)]
        for role in ("holder", "incoming"):
            if role in changes:
                host = changes[role]
                assert host is None or isinstance(host, str)
                values = {
                    f"{role}_host": named(host) if host else None,
                    f"{role}_vtep": self.hosts[host].vtep if host else "",
                }
                location = replace(location, **values)  # type: ignore[arg-type]
        location = replace(location, parked=bool(changes.get("parked", location.parked)), version=location.version + 1)
        self.locations[named(name)] = location
        for port in [port for port in self.ports.values() if port.parent_port == named(name)]:
            self.relocate(port.name, **changes)

    def phase(self, host: str, name: str, phase: Phase, relay: str = "") -> None:
        self.hosts[host].phases[named(name)] = phase
        if relay:
            self.hosts[host].relay_vteps[named(name)] = self.hosts[relay].vtep

    def desired(self, host: Host) -> Desired:
        return Desired(
            host=HostConfig(
                uuid=host.uuid,
                name=host.name,
                vteps=(VtepAssignment(switch_uuid=SWITCH.uuid, address=f"{host.vtep}/24"),),
            ),
            switches={SWITCH.uuid: SWITCH},
            networks=self.networks,
            ports=self.ports,
            locations=self.locations,
            learned=self.learned,
            groups=self.groups,
            ct_zones=self.zones,
            tickets=host.tickets,
            hushed=frozenset(host.hushed),
            offered_pnics=("p0",),
            phases=host.phases,
            relay_vteps=host.relay_vteps,
            datapath="system" if self.as_in_the_kernel or host.switch.datapath == "system" else "netdev",
        )

    def settle(self, *only: str) -> None:
        """Let the hosts (or *only* some of them) realize what is wanted."""
        for name in only or tuple(self.hosts):
            asyncio.run(self._commit(self.hosts[name]))

    async def _commit(self, host: Host) -> None:
        async with connected(host) as connection:
            await self._change(host, connection)

    async def _change(self, host: Host, connection: OpenFlowConnection) -> None:
        desired, bridge, realized = self.desired(host), host.read(), await connection.dump()
        intent = resolve(desired, Observed(bridges=(bridge,), paths=host.paths)).switches[SWITCH.uuid]
        there = {port.name for port in bridge.ports}
        for patch in subport_patches(desired, [intent], {bridge.name: bridge}).get(bridge.name, ()):
            if patch.name not in there:
                (end,) = patch.interfaces
                words = ["type=patch", f"options:peer={end.options['peer']}"]
                words += [f'external_ids:{key}="{value}"' for key, value in end.external_ids.items()]
                host.switch.vsctl("add-port", bridge.name, patch.name, "--", "set", "Interface", patch.name, *words)
        bridge = host.read()
        wanted = compile_flows(desired=desired, intent=intent, bridge=bridge, realized=realized)
        await connection.bundle([*(realized - wanted)], [*(wanted - realized)])
        assert await connection.dump() == wanted

    def watch(self, host: str, then: list[tuple[str, str, bytes]]) -> None:
        """Settle *host*, and while its connection is open let guests `say` what *then* lists."""
        asyncio.run(self._watch(self.hosts[host], then))

    async def _watch(self, host: Host, then: list[tuple[str, str, bytes]]) -> None:
        async with connected(host) as connection:
            await self._change(host, connection)
            for name, where, frame in then:
                await asyncio.to_thread(self.say, name, where, frame)
            await asyncio.sleep(0.05)

    def attended(self, host: str, name: str, *frames: bytes) -> list[bytes]:
        """Let the guest of *name* say *frames* while the agent of *host* attends; what it hears. Until `settle`."""
        return asyncio.run(self._attended(self.hosts[host], name, frames))

    async def _attended(self, host: Host, name: str, frames: tuple[bytes, ...]) -> list[bytes]:
        async with connected(host) as connection:
            asked = len(host.signals)
            await connection.bundle((), (ATTENDED,))
            await asyncio.to_thread(self.say, name, host.name, *frames)
            await connection.echo(5)
            for _, table, in_port, frame in host.signals[asked:]:
                answer = advertisement(frame) if table == Table.SOLICITED else None
                if answer is not None:
                    connection.packets_out([((Output(in_port),), answer)])
            await connection.echo(5)
            return await asyncio.to_thread(self.hear, name, host.name)

    def cut(self, host: str, *peers: str, kind: NetworkType = NetworkType.VXLAN) -> None:
        """The probes of *host* have found *peers* dead, and no others."""
        self.hosts[host].paths = tuple(
            PathStatus(key=PathKey(SWITCH.uuid, kind, self.hosts[peer].vtep), state=PeerState.DOWN, cut=True)
            for peer in peers
        )

    def hand(self, host: str, peer: str, *frames: bytes, kind: NetworkType = NetworkType.VXLAN) -> None:
        """The agent of *host* has its switch send *frames* to *peer* with the key of probes, and waits a little."""
        asyncio.run(self._hand(self.hosts[host], self.hosts[peer], frames, kind))

    async def _hand(self, host: Host, peer: Host, frames: tuple[bytes, ...], kind: NetworkType) -> None:
        (tunnel,) = [p.interfaces[0].ofport for p in host.read().ports if p.name == tunnel_port(kind, SWITCH.uuid)]
        assert tunnel is not None
        async with connected(host) as connection, connected(peer):
            connection.packets_out([(way_out(peer.vtep, tunnel), frame) for frame in frames])
            await connection.echo(5)
            await asyncio.sleep(0.1)

    def drops(self, host: str, *names: str) -> dict[tuple[str, str], int]:
        """Frames that ended on *host*, by port (of *names*; "" for none of them) and reason."""
        one = self.hosts[host]
        one.switch.appctl("revalidator/wait")  # counters are pushed to the flows with it
        rows = {row["name"]: row["ofport"] for row in one.switch.interfaces()}
        taps = {name: f"{name}-{host}" for name in names}
        taps |= {name: subport_end(named(name)) for name in names if self.ports[named(name)].parent_port}
        ports = {rows[tap]: name for name, tap in taps.items()}
        return {(ports.get(drop.ofport, ""), drop.reason): drop.packets for drop in asyncio.run(self._drops(one))}

    def counted(self, host: str) -> list[tuple[Flow, int]]:
        """The flows that *host* has, each with the packets that met it."""
        self.hosts[host].switch.appctl("revalidator/wait")
        return asyncio.run(self._counted(self.hosts[host]))

    async def _counted(self, host: Host) -> list[tuple[Flow, int]]:
        async with connected(host) as connection:
            return [(flow, packets) for flow, packets, _ in await connection.count()]

    def flows(self, host: str) -> frozenset[Flow]:
        """The flows that *host* has."""
        return asyncio.run(self._dump(self.hosts[host]))

    async def _dump(self, host: Host) -> frozenset[Flow]:
        async with connected(host) as connection:
            return await connection.dump()

    async def _drops(self, host: Host) -> tuple[Drop, ...]:
        async with connected(host) as connection:
            return drops_of(await connection.count())

    def say(self, name: str, host: str, *frames: bytes) -> None:
        """The guest of port *name* sends *frames* on *host*."""
        self.hosts[host].switch.receive(f"{name}-{host}", *frames)

    def hear(self, name: str, host: str) -> list[bytes]:
        """What arrived at the tap of *name* on *host* since the last call."""
        self._pass_on()
        return self.hosts[host].switch.sent(f"{name}-{host}")

    def crossed(self, host: str) -> int:
        """Frames that *host* has sent to the underlay since the last call."""
        self._pass_on()
        return len(self.hosts[host].switch.sent("p0"))

    def _pass_on(self) -> None:
        """However busy the machine: what is on its way has been through the sender's switch, the underlay and the
        receiver's, and back, if it is sent on."""
        for _ in range(_WAYS):
            for switch in (*(host.switch for host in self.hosts.values()), self.underlay):
                switch.turn()


@contextlib.asynccontextmanager
async def connected(host: Host):  # type: ignore[no-untyped-def]
    """An OpenFlow connection to *host*, whose packet-ins become its signals."""
    connection = await OpenFlowConnection.connect(
        f"{host.switch.rundir}/{host.bridge}.mgmt",
        bridge=host.bridge,
        on_change=lambda: None,
        on_packet_in=lambda *packet: host.signals.append(packet),
        on_close=lambda _: None,
    )
    try:
        yield connection
    finally:
        connection.close()


@pytest.fixture(scope="module")
def _hosts() -> Iterator[tuple[dict[str, Host], DummySwitch]]:
    with contextlib.ExitStack() as stack:
        underlay = stack.enter_context(make_switch())
        underlay.add_bridge("under", fail_mode="standalone")
        hosts = {}
        for index in (1, 2, 3):
            host = Host(name=f"h{index}", switch=stack.enter_context(make_switch()), vtep=f"10.0.0.{index}")
            _build(host, underlay, f"u{index}")
            hosts[host.name] = host
        uplink = uplink_bridge(("p0",))
        macs = {
            host.name: host.switch.vsctl("get", "Interface", uplink, "mac_in_use").strip().strip('"')
            for host in hosts.values()
        }
        for one in hosts.values():
            for other in hosts.values():
                if one is not other:
                    one.switch.add_neighbour(uplink, other.vtep, macs[other.name])
        yield hosts, underlay


def _build(host: Host, underlay: DummySwitch, port: str) -> None:
    uplink = uplink_bridge(("p0",))
    switch = host.switch
    switch.add_bridge(uplink, fail_mode="standalone")
    index = host.vtep.rpartition(".")[2]
    switch.vsctl("set", "Bridge", uplink, f"other_config:hwaddr=02:ff:00:00:00:0{index}")
    switch.join(uplink, "p0", underlay, "under", port)
    switch.vsctl("set", "Port", uplink, "tag=0")  # as the agent does
    switch.add_address(uplink, f"{host.vtep}/24", "10.0.0.0/24")
    switch.add_bridge(host.bridge)
    for kind, ovs_type in OVS_TYPES.items():
        name = tunnel_port(kind, SWITCH.uuid)
        options = ["options:remote_ip=flow", "options:key=flow"]
        if switch.datapath == "system":  # else Open vSwitch asks the kernel for the address, and a dummy's is not there
            options.append(f"options:local_ip={host.vtep}")
        mark = "external_ids:opaque-owner=hostagent"
        switch.vsctl("add-port", host.bridge, name, "--", "set", "Interface", name, f"type={ovs_type}", mark, *options)
    trunk = [f"trunks={','.join(map(str, VLANS))}", "vlan_mode=trunk"]
    patch, far = patch_port(SWITCH.uuid), trunk_port(SWITCH.uuid)
    for bridge, name, peer, columns in ((host.bridge, patch, far, []), (uplink, far, patch, trunk)):
        mark = "external_ids:opaque-owner=hostagent"
        interface = ["set", "Interface", name, "type=patch", f"options:peer={peer}", mark]
        switch.vsctl("add-port", bridge, name, *columns, "--", *interface)


@pytest.fixture
def fabric(_hosts: tuple[dict[str, Host], DummySwitch]) -> Iterator[Fabric]:
    """A fabric with nothing on it; the switches live as long as the module."""
    hosts, underlay = _hosts
    for host in hosts.values():
        host.phases, host.relay_vteps, host.hushed, host.signals, host.paths = {}, {}, set(), [], ()
        host.tickets = {}
        host.switch.sent("p0")
        host.switch.appctl("dpctl/flush-conntrack")
    yield Fabric(hosts, underlay)
    for host in hosts.values():
        ours = {"iface-id", SUBPORT_KEY, TAGGED_KEY}
        ports = [row["name"] for row in host.switch.interfaces() if ours & {key for key, _ in row["external_ids"][1]}]
        if ports:
            host.switch.vsctl(*(word for name in ports for word in ("--", "del-port", name)))

"""Fleets for tests of placement: small ones by hand, and any by hypothesis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from hypothesis import strategies as st

from netmgr.contract.types import Status
from vmctl.model import Candidate, HostView, NetworkView, SwitchView, Unread, Vif, Vm, VmState, Zone
from vmctl.placement.fleet import Fleet
from vmctl.placement.model import Capacity, HostFacts, Needs, Purpose, Request, Settings

ZONE_A, ZONE_B = Zone(uuid=UUID(int=0xA), name="a"), Zone(uuid=UUID(int=0xB), name="b")
SWITCH = SwitchView(
    uuid=UUID(int=0x5), name="sw", status=Status.UP, zone_uuids=(ZONE_A.uuid,), link_mbps=10_000, free_ports=1000
)
BLUE = NetworkView(
    uuid=UUID(int=0xB1), name="blue", zone_uuids=(ZONE_A.uuid,), switch_uuid=SWITCH.uuid, status=Status.UP
)
GREEN = NetworkView(
    uuid=UUID(int=0x6E), name="green", zone_uuids=(ZONE_A.uuid,), switch_uuid=SWITCH.uuid, status=Status.UP
)
PLAIN = UUID(int=0x77)


def view(name: str, *networks: NetworkView, switch: SwitchView = SWITCH, **options: bool) -> HostView:
    return HostView(host=name, zones=(ZONE_A,), switches=(switch,), networks=networks or (BLUE, GREEN), **options)


def facts(
    name: str, *, cpus: int = 16, memory_mib: int = 65_536, of: Candidate | None = None, **options: object
) -> HostFacts:
    capacity = Capacity(cpus=cpus, memory_mib=memory_mib, disk_mib=1_000_000)
    values = {"capacity": capacity, "port_groups": frozenset({"lan"}), "peer_uri": f"qemu+tls://{name}/system"}
    return HostFacts(name=name, view=of or view(name), **values | options)  # type: ignore[arg-type]


def vm(
    number: int,
    host: str = "",
    *,
    memory_mib: int = 4096,
    vcpus: int = 2,
    networks: Iterable[NetworkView] = (BLUE,),
    state: VmState = VmState.RUNNING,
) -> Vm:
    vifs = tuple(
        Vif(uuid=UUID(int=(number << 16) + i), network_name=n.name, network_uuid=n.uuid, opaque=True)
        for i, n in enumerate(networks)
    )
    return Vm(
        uuid=UUID(int=(0x100 << 64) + number),
        name=f"vm{number}",
        host=host,
        state=state,
        memory_mib=memory_mib,
        vcpus=vcpus,
        vifs=vifs,
    )


def fleet(
    hosts: Sequence[HostFacts], vms: Sequence[Vm] = (), *, settings: Settings | None = None, needs: Needs | None = None
) -> Fleet:
    made = Fleet(settings)
    for host in hosts:
        made.put_host(host)
        made.put_vms(host.name, [(v, needs or Needs()) for v in vms if v.host == host.name])
    return made


@dataclass(frozen=True)
class Question:
    """A fleet and a request about it."""

    hosts: tuple[HostFacts, ...]
    vms: tuple[tuple[Vm, Needs], ...]
    request: Request
    settings: Settings
    isolated: frozenset[str]

    def fleet(self) -> Fleet:
        made = Fleet(self.settings)
        made.isolated = self.isolated
        for host in self.hosts:
            made.put_host(host)
            made.put_vms(host.name, [(v, n) for v, n in self.vms if v.host == host.name])
        return made


_STATUSES = st.sampled_from(list(Status))
_NETWORK_UUIDS = [UUID(int=0xB0 + i) for i in range(4)]
_SWITCH_UUIDS = [UUID(int=0x50 + i) for i in range(2)]
_NAMES = ["h1", "h2", "h3", "h4"]


def _switches() -> st.SearchStrategy[SwitchView]:
    return st.builds(
        SwitchView,
        uuid=st.sampled_from(_SWITCH_UUIDS),
        name=st.just("sw"),
        status=_STATUSES,
        health=st.integers(0, 100),
        zone_uuids=st.lists(st.sampled_from([ZONE_A.uuid, ZONE_B.uuid]), max_size=2).map(tuple),
        link_mbps=st.none() | st.integers(0, 2000),
        free_ports=st.none() | st.integers(0, 3),
    )


def _networks() -> st.SearchStrategy[NetworkView]:
    return st.builds(
        NetworkView,
        uuid=st.sampled_from(_NETWORK_UUIDS),
        name=st.just("net"),
        zone_uuids=st.lists(st.sampled_from([ZONE_A.uuid, ZONE_B.uuid]), max_size=1).map(tuple),
        switch_uuid=st.none() | st.sampled_from(_SWITCH_UUIDS),
        status=_STATUSES,
        health=st.integers(0, 100),
    )


@st.composite
def _views(draw: st.DrawFn, name: str) -> Candidate:
    if draw(st.integers(0, 5)) == 0:
        return Unread(host=name, reason="connection refused")
    return HostView(
        host=name,
        in_sync=draw(st.booleans()),
        manager_connected=draw(st.booleans()),
        zones=tuple(draw(st.lists(st.sampled_from([ZONE_A, ZONE_B]), unique=True, max_size=2))),
        switches=tuple(draw(st.lists(_switches(), unique_by=lambda s: s.uuid, max_size=2))),
        networks=tuple(draw(st.lists(_networks(), unique_by=lambda n: n.uuid, max_size=4))),
    )


@st.composite
def _hosts(draw: st.DrawFn, name: str) -> HostFacts:
    capacity = st.builds(
        Capacity,
        cpus=st.integers(1, 8),
        memory_mib=st.integers(512, 8192),
        disk_mib=st.none() | st.integers(0, 1000),
        disk_taken_mib=st.integers(0, 500),
    )
    return HostFacts(
        name=name,
        view=draw(_views(name)),
        libvirt_problem=draw(st.sampled_from(["", "", "no connection"])),
        peer_is_local=draw(st.sampled_from([False, False, True])),
        maintenance=draw(st.sampled_from([False, False, True])),
        capacity=draw(st.none() | capacity),
        port_groups=frozenset(draw(st.lists(st.sampled_from(["lan", "dmz"]), max_size=2))),
    )


def _vifs() -> st.SearchStrategy[Vif]:
    opaque = st.sampled_from(_NETWORK_UUIDS).map(lambda u: Vif(network_name="net", network_uuid=u, opaque=True))
    plain = st.sampled_from(["lan", "dmz"]).map(lambda n: Vif(network_name=n, network_uuid=PLAIN))
    lost = st.just(Vif(network_name="gone"))
    return st.one_of(opaque, opaque, opaque, plain, lost, st.just(Vif()))


@st.composite
def _vms(draw: st.DrawFn, number: int, names: Sequence[str]) -> tuple[Vm, Needs]:
    rules = st.frozensets(st.sampled_from(["r1", "r2"]), max_size=2)
    made = Vm(
        uuid=UUID(int=number),
        name=f"vm{number}",
        host=draw(st.sampled_from([*names, ""])),
        state=draw(st.sampled_from(list(VmState))),
        memory_mib=draw(st.integers(0, 4096)),
        vcpus=draw(st.integers(0, 8)),
        vifs=tuple(draw(st.lists(_vifs(), max_size=3))),
    )
    needs = Needs(
        disk_mib=draw(st.integers(0, 600)),
        bandwidth_mbps=draw(st.integers(0, 1500)),
        affinity=draw(rules),
        anti_affinity=draw(rules),
    )
    return made, needs


@st.composite
def questions(draw: st.DrawFn) -> Question:
    """Any small fleet, and any VM that looks for a place in it."""
    names = draw(st.lists(st.sampled_from(_NAMES), min_size=1, unique=True))
    hosts = tuple(draw(_hosts(name)) for name in names)
    vms = tuple(draw(_vms(i, names)) for i in range(1, draw(st.integers(0, 6)) + 1))
    asking, needs = draw(_vms(99, names))
    if vms and draw(st.booleans()):
        asking, needs = draw(st.sampled_from(vms))
    return Question(
        hosts=hosts,
        vms=vms,
        request=Request(vm=asking, needs=needs, purpose=draw(st.sampled_from(list(Purpose))), home=asking.host),
        isolated=draw(st.sampled_from([frozenset(), frozenset({"dmz"})])),
        settings=Settings(cpu_ratio=draw(st.sampled_from([1.0, 4.0])), memory_reserved_mib=0),
    )

"""May this VM go to that host? Pure, and every no is a sentence.

A VM may start on or move to a host that carries every opaque network of the VM, by UUID, each healthy there, the switch
under it too. A network that is withdrawn from a host is still in its view, in maintenance, and as unfit as one that is
down. Moves that can wait also wait for the host to be in sync; a move needs the network manager (its grant lets the VIF
in), a power-on does not ask for it here: the host's own libvirt hook knows whether it holds the VIF already.

Networks that are not opaque are libvirt's business: it refuses by itself, before a byte is copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from uuid import UUID

from netmgr.contract.types import Status
from vmctl.model import Candidate, Code, HostView, NetworkView, Refusal, Unread, Vif, Vm

__all__ = ["Atlas", "network_absent", "refusals"]

_UNFIT = (Status.DOWN, Status.UNAVAILABLE, Status.MAINTENANCE)
_NAMED = 5  # hosts that a sentence names, before it counts the rest


class Atlas:
    """What the hosts tell of networks and zones, looked up once for all the sentences that need it."""

    def __init__(self, fleet: Iterable[Candidate]) -> None:
        self._views = [view for view in fleet if isinstance(view, HostView)]
        self._zones: dict[UUID, str] = {}
        self._carriers: dict[UUID, dict[str, NetworkView]] = {}  # by host, in order of their names

    def carriers(self, uuid: UUID | None) -> Mapping[str, NetworkView]:
        """The hosts that carry the network, in order of their names, with what each tells of it."""
        if uuid is None:
            return {}
        if uuid not in self._carriers:
            told = {view.host: n for view in self.views_with(uuid) if (n := view.network(uuid))}
            self._carriers[uuid] = dict(sorted(told.items()))
        return self._carriers[uuid]

    def zone_name(self, uuid: UUID, host: HostView) -> str:
        """Name of the zone by *host*'s word, or any other's; its UUID where nobody knows it."""
        own = next((zone.name for zone in host.zones if zone.uuid == uuid), "")
        if not own and uuid not in self._zones:
            zones = (zone for view in self.views() for zone in view.zones)
            self._zones[uuid] = next((zone.name for zone in zones if zone.uuid == uuid), str(uuid))
        return own or self._zones[uuid]

    def views(self) -> Iterable[HostView]:
        """Every host that answers."""
        return self._views

    def views_with(self, network: UUID) -> Iterable[HostView]:
        """The hosts that may carry the network: all of them, for one who knows no better."""
        return self.views()


def refusals(
    vm: Vm, host: Candidate, *, fleet: Sequence[Candidate] | Atlas = (), move: bool = True, can_wait: bool = True
) -> tuple[Refusal, ...]:
    """Every reason why *vm* may not go to *host*; empty when it may.

    *fleet* is what is known of the other hosts, for advice only. *move* is False for a power-on. *can_wait* is False
    for what must not wait for a host to be in sync.
    """
    found: list[Refusal] = []
    if move and vm.host == host.host:
        return (_refuse(host, Code.ALREADY_THERE, f"{vm.name} is on {host.host} already; choose another host"),)
    if move and not vm.state.active:
        found.append(
            _refuse(
                host,
                Code.NOT_RUNNING,
                f"{vm.name} is {vm.state} on {vm.host} and a live move needs it running; "
                f"start it there (vmctl vm start {vm.name} --host {host.host})",
            )
        )
    opaque = [vif for vif in vm.vifs if vif.opaque and vif.network_uuid is not None]
    found.extend(
        _refuse(
            host,
            Code.NETWORK_UNKNOWN,
            f"NIC {vif.mac or vif.uuid} of {vm.name} is on libvirt network {vif.network_name}, which {vm.host} has not "
            f"(any more), so nobody can tell where else it is; see `virsh net-list --all` on {vm.host}",
        )
        for vif in vm.vifs
        if vif.network_name and vif.network_uuid is None
    )
    if isinstance(host, Unread):
        if opaque:
            found.append(_unread(host))
        return tuple(found)
    for uuid in dict.fromkeys(vif.network_uuid for vif in opaque if vif.network_uuid):
        network = host.network(uuid)
        if network is None:
            vif = next(v for v in opaque if v.network_uuid == uuid)
            found.append(network_absent(vif, host, fleet=fleet, leaving=vm.host if move else ""))
        else:
            found.extend(_health(network, host))
    if opaque:
        found.extend(_readiness(host, move=move, can_wait=can_wait))
    return tuple(found)


def network_absent(vif: Vif, host: HostView, *, fleet: Sequence[Candidate] | Atlas = (), leaving: str = "") -> Refusal:
    """The refusal of a host that lacks the network of *vif*: which network, which zone, what to do.

    The host that the VM is *leaving* is not advised.
    """
    atlas = fleet if isinstance(fleet, Atlas) else Atlas(fleet)
    uuid = vif.network_uuid
    told = atlas.carriers(uuid)
    not_these = {host.host, leaving}
    carriers = [name for name in islice(told, _NAMED + 2) if name not in not_these][:_NAMED]
    known = next(iter(told.values()), None)
    label = f"network {known.name if known else vif.network_name}" + (f" ({uuid})" if uuid else "")
    zones = [atlas.zone_name(z, host) for z in known.zone_uuids] if known else []
    mine = sorted(zone.name for zone in host.zones)
    others = len(told) - sum(name in told for name in not_these) - len(carriers)
    more = f" and {others} more" if others else ""
    choose = f"choose one of {', '.join(carriers)}{more}" if carriers else ""
    if known is None or not zones:
        sentence = f"{label} is not on {host.host}, nor on any other host that answers; see `vmctl network list`"
    elif set(zones) & set(mine):
        sentence = (
            f"{label} of zone {_join(zones)} is not on {host.host}, although {host.host} is in that zone: it "
            f"has not realized it; see `hostagent verify` on {host.host}"
        )
        sentence += f", or {choose}" if choose else ""
    else:
        options = " ".join(f"--zone {zone}" for zone in [*mine, *zones])
        whose = f"whose zones are {', '.join(mine)}" if mine else "which is in no zone"
        sentence = (
            f"{label} of zone {_join(zones)} is not on {host.host}, {whose}; "
            f"add {host.host} to zone {_join(zones)} (netmgr host set {host.host} {options})"
        )
        sentence += f" or {choose}" if choose else ""
    return _refuse(host, Code.NETWORK_ABSENT, sentence, uuid)


def _health(network: NetworkView, host: HostView) -> list[Refusal]:
    switch = host.switch_of(network)
    found = []
    if network.status in _UNFIT:
        found.append(
            _refuse(
                host,
                Code.NETWORK_UNHEALTHY,
                f"network {network.name} ({network.uuid}) is {network.status} on {host.host}{_because(network.reasons)}"
                f"; mend it (`hostagent verify` on {host.host}) or choose another host",
                network.uuid,
            )
        )
    if switch is None and network.switch_uuid is not None:
        found.append(
            _refuse(
                host,
                Code.SWITCH_UNHEALTHY,
                f"the switch ({network.switch_uuid}) that carries network {network.name} is not on {host.host}; "
                f"see `hostagent show` on {host.host}, or choose another host",
                network.uuid,
            )
        )
    elif switch is not None and switch.status in _UNFIT:
        found.append(
            _refuse(
                host,
                Code.SWITCH_UNHEALTHY,
                f"switch {switch.name} ({switch.uuid}), which carries network {network.name}, is {switch.status} on "
                f"{host.host}{_because(switch.reasons)}; mend it or choose another host",
                network.uuid,
            )
        )
    return found


def _readiness(host: HostView, *, move: bool, can_wait: bool) -> list[Refusal]:
    found = []
    if move and not host.manager_connected:
        found.append(
            _refuse(
                host,
                Code.MANAGER_AWAY,
                f"{host.host} has not reached the network manager for {host.sync_age_s:.0f} s, and without its grant "
                "no VIF may move in; wait until it is back, or choose another host",
            )
        )
    if can_wait and not host.in_sync:
        found.append(
            _refuse(
                host,
                Code.NOT_IN_SYNC,
                f"{host.host} has not realized all that it was told ({host.sync_age_s:.0f} s behind); "
                f"wait until `hostagent show` on {host.host} says in sync, or choose another host",
            )
        )
    return found


def _unread(host: Unread) -> Refusal:
    return _refuse(
        host,
        Code.HOST_UNREAD,
        f"{host.host} does not say which networks it carries: {host.reason}; "
        f"start hostagent there or correct its address (vmctl host show {host.host})",
    )


def _because(reasons: tuple[str, ...]) -> str:
    return f" ({'; '.join(reasons)})" if reasons else ""


def _join(words: Sequence[str]) -> str:
    return " and ".join(words)


def _refuse(host: Candidate, code: Code, sentence: str, network_uuid: UUID | None = None) -> Refusal:
    return Refusal(host=host.host, code=code, sentence=sentence, network_uuid=network_uuid)

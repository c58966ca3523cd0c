"""Peers of the underlay: who is to be asked whether the tunnel works, and what is said of the answers. Pure.

Asked are the VTEPs where ports live that this host forwards to, on a path for each tunnel type that these networks use;
and a few neighbours that the manager names, on each type in use, shared port or not: they tell whether the underlay
carries a new network, and whether it is a peer that is gone or this host that is cut off.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from itertools import chain
from uuid import UUID

from hostagent.flow import Flow, Match, address_of
from hostagent.flow_set import flow_set
from hostagent.indexed import tally
from hostagent.model import Bridge, Desired, PathKey, PathStatus, Unread
from hostagent.names import network_key, tunnel_port
from hostagent.pipeline.tables import Table
from hostagent.resolve import Resolved
from hostagent.underlay.liveness import WantedPath, group_of
from hostagent.underlay.path_fit import peer_name
from netmgr.contract.types import Location, NetworkType, OpaqueSwitch, PeerState, PeerStatus

__all__ = ["cut_before", "cut_off", "peer_findings", "peer_statuses", "tunnel_ofports", "wanted_paths"]

_TUNNEL_ENDS = ("tun_dst", "tun_ipv6_dst")
_NAMED = 3  # peers that a sentence names before it counts the rest


def wanted_paths(desired: Desired, resolved: Resolved) -> tuple[WantedPath, ...]:
    """The paths to ask on, sorted: for packets as large as any switch on the same PNICs asks for, as one that has VLANs
    only has nobody to ask."""
    mtus: dict[str, int] = {}
    for intent in resolved.switches.values():
        mtus[intent.uplink] = max(mtus.get(intent.uplink, 0), intent.switch.mtu if not intent.blocked else 0)
    vteps = {uuid: intent.vtep_address for uuid, intent in resolved.switches.items() if not intent.blocked}
    shared: set[PathKey] = set()
    networks = {network.uuid.int: network for network in desired.networks.values()}
    for number, *both in tally(desired.locations, _place):  # of ten thousand locations few are in different places
        network = networks.get(number)
        own = vteps.get(network.switch_uuid) if network is not None else ""
        if network is None or not own or not network.type.tunneled:
            continue
        for vtep in both:
            if vtep and vtep != own and (":" in vtep) == (":" in own):
                shared.add(PathKey(network.switch_uuid, network.type, vtep))
    named: set[PathKey] = set()
    for peer in desired.host.peers if desired.host is not None else ():
        own = vteps.get(peer.switch_uuid, "")
        if own and peer.vtep != own and (":" in peer.vtep) == (":" in own):
            kinds = [kind for kind in resolved.switches[peer.switch_uuid].types if kind.tunneled]
            named.update(PathKey(peer.switch_uuid, kind, peer.vtep) for kind in kinds)
    return tuple(
        WantedPath(
            key=key,
            mtu=mtus[resolved.switches[key.switch].uplink],
            shared=key in shared,
            group=group_of(vteps[key.switch], key.vtep),
        )
        for key in sorted(shared | named)
    )


def cut_before(
    desired: Desired, resolved: Resolved, flows: Mapping[str, Set[Flow] | Unread], among: Iterable[PathKey]
) -> frozenset[PathKey]:
    """Which of the paths *among* the bridges send nothing on, as their flows are: what an earlier agent had found."""
    wanted = frozenset(among)
    found: set[PathKey] = set()
    for switch in {path.switch for path in wanted}:
        intent = resolved.switches.get(switch)
        has = flows.get(intent.bridge) if intent is not None else None
        if intent is None or not isinstance(has, Set):
            continue
        kinds = {network_key(network.uuid): network.type for network in intent.networks}
        for flow in flow_set(has).of_table(Table.SEND):
            if not flow.actions and flow.cookie in kinds:
                numbers = {one.value for one in flow.match if isinstance(one, Match) and one.field in _TUNNEL_ENDS}
                vteps = {path.vtep for path in wanted if address_of(path.vtep) in numbers}
                found.update(PathKey(switch, kinds[flow.cookie], vtep) for vtep in vteps)
    return frozenset(found & wanted)


def tunnel_ofports(resolved: Resolved, bridges: Iterable[Bridge]) -> dict[tuple[UUID, NetworkType], int]:
    """The number of each tunnel port that the switch has given one, by switch and type."""
    by_name = {bridge.name: bridge for bridge in bridges}
    found = {}
    for intent in resolved.switches.values():
        bridge = by_name.get(intent.bridge)
        for kind in intent.types if bridge is not None and not intent.foreign else ():
            name = tunnel_port(kind, intent.switch.uuid) if kind.tunneled else ""
            for port in bridge.ports if bridge is not None else ():
                numbers = [one.ofport or 0 for one in port.interfaces] if port.name == name else []
                if max(numbers, default=0) > 0:
                    found[intent.switch.uuid, kind] = max(numbers)
    return found


def peer_statuses(desired: Desired, paths: Iterable[PathStatus]) -> dict[UUID, tuple[PeerStatus, ...]]:
    """By switch: what the manager is told of *paths*."""
    owners = _owners(desired)
    found: dict[UUID, list[PeerStatus]] = {}
    for path in paths:
        status = PeerStatus(
            vtep=path.key.vtep,
            host_uuid=owners.get(path.key.vtep),
            type=path.key.type,
            state=path.state,
            shared=path.shared,
            cut=path.cut,
            mtu=path.mtu_passed,
        )
        found.setdefault(path.key.switch, []).append(status)
    return {switch: tuple(statuses) for switch, statuses in found.items()}


def _owners(desired: Desired) -> dict[str, UUID]:
    """The host of each VTEP, as far as it is known."""
    named = desired.host.peers if desired.host is not None else ()
    owners = {peer.vtep: peer.host_uuid for peer in named}
    for vtep, host in chain(tally(desired.locations, _holder), tally(desired.locations, _incoming)):
        if vtep and host is not None:
            owners[vtep] = host
    return owners


def _place(location: Location) -> tuple[int, str, str]:
    """The network's number, and the VTEPs where the port is needed."""
    if location.parked:
        return location.network_uuid.int, "", ""
    return location.network_uuid.int, location.holder_vtep, location.incoming_vtep


def _holder(location: Location) -> tuple[str, UUID | None]:
    return location.holder_vtep, location.holder_host


def _incoming(location: Location) -> tuple[str, UUID | None]:
    return location.incoming_vtep, location.incoming_host


def cut_off(paths: Sequence[PathStatus]) -> bool:
    """Whether the *paths* of one switch say that the host itself is cut off: two peers or more, and none answers."""
    known = [path for path in paths if path.state in (PeerState.UP, PeerState.DOWN)]
    return len({path.key.vtep for path in known}) > 1 and all(path.state is PeerState.DOWN for path in known)


def peer_findings(
    switch: OpaqueSwitch, paths: Sequence[PathStatus], names: Mapping[str, str]
) -> Iterator[tuple[str, int, str]]:
    """Findings on the peers of *switch*: "down" or "warning", a score, and the sentence."""
    mine = [path for path in paths if path.key.switch == switch.uuid]
    where = f"switch {switch.name}"
    if cut_off(mine):
        peers = _list({path.key.vtep for path in mine if path.state is PeerState.DOWN}, names)
        yield (
            "down",
            0,
            f"{where}: none of its peers answers tunnel probes: {peers}; this host seems cut off from the underlay; "
            "frames are still sent; check its PNICs, the underlay and its MTU",
        )
        return
    for kind in sorted({path.key.type for path in mine}):
        of_kind = [path for path in mine if path.key.type is kind and path.shared]
        down = {path.key.vtep for path in of_kind if path.state is PeerState.DOWN}
        if down:
            yield (
                "warning",
                70,
                f"{where}: {kind} tunnel probes are not answered any more by {_list(down, names)}; nothing is sent "
                "there until they are; check that host, its Open vSwitch, and the underlay between",
            )
        unheard = {path.key.vtep for path in of_kind if path.state is PeerState.UNHEARD}
        if unheard:
            yield (
                "warning",
                90,
                f"{where}: {kind} tunnel probes were never answered by {_list(unheard, names)}; frames are sent all "
                "the same; check that the underlay lets the tunnel through, and that that host's agent is not older",
            )


def _list(vteps: set[str], names: Mapping[str, str]) -> str:
    ordered = sorted(vteps)
    shown = ", ".join(peer_name(vtep, names) for vtep in ordered[:_NAMED])
    more = len(ordered) - _NAMED
    return f"{shown} and {more} more" if more > 0 else shown

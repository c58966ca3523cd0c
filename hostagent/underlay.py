"""Peers of the underlay: who is to be asked whether the tunnel works, and what is said of the answers. Pure.

Asked are the VTEPs where ports live that this host forwards to: the networks that it subscribes to, on a path for each
tunnel type that these networks use. Nobody else: a host that carries nothing in common costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from uuid import UUID

from hostagent.liveness import WantedPath
from hostagent.model import Bridge, Desired, PathKey, PathState, PathStatus
from hostagent.names import OVS_TYPE, tunnel_port
from hostagent.resolve import Resolved
from netmgr.contract.types import NetworkType, OpaqueSwitch

__all__ = ["cut_off", "peer_findings", "peer_name", "peer_names", "peer_owners", "tunnel_ofports", "wanted_paths"]

_NAMED = 3  # peers that a sentence names before it counts the rest


def wanted_paths(desired: Desired, resolved: Resolved) -> tuple[WantedPath, ...]:
    """The paths to ask on, sorted."""
    vteps = {uuid: intent.vtep_address for uuid, intent in resolved.switches.items() if not intent.blocked}
    shared: set[PathKey] = set()
    for location in desired.locations.values():
        network = desired.networks.get(location.network_uuid)
        own = vteps.get(network.switch_uuid) if network is not None else ""
        if network is None or not own or network.type not in OVS_TYPE or location.parked:
            continue
        for vtep in (location.holder_vtep, location.incoming_vtep):
            if vtep and vtep != own and (":" in vtep) == (":" in own):
                shared.add(PathKey(network.switch_uuid, network.type, vtep))
    return tuple(
        WantedPath(key=key, mtu=resolved.switches[key.switch].switch.mtu, shared=True) for key in sorted(shared)
    )


def tunnel_ofports(resolved: Resolved, bridges: Iterable[Bridge]) -> dict[tuple[UUID, NetworkType], int]:
    """The number of each tunnel port that the switch has given one, by switch and type."""
    by_name = {bridge.name: bridge for bridge in bridges}
    found = {}
    for intent in resolved.switches.values():
        bridge = by_name.get(intent.bridge)
        for kind in intent.types if bridge is not None and not intent.foreign else ():
            name = tunnel_port(kind, intent.switch.uuid) if kind in OVS_TYPE else ""
            for port in bridge.ports if bridge is not None else ():
                numbers = [one.ofport or 0 for one in port.interfaces] if port.name == name else []
                if max(numbers, default=0) > 0:
                    found[intent.switch.uuid, kind] = max(numbers)
    return found


def peer_owners(desired: Desired) -> dict[str, UUID]:
    """The host of each VTEP, as far as locations tell."""
    owners: dict[str, UUID] = {}
    for location in desired.locations.values():
        if location.holder_host is not None and location.holder_vtep:
            owners[location.holder_vtep] = location.holder_host
        if location.incoming_host is not None and location.incoming_vtep:
            owners[location.incoming_vtep] = location.incoming_host
    return owners


def peer_names(desired: Desired) -> dict[str, str]:
    """Names of hosts by VTEP, as far as they are known."""
    return {}


def peer_name(vtep: str, names: Mapping[str, str]) -> str:
    """How a sentence calls the peer at *vtep*."""
    return f"{names[vtep]} ({vtep})" if names.get(vtep) else vtep


def cut_off(paths: Sequence[PathStatus]) -> bool:
    """Whether the *paths* of one switch say that the host itself is cut off: two peers or more, and none answers."""
    known = [path for path in paths if path.state in (PathState.UP, PathState.DOWN)]
    return len({path.key.vtep for path in known}) > 1 and all(path.state is PathState.DOWN for path in known)


def peer_findings(
    switch: OpaqueSwitch, paths: Sequence[PathStatus], names: Mapping[str, str]
) -> Iterator[tuple[str, int, str]]:
    """Findings on the peers of *switch*: "down" or "warning", a score, and the sentence."""
    mine = [path for path in paths if path.key.switch == switch.uuid]
    where = f"switch {switch.name}"
    if cut_off(mine):
        peers = _list({path.key.vtep for path in mine if path.state is PathState.DOWN}, names)
        yield (
            "down",
            0,
            f"{where}: none of its peers answers tunnel probes: {peers}; this host seems cut off from the underlay; "
            "frames are still sent; check its PNICs, the underlay and its MTU",
        )
        return
    for kind in sorted({path.key.type for path in mine}):
        of_kind = [path for path in mine if path.key.type is kind and path.shared]
        down = {path.key.vtep for path in of_kind if path.state is PathState.DOWN}
        if down:
            yield (
                "warning",
                70,
                f"{where}: {kind} tunnel probes are not answered any more by {_list(down, names)}; nothing is sent "
                "there until they are; check that host, its Open vSwitch, and the underlay between",
            )
        unheard = {path.key.vtep for path in of_kind if path.state is PathState.UNHEARD}
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

"""Does a network's MTU fit the paths to this host's peers? Pure: from what was measured to a verdict with its sentence.

A switch has an MTU that the underlay should pass; whether it does is measured, to each peer. Where more paths are too
small for a network than fit it, the fault is most likely on this host's side, and the network is not accepted here.
Where fewer are, it is the others', who find the same of all their paths: the network is accepted and the paths are
named. As long as nothing is known of any path, and something soon will be, the network waits. With no peer that answers
there is nothing to measure, and only what this host knows of itself counts; nor where there are VLANs only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple
from uuid import UUID

from hostagent.model import Desired, PathStatus
from netmgr.contract.types import NetworkType, OpaqueNetwork, PeerState

__all__ = ["Fit", "Paths", "by_tunnel", "fit", "overhead", "paths_of", "peer_name", "peer_names"]

_NAMED = 3
_ANY = 1 << 16


class Fit(NamedTuple):
    """Sentences are empty where there is nothing to say."""

    problem: str = ""  # why the network is not accepted
    warning: str = ""  # which paths are too small, though it is
    measuring: bool = False  # nothing is known yet


class Paths(NamedTuple):
    """The paths of one switch and tunnel type."""

    all: tuple[PathStatus, ...]
    passed: int  # what all of them pass that are not known to be dead


def by_tunnel(paths: Iterable[PathStatus]) -> dict[tuple[UUID, NetworkType], Paths]:
    """*paths* by switch and type: hundreds of networks are then judged at the price of one look each."""
    groups: dict[tuple[UUID, NetworkType], list[PathStatus]] = {}
    for path in paths:
        groups.setdefault((path.key.switch, path.key.type), []).append(path)
    alive = (PeerState.NEW, PeerState.UP)
    return {
        key: Paths(tuple(group), min((path.mtu_passed for path in group if path.state in alive), default=_ANY))
        for key, group in groups.items()
    }


def paths_of(
    network: OpaqueNetwork, groups: Mapping[tuple[UUID, NetworkType], Paths], uplinks: Mapping[UUID, str]
) -> Paths | None:
    """Those of *groups* that tell how large packets of *network* may be; None where nothing does.

    A VLAN has no path of its own to be asked on; tunnels on the same PNICs have. *uplinks* is by switch.
    """
    if network.type.tunneled:
        return groups.get((network.switch_uuid, network.type))
    beside = sorted(key for key in groups if uplinks.get(key[0]) == uplinks.get(network.switch_uuid))
    return groups[beside[0]] if beside else None


def fit(network: OpaqueNetwork, paths: Paths, names: Mapping[str, str]) -> Fit:
    """Whether *network* fits the paths of its switch and type; *names* are of hosts, by VTEP."""
    if network.mtu + overhead(network.type, paths.all[0].key.vtep) <= paths.passed:
        return Fit()
    small: list[PathStatus] = []
    fitting = unknown = 0
    for path in paths.all:
        need = network.mtu + overhead(network.type, path.key.vtep)
        if path.state is PeerState.UP and path.mtu_passed >= need:
            fitting += 1
        elif path.state is PeerState.UP and path.mtu_refused:
            small.append(path)
        elif path.state in (PeerState.NEW, PeerState.UP):
            unknown += 1
    if not small or (unknown and not fitting):
        return Fit(measuring=unknown > 0 and not fitting)
    sentence = _sentence(network, small, fitting, names)
    return Fit(problem=sentence) if len(small) > fitting else Fit(warning=sentence)


def overhead(kind: NetworkType, vtep: str) -> int:
    """Bytes that a tunnel over the family of *vtep* adds to the MTU of a network, up to the outer IP packet.

    The tag of a VLAN is beside the MTU (IEEE 802.1Q, and so Linux counts).
    """
    if not kind.tunneled:
        return 0
    return (42 if kind is NetworkType.NVGRE else 50) + (20 if ":" in vtep else 0)


def peer_names(desired: Desired) -> dict[str, str]:
    """Names of hosts by VTEP, as far as they are known."""
    return {peer.vtep: peer.host_name for peer in desired.host.peers} if desired.host is not None else {}


def peer_name(vtep: str, names: Mapping[str, str]) -> str:
    """How a sentence calls the peer at *vtep*."""
    return f"{names[vtep]} ({vtep})" if names.get(vtep) else vtep


def _sentence(network: OpaqueNetwork, small: list[PathStatus], fitting: int, names: Mapping[str, str]) -> str:
    extra = overhead(network.type, small[0].key.vtep)
    passed = min(path.mtu_passed for path in small)
    found = ", ".join(f"{path.mtu_passed} to {peer_name(path.key.vtep, names)}" for path in small[:_NAMED])
    found += f" and too little to {len(small) - _NAMED} more" if len(small) > _NAMED else ""
    others = "1 other peer is" if fitting == 1 else f"{fitting} other peers are"
    end = f"{others} reached with them" if fitting else "no peer is reached with them"
    return (
        f"network {network.name}: its MTU of {network.mtu} needs packets of {network.mtu + extra} bytes to pass the "
        f"underlay, but at most {found} do; {end}; raise the MTU of the underlay between them and of its PNICs to "
        f"{network.mtu + extra}, or lower the network's to {passed - extra}"
    )

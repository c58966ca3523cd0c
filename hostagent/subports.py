"""Sub-ports on this host: where frames of a VIF with a tag become frames of a port of their own, and back. Pure.

Theory of operation. A sub-port is a logical port that has no tap: its frames pass its parent's, tagged. It gets a port
of the switch all the same, so that everything that protects, judges, limits, counts and answers a port does so for it,
by the number of that port, without knowing that there is a tag. A pair of patch ports makes it:

    parent's tap ── tagged ── tag-… ═══ patch ═══ sub-… ── untagged, as if it were a tap, on the sub-port's network

`tag-…` is on the bridge of the parent's network, `sub-…` on that of the sub-port's, which may be another switch's or
the same. What crosses a patch begins anew in CLASSIFY, without metadata and registers, by the port it comes from:
nothing of the one network reaches the other. Neither datapath has a port for it; a cached flow takes the tag off, and
that is all.

The pair is there while the parent's tap is plugged on a host that holds the parent, or is to get it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from uuid import UUID

from hostagent.indexed import select
from hostagent.model import Bridge, Desired, Interface, PutPort
from hostagent.names import OWNER, SUBPORT_KEY, TAGGED_KEY, is_ours, subport_end, tagged_end
from hostagent.resolve import SwitchIntent
from hostagent.vifs import taps_of, uuid_of
from netmgr.contract.types import LogicalPort

__all__ = ["subport_patches", "tagged_ends"]


def subport_patches(
    desired: Desired, intents: Collection[SwitchIntent], bridges: Mapping[str, Bridge]
) -> dict[str, list[PutPort]]:
    """The ends of patches that the sub-ports of VIFs on this host need, by bridge."""
    home = {network.uuid: intent.bridge for intent in intents for network in intent.networks}
    taps: dict[str, Collection[UUID]] = {}
    found: dict[str, list[PutPort]] = {}
    for port, parent in sorted(_subports_here(desired), key=lambda pair: pair[0].uuid):
        near, far = home.get(parent.network_uuid), home.get(port.network_uuid)
        if near is None or near not in bridges or far is None:
            continue
        if near not in taps:
            taps[near] = taps_of(bridges[near]).by_vif
        if parent.vif_uuid in taps[near]:
            outer, inner = tagged_end(port.uuid), subport_end(port.uuid)
            found.setdefault(near, []).append(_end(near, outer, inner, {TAGGED_KEY: str(port.uuid)}))
            marks = {SUBPORT_KEY: str(port.uuid), "attached-mac": port.mac}
            found.setdefault(far, []).append(_end(far, inner, outer, marks))
    return found


def tagged_ends(bridge: Bridge, desired: Desired) -> dict[UUID, tuple[tuple[int, int], ...]]:
    """By parent: the tag of each of its sub-ports, and the number on *bridge* of the port that its frames go to."""
    found: dict[UUID, list[tuple[int, int]]] = {}
    for row in bridge.ports:
        for one in row.interfaces:
            uuid = uuid_of(one.external_ids.get(TAGGED_KEY, "")) if is_ours(one.external_ids) else None
            port = desired.ports.get(uuid) if uuid is not None else None
            if port is not None and port.parent_port is not None and one.ofport is not None and one.ofport > 0:
                found.setdefault(port.parent_port, []).append((port.tag, one.ofport))
    return {parent: tuple(sorted(ends)) for parent, ends in found.items()}


def _subports_here(desired: Desired) -> Iterator[tuple[LogicalPort, LogicalPort]]:
    """Sub-ports whose parent this host holds or is to get, each with the parent."""
    host = desired.host.uuid if desired.host is not None else None
    for port in select(desired.ports, _is_subport).values():
        parent = desired.ports.get(port.parent_port) if port.parent_port is not None else None
        location = desired.locations.get(parent.uuid) if parent is not None else None
        if parent is not None and location is not None and host in (location.holder_host, location.incoming_host):
            yield port, parent


def _is_subport(port: LogicalPort) -> bool:
    return port.parent_port is not None


def _end(bridge: str, name: str, peer: str, marks: Mapping[str, str]) -> PutPort:
    end = Interface(name=name, type="patch", options={"peer": peer}, external_ids={**OWNER, **marks})
    return PutPort(bridge=bridge, name=name, interfaces=(end,), external_ids=OWNER)

"""Finds rows by what users write: a UUID or a name. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from netmgr.contract.types import Kind, LogicalPort, OpaqueNetwork, OpaqueSwitch, TransportZone
from netmgr.model import GroupRecord, HostRecord, NetmgrError, World, port_path

__all__ = [
    "find_group",
    "find_groups",
    "find_host",
    "find_network",
    "find_port",
    "find_switch",
    "find_zone",
    "find_zones",
]


def find_zone(world: World, text: str) -> TransportZone:
    """The zone of that UUID or name; 404 with the nearest name otherwise. So are the others."""
    zone: TransportZone = _find(world, Kind.ZONE, text)
    return zone


def find_zones(world: World, texts: Iterable[str]) -> tuple[UUID, ...]:
    """UUIDs of the zones, sorted."""
    return tuple(sorted(find_zone(world, text).uuid for text in texts))


def find_switch(world: World, text: str) -> OpaqueSwitch:
    switch: OpaqueSwitch = _find(world, Kind.SWITCH, text)
    return switch


def find_network(world: World, text: str) -> OpaqueNetwork:
    network: OpaqueNetwork = _find(world, Kind.NETWORK, text)
    return network


def find_group(world: World, text: str) -> GroupRecord:
    group: GroupRecord = _find(world, Kind.SECURITY_GROUP, text)
    return group


def find_groups(world: World, texts: Iterable[str]) -> tuple[UUID, ...]:
    """UUIDs of the groups, sorted."""
    return tuple(sorted(find_group(world, text).uuid for text in texts))


def find_host(world: World, text: str) -> HostRecord:
    host: HostRecord = _find(world, Kind.HOST, text)
    return host


def find_port(world: World, text: str, *, network: str | None = None) -> LogicalPort:
    """The port of that UUID or name. Names are unique within a network only: `NETWORK/PORT` says which.

    In URLs it is written `NETWORK:PORT`; names hold neither character.
    """
    uuid = _uuid(text)
    if uuid is not None and uuid in world.ports:
        return world.ports[uuid]
    if network is None and ("/" in text or ":" in text):
        network, text = text.replace(":", "/").split("/", 1)
    if network is not None:
        uuid = world.unique.get(("name", Kind.PORT, find_network(world, network).uuid, text))
        if uuid is None:
            raise NetmgrError(f"network {network} has no port {text!r}", status=404)
        return world.ports[uuid]
    found = [port for port in world.ports.values() if port.name == text]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(sorted(port_path(world, port) for port in found))
        raise NetmgrError(f"port {text}: several have this name; say which: {names}", status=409)
    raise _unknown("port", text, {port.name for port in world.ports.values()})


def _find(world: World, kind: Kind, text: str) -> Any:
    rows = world.rows(kind)
    uuid = _uuid(text)
    if uuid is not None and uuid in rows:
        return rows[uuid]
    named = world.unique.get(("name", kind, text))
    if named is not None:
        return rows[named]
    raise _unknown(kind, text, {row.name for row in rows.values()})  # type: ignore[union-attr]


_WORDS = {str(Kind.SECURITY_GROUP): "group"}  # on the command line


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _unknown(kind: str, text: str, names: set[str]) -> NetmgrError:
    kind = _WORDS.get(kind, kind)
    nearest = difflib.get_close_matches(text, names, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"`netmgr {kind} list` shows those there are"
    return NetmgrError(f"there is no {kind} {text!r}; {hint}", status=404)

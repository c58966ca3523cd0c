"""A tap that is being plugged, read from OVSDB's message before the IDL has digested it. Pure.

To make rows of a message, frozen values of the rows, and a snapshot of these takes a Python thread a millisecond or
more, which is what vswitchd takes to open the tap. Whom the tap is for stands in the message in plain words. So what is
told by one message, and by nothing else in it, is taken from there: one interface, in one new port, in one bridge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["NewTap", "tap_in", "tap_told"]


class NewTap(NamedTuple):
    """An interface; *ofport* is 0 where the switch has not looked at it, as far as the message says."""

    bridge: str
    name: str
    ofport: int
    external_ids: dict[str, str]


def tap_in(method: str | None, parameters: Any, *, bridge_of: Callable[[str], str | None]) -> NewTap | None:
    """The tap that a message of ovsdb-server brings, if that is all it brings (`tap_told`)."""
    return tap_told(parameters[-1], bridge_of=bridge_of) if method in ("update2", "update3") else None


def tap_told(updates: Any, *, bridge_of: Callable[[str], str | None]) -> NewTap | None:
    """The tap that *updates* (table-updates2 of ovsdb-server(7)) bring, if that is all they bring; `next_cfg` and the
    like aside. *bridge_of* knows bridges' names by the UUID of their rows."""
    try:
        tables = {name: rows for name, rows in updates.items() if name != "Open_vSwitch"}
        if tables.keys() != {"Interface", "Port", "Bridge"}:
            return None
        ((interface_uuid, interface),) = tables["Interface"].items()
        ((port_uuid, port),) = tables["Port"].items()
        ((bridge_uuid, bridge),) = tables["Bridge"].items()
        row = interface["insert"]
        linked = port["insert"]["interfaces"] == ["uuid", interface_uuid] and bridge["modify"] == {
            "ports": ["uuid", port_uuid]
        }
        kind, pairs = row["external_ids"]
        name, ofport = bridge_of(bridge_uuid), row.get("ofport", 0)
        if not linked or "error" in row or kind != "map" or name is None or ofport < 0:
            return None
        return NewTap(name, row["name"], ofport, {str(key): str(value) for key, value in pairs})
    except (AttributeError, KeyError, TypeError, ValueError):  # of another form: for the IDL
        return None

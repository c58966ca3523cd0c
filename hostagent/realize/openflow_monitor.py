"""The flow monitor of an OpenFlow connection: how it is asked for, and whether what it tells is news. Pure."""

from __future__ import annotations

import struct
from typing import Final

__all__ = ["FLOW_MONITOR", "monitor_request", "tells_change"]

FLOW_MONITOR: Final = 16
"""Its kind of multipart message."""

_ADDED_REMOVED_MODIFIED: Final = 2 | 4 | 8
_EVENT_ABBREVIATED: Final = 4


def monitor_request() -> bytes:
    """The body of a multipart request for all flows of the bridge."""
    scope = struct.pack("!IIIHBB", 1, 0xFFFFFFFF, 0xFFFFFFFF, _ADDED_REMOVED_MODIFIED, 0xFF, 0)
    return struct.pack("!HH4x", FLOW_MONITOR, 0) + scope + struct.pack("!HH4x", 1, 4)


def tells_change(updates: bytes) -> bool:
    """Whether *updates* speak of a change that another connection has made."""
    at = 0
    while at < len(updates):
        length, event = struct.unpack_from("!HH", updates, at)
        if event != _EVENT_ABBREVIATED:
            return True
        at += max(length, 8)
    return False

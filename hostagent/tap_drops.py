"""What the kernel dropped at an interface, where Open vSwitch did not see it or could not know.

A guest may send jumbo frames into a tap or veth whose MTU is its network's. They end there, and only the kernel counts
them, since the interface came; for some other drops of received frames it has no counter of their own.

What is delivered beyond a port's limit waits in the HTB of its tap, in both datapaths. What its queue has no room for
is counted there, since vswitchd made it.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from hostagent.realize.errors import RealizeError
from hostagent.realize.rtnetlink import dump_htb_drops

__all__ = ["OVERFLOWED", "REFUSED", "read_overflowed", "read_refused", "refused"]

OVERFLOWED: Final = "rate limit, into the guest"

REFUSED: Final = "refused by the tap: longer than its MTU, or more than it could take"
_DROPPED = 3  # of received frames: /proc/net/dev has bytes, packets, errs, drop, …


def read_refused(counters: Path = Path("/proc/self/net/dev")) -> Mapping[str, int]:
    """By interface of this process's network namespace: received frames that the kernel dropped."""
    return refused(counters.read_text())


def read_overflowed() -> Mapping[str, int]:
    """By interface of this process's network namespace that is shaped: frames that its queue had no room for.

    Raises:
        RealizeError: the kernel refused, or did not answer.
    """
    try:
        counted = dump_htb_drops()
    except OSError as error:
        raise RealizeError(f"what shaped interfaces have dropped can't be read from the kernel: {error}") from None
    found = {}
    for index, packets in counted.items():
        with suppress(OSError):  # gone meanwhile
            found[socket.if_indextoname(index)] = packets
    return found


def refused(text: str) -> dict[str, int]:
    """The same from the text of /proc/net/dev."""
    found = {}
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        found[name.strip()] = int(rest.split()[_DROPPED])
    return found

"""Opens a path at the moment a guest stops: QEMU's event in, one OpenFlow message out, nothing in between.

Run on a host as `python -m scripts.benchkit.gate DOMAIN SOCKET TABLE MAC`. It says "armed" once it hears the events of
the guest's QEMU by libvirt and has a connection to the switch at *SOCKET*. At the first STOP it writes one message,
encoded beforehand: in *TABLE*, what is for *MAC* goes to all ports that flood. Then it says "open" and ends.
"""

from __future__ import annotations

import argparse
import socket
import struct
from collections.abc import Sequence

__all__ = ["HELLO", "flood_to"]

_VERSION = 4  # OpenFlow 1.3
_HELLO, _FLOW_MOD, _HEADER = 0, 14, struct.Struct("!BBHI")
_FLOOD, _NONE = 0xFFFFFFFB, 0xFFFFFFFF
_ETH_DST = 0x80000606  # OXM, basic class, field 3, 6 bytes
_DEADLINE_MS = 120_000  # a guest that has not stopped by then will not

HELLO = _HEADER.pack(_VERSION, _HELLO, 8, 1)


def flood_to(mac: str, *, table: int, priority: int) -> bytes:
    """The message that adds a flow: in *table*, what is for *mac* goes to every port that floods."""
    match = struct.pack("!HHI", 1, 14, _ETH_DST) + bytes.fromhex(mac.replace(":", "")) + bytes(2)
    output = struct.pack("!HHIH6x", 0, 16, _FLOOD, 0)
    apply_actions = struct.pack("!HH4x", 4, 8 + len(output)) + output
    fixed = struct.pack("!QQBBHHHIIIH2x", 0, 0, table, 0, 0, 0, priority, _NONE, _NONE, _NONE, 0)
    body = fixed + match + apply_actions
    return _HEADER.pack(_VERSION, _FLOW_MOD, _HEADER.size + len(body), 2) + body


def main(words: Sequence[str] | None = None) -> None:
    """Wait for the guest's STOP and write the message; SystemExit when it does not come."""
    import libvirt
    import libvirt_qemu

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name in ("domain", "socket", "table", "mac"):
        parser.add_argument(name)
    options = parser.parse_args(words)
    message = flood_to(options.mac, table=int(options.table), priority=10)
    done: list[str] = []
    libvirt.virEventRegisterDefaultImpl()
    connection = libvirt.open("qemu:///system")
    domain = connection.lookupByName(options.domain)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as switch:
        switch.connect(options.socket)
        switch.sendall(HELLO)
        switch.recv(4096)

        def stopped(*_: object) -> None:
            if not done:
                switch.sendall(message)
                done.append("open")

        libvirt_qemu.qemuMonitorEventRegister(connection, domain, "STOP", stopped, None)
        libvirt.virEventAddTimeout(_DEADLINE_MS, lambda *_: done.append("the guest did not stop in time"), None)
        print("armed", flush=True)
        while not done:
            libvirt.virEventRunDefaultImpl()
        print(done[0], flush=True)


if __name__ == "__main__":
    main()

"""A VLAN interface in an endpoint, made of a tap and a few lines, for kernels that have none of their own.

`vlan_interface` gives an endpoint's eth0 an interface `v<tag>`: what the endpoint's kernel sends by it leaves eth0 with
the tag, what comes to eth0 with the tag arrives there without. It lives as long as the process that it returns.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from scripts.labkit import Lab

__all__ = ["vlan_interface"]

# argv: tag, MAC, address with prefix. The kernel takes the tag off before a socket sees the frame, and tells it beside.
_RELAY = """
import fcntl, os, select, socket, struct, subprocess, sys
tag, mac, address = int(sys.argv[1]), sys.argv[2], sys.argv[3]
name = f"v{tag}"
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x1002))
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.setsockopt(263, 8, 1)
wire.bind(("eth0", 0))
for words in (["set", name, "address", mac, "mtu", "1400", "up"], ["set", "eth0", "promisc", "on"]):
    subprocess.run(["ip", "link", *words], check=True)
subprocess.run(["ip", "address", "add", address, "dev", name], check=True)
print("ready", flush=True)
while True:
    for one in select.select([tap, wire], [], [])[0]:
        if one is tap:
            frame = os.read(tap, 65536)
            wire.send(frame[:12] + struct.pack("!HH", 0x8100, tag) + frame[12:])
            continue
        frame, told, _, source = wire.recvmsg(65536, 256)
        if source[2] == 4:
            continue  # our own
        for level, kind, data in told:
            status, tci = struct.unpack("I", data[:4])[0], struct.unpack("H", data[16:18])[0]
            if (level, kind) == (263, 8) and status & 0x10 and tci & 0xFFF == tag:
                os.write(tap, frame)
"""


def vlan_interface(lab: Lab, endpoint: str, *, tag: int, mac: str, address: str) -> Any:
    """Give *endpoint* an interface `v<tag>` with *mac* and *address* (with prefix); the process that is it."""
    words = [sys.executable, "-c", _RELAY, str(tag), mac, address]
    process = lab.popen(endpoint, words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process

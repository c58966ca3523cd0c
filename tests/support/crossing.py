"""A guest that shouts the name of its network, and notes the names it hears: `python crossing.py DEVICE NAME MS MAC…`.

Every MS milliseconds it sends a frame that carries NAME: to everybody, then to each MAC in turn, whosever it is. On
SIGTERM it prints what it has heard, as JSON: how many frames by name; and the names in their order, the same as before
left out. Stands alone, so that it runs in any namespace.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sys
import time
from collections import Counter

ETHERTYPE = 0x88B5  # for local experiments (IEEE 802)
_ORDER_MAX = 1000


def main() -> None:
    device, name, interval_ms, *targets = sys.argv[1:]
    interval_s = float(interval_ms) / 1000
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE))
    link.bind((device, ETHERTYPE))
    own = link.getsockname()[4]
    body = ETHERTYPE.to_bytes(2, "big") + name.encode().ljust(60, b"\0")
    frames = [bytes.fromhex(mac.replace(":", "")) + own + body for mac in ("ff:ff:ff:ff:ff:ff", *targets)]
    heard: Counter[str] = Counter()
    order: list[str] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(print(json.dumps([heard, order]), flush=True)))
    link.settimeout(interval_s)
    print("ready", flush=True)
    number, due = 0, time.monotonic()
    while True:
        if time.monotonic() >= due:
            with contextlib.suppress(OSError):  # its device is on its way somewhere
                link.send(frames[number % len(frames)])
            number, due = number + 1, time.monotonic() + interval_s
        with contextlib.suppress(OSError):  # TimeoutError is one too
            frame, (_, _, kind, *_) = link.recvfrom(2048)
            if kind != socket.PACKET_OUTGOING:
                said = frame[14:].rstrip(b"\0").decode()
                heard[said] += 1
                if order[-1:] != [said] and len(order) < _ORDER_MAX:
                    order.append(said)


if __name__ == "__main__":
    main()

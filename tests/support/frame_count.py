"""Frames counted where they pass, by what they carry, as a test that hopes for none or for some needs it.

As a script it stands alone, so that it runs on any node: `frame_count.py DEVICE in|out SECONDS OFFSET=HEX OFFSET!HEX …`
says `ready`, and then how many frames came in or left with these bytes, or with others, at these places.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scripts.labkit import Lab

_ALL, _OUTGOING = 0x0003, 4  # ETH_P_ALL, PACKET_OUTGOING


def count_frames(
    lab: Lab,
    node: str,
    device: str,
    *,
    leaving: bool = False,
    seconds: float,
    has: Mapping[int, bytes],
    lacks: Mapping[int, bytes] | None = None,
) -> subprocess.Popen[str]:
    """Begin to count the frames that come in by *device*, or leave by it, with the bytes *has*, by offset, and others
    than *lacks*; `counted` waits for the figure."""
    conditions = [f"{at}={what.hex()}" for at, what in has.items()]
    conditions += [f"{at}!{what.hex()}" for at, what in (lacks or {}).items()]
    words = ["python3", __file__, device, "out" if leaving else "in", str(seconds), *conditions]
    watch: Any = lab.popen(node, words, stdout=subprocess.PIPE, text=True)
    assert watch.stdout.readline() == "ready\n"
    started: subprocess.Popen[str] = watch
    return started


def counted(watch: subprocess.Popen[str]) -> int:
    """How many frames it were, once the time is over."""
    return int(watch.communicate(timeout=60)[0])


def _main() -> None:
    device, direction, seconds, *conditions = sys.argv[1:]
    has, lacks = ([_condition(word, sign) for word in conditions if sign in word] for sign in "=!")
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
    link.bind((device, 0))
    print("ready", flush=True)
    end, seen = time.monotonic() + float(seconds), 0
    while (left := end - time.monotonic()) > 0:
        link.settimeout(left)
        try:
            frame, where = link.recvfrom(2000)
        except TimeoutError:
            break
        right_way = (where[2] == _OUTGOING) == (direction == "out")
        held = all(frame[at : at + len(what)] == what for at, what in has)
        # a frame that ends before the place has not others there
        other = all(frame[at : at + len(what)] not in (b"", what) for at, what in lacks)
        seen += right_way and held and other
    print(seen)


def _condition(word: str, sign: str) -> tuple[int, bytes]:
    at, _, what = word.partition(sign)
    return int(at), bytes.fromhex(what)


if __name__ == "__main__":
    _main()

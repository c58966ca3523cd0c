"""A pinger that keeps time: ICMP echo at a fixed interval, with losses, duplicates and the longest gap.

`ping -i 0.005` waits for a reply before it sends the next request and so falls to 10 ms; its output also says nothing
of gaps. This one sends on a clock of its own and takes the arrival times from the kernel (SO_TIMESTAMPNS), so that the
gap it reports is the network's and not the scheduler's. Run it inside the endpoint's namespace, as root:

    python -m scripts.labkit.pinger 10.10.0.11 --interval-ms 5

It pings until SIGINT, SIGTERM or `--duration-s`, waits a second for late replies, and prints one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from dataclasses import asdict, dataclass

ECHO_REQUEST, ECHO_REPLY = 8, 0
_TIMESPEC = struct.Struct("@qq")
_LATE_REPLIES_S = 1.0
_LOST_AT_MAX = 100
# Linux's number; Python's socket module has no name for it.
SO_TIMESTAMPNS = 35


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What was sent and what came back. Times in ms; `gap_at` is the Unix time at which the longest gap began.

    Silence at the end counts as a gap too, up to the last request. `lost_at` has the Unix times at which requests left
    that were never answered, the first hundred of them.
    """

    sent: int
    received: int
    lost: int
    duplicates: int
    gap_ms: float
    gap_at: float
    rtt_ms_median: float
    lost_at: tuple[float, ...] = ()


def summarize(*, sent: dict[int, float], replies: list[tuple[int, float]]) -> Result:
    """Figures from send times by sequence number and (sequence number, arrival time) pairs, all in Unix seconds."""
    first: dict[int, float] = {}
    for sequence, at in replies:
        first.setdefault(sequence, at)
    arrivals = sorted(first.values())
    ends = [*arrivals, max(sent.values(), default=0.0)] if arrivals else []
    gaps = [(later - earlier, earlier) for earlier, later in itertools.pairwise(ends)]
    gap, gap_at = max(gaps, default=(0.0, 0.0))
    rtts = sorted(at - sent[s] for s, at in first.items() if s in sent)
    return Result(
        sent=len(sent),
        received=len(first),
        lost=len(sent) - len(first),
        duplicates=len(replies) - len(first),
        gap_ms=round(gap * 1000, 2),
        gap_at=gap_at,
        rtt_ms_median=round(rtts[len(rtts) // 2] * 1000, 3) if rtts else 0.0,
        lost_at=tuple(at for s, at in sorted(sent.items()) if s not in first)[:_LOST_AT_MAX],
    )


def ping(address: str, *, interval_s: float, stop: threading.Event, size: int = 56) -> Result:
    """Ping *address* until *stop* is set; needs CAP_NET_RAW."""
    ident = os.getpid() & 0xFFFF
    sent: dict[int, float] = {}
    replies: list[tuple[int, float]] = []
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        done = threading.Event()
        receiver = threading.Thread(target=_receive, args=(sock, ident, replies, done), daemon=True)
        receiver.start()
        payload = bytes(size)
        sequence = 0
        due = time.monotonic()
        while not stop.is_set():
            request = _echo(ident, sequence & 0xFFFF, struct.pack("!I", sequence) + payload[4:])
            sent[sequence] = time.time()
            with contextlib.suppress(OSError):  # neighbour not resolved yet: counts as sent and lost
                sock.sendto(request, (address, 0))
            sequence += 1
            due += interval_s
            time.sleep(max(0.0, due - time.monotonic()))
        time.sleep(_LATE_REPLIES_S)
        done.set()
        receiver.join()
    return summarize(sent=sent, replies=replies)


def _receive(sock: socket.socket, ident: int, replies: list[tuple[int, float]], done: threading.Event) -> None:
    while not done.is_set():
        readable, _, _ = select.select([sock], [], [], 0.1)
        if not readable:
            continue
        packet, control, _flags, _peer = sock.recvmsg(65535, 128)
        header = (packet[0] & 0x0F) * 4
        kind, _code, _sum, got, _seq = struct.unpack_from("!BBHHH", packet, header)
        if kind == ECHO_REPLY and got == ident:
            (sequence,) = struct.unpack_from("!I", packet, header + 8)
            replies.append((sequence, _arrival(control)))


def _arrival(control: list[tuple[int, int, bytes]]) -> float:
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
            seconds, nanoseconds = _TIMESPEC.unpack(data)
            return float(seconds) + float(nanoseconds) / 1e9
    return time.time()


def _echo(ident: int, sequence: int, payload: bytes) -> bytes:
    header = struct.pack("!BBHHH", ECHO_REQUEST, 0, 0, ident, sequence)
    return struct.pack("!BBHHH", ECHO_REQUEST, 0, _checksum(header + payload), ident, sequence) + payload


def _checksum(data: bytes) -> int:
    """Internet checksum (RFC 1071) of data of even length."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("address")
    parser.add_argument("--interval-ms", type=float, default=5.0)
    parser.add_argument("--duration-s", type=float, default=None)
    parser.add_argument("--announce", action="store_true", help="say so, on a line of its own, when it begins")
    options = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    if options.duration_s is not None:
        threading.Timer(options.duration_s, stop.set).start()
    if options.announce:
        print("begun", flush=True)
    result = ping(options.address, interval_s=options.interval_ms / 1000, stop=stop)
    json.dump(asdict(result), sys.stdout)
    print()


if __name__ == "__main__":
    main()

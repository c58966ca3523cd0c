"""A copy by TCP between two endpoints of a lab: what a ping does not show, full segments and offloads do.

`copies` makes one and says whether it was whole; `Stream` is one that goes on while a test does something to its way.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

from scripts.labkit.patience import patient

if TYPE_CHECKING:
    from scripts.labkit import Lab

_PORT = 5201
_SERVE = f"""
import hashlib, os, socket, sys
listening = socket.create_server(("", {_PORT}))
print("ready", flush=True)
link, _ = listening.accept()
block = os.urandom(1 << 20)
digest = hashlib.sha256()
for _ in range(int(sys.argv[1])):
    digest.update(block)
    link.sendall(block)
link.close()
print(digest.hexdigest(), flush=True)
"""
_FETCH = f"""
import hashlib, socket, sys
link = socket.create_connection((sys.argv[1], {_PORT}), timeout=20)
digest = hashlib.sha256()
while part := link.recv(1 << 16):
    digest.update(part)
print(digest.hexdigest())
"""

# Takes one connection; for each line of input prints how many bytes have come, and after the last one their hash.
_TAKE = f"""
import hashlib, select, socket, sys
listening = socket.create_server(("", {_PORT}))
print("ready", flush=True)
link, _ = listening.accept()
digest, size, part = hashlib.sha256(), 0, b"-"
while part:
    for ready in select.select([link, sys.stdin], [], [])[0]:
        if ready is link:
            part = link.recv(1 << 16)
            digest.update(part)
            size += len(part)
        elif sys.stdin.readline():
            print(size, flush=True)
print(digest.hexdigest())
"""
# Sends some 25 Mbit/s until it gets a line; prints the hash of what it has sent.
_GIVE = f"""
import hashlib, os, select, socket, sys
link = socket.create_connection((sys.argv[1], {_PORT}), timeout=30)
print("ready", flush=True)
digest = hashlib.sha256()
while not select.select([sys.stdin], [], [], 0.005)[0]:
    block = os.urandom(1 << 14)
    digest.update(block)
    link.sendall(block)
link.close()
print(digest.hexdigest())
"""


def copies(lab: Lab, source: str, destination: str, address: str, *, mib: int = 8) -> bool:
    """Whether endpoint *destination* gets *mib* MiB, whole, from endpoint *source*, which has *address*."""
    server = lab.popen(source, [sys.executable, "-c", _SERVE, str(mib)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        got = lab.exec(destination, [sys.executable, "-c", _FETCH, address], timeout_s=60).stdout
        return got == server.stdout.readline()
    finally:
        server.terminate()
        server.wait(timeout=patient(10))


class Stream:
    """A copy from one endpoint of a lab to another, at *address*, that goes on until its `end`."""

    def __init__(self, lab: Lab, source: str, destination: str, address: str) -> None:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        self._sink = lab.popen(destination, [sys.executable, "-c", _TAKE], **pipes)
        assert self._sink.stdout.readline() == "ready\n"
        self._source = lab.popen(source, [sys.executable, "-c", _GIVE, address], **pipes)
        assert self._source.stdout.readline() == "ready\n"

    def arrived(self) -> int:
        """Bytes, until now."""
        self._sink.stdin.write("\n")
        return int(self._sink.stdout.readline())

    def end(self) -> bool:
        """Whether all that was sent has come, as it was sent."""
        sent, _ = self._source.communicate("\n", timeout=patient(60))
        received, _ = self._sink.communicate(timeout=patient(60))
        return bool(sent) and received == sent

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self._source, self._sink):
            process.terminate()
            process.wait(timeout=patient(10))

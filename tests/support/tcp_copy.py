"""A copy by TCP between two endpoints of a lab: what a ping does not show, full segments and offloads do."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

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

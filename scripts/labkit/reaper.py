"""The reaper: ends a lab when the process that owns it dies, by whatever death.

A process of its own, in its own session, that waits on a pidfd of the owner and on its standard input. The owner says
"done" there when the lab is down or shall stay; if the owner ends first, the reaper takes the lab down. It holds no
mark of the lab, so that `down` does not find it.

    python -m scripts.labkit.reaper LAB OWNER_PID OWNER_STARTED
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys

from scripts.labkit import processes
from scripts.labkit.node import REPOSITORY
from scripts.labkit.processes import ProcessId

__all__ = ["Reaper", "start"]


class Reaper:
    """The owner's end."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def dismiss(self) -> None:
        """Tell the reaper that there is nothing left for it to do, and collect it."""
        with contextlib.suppress(OSError):  # it may have died; that is fine now
            self._process.communicate(b"done\n", timeout=5)


def start(lab: str) -> Reaper:
    """A reaper for *lab*, owned by this process."""
    ourselves = processes.identify(os.getpid())
    assert ourselves is not None
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.labkit.reaper", lab, str(ourselves.pid), str(ourselves.started)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=REPOSITORY,
    )
    return Reaper(process)


def main() -> None:
    lab, owner = sys.argv[1], ProcessId(int(sys.argv[2]), int(sys.argv[3]))
    if not _owner_died(owner):
        return
    from scripts.labkit.teardown import tear_down

    tear_down(lab)


def _owner_died(owner: ProcessId) -> bool:
    """Wait; True once *owner* has ended, False when it said that it is done."""
    try:
        descriptor = os.pidfd_open(owner.pid)
    except ProcessLookupError:
        return True
    if not processes.alive(owner):
        return True
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    poller.register(sys.stdin.fileno(), select.POLLIN)
    while True:
        events = dict(poller.poll())
        if sys.stdin.fileno() in events:
            if os.read(sys.stdin.fileno(), 64):
                return False
            poller.unregister(sys.stdin.fileno())  # its end without a word is not yet the owner's
        elif descriptor in events:
            return True


if __name__ == "__main__":
    main()

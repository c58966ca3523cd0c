"""Processes of a lab: when one has ended."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from scripts.labkit import processes

_LEADER_ENDS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
ctypes.CDLL(None).syscall(60, 0)  # exit(2) of this thread alone
"""


def test_a_process_whose_first_thread_is_gone_has_not_ended() -> None:
    """It holds its files and their locks until its last thread is gone: a daemon's successor would not get them."""
    child = subprocess.Popen([sys.executable, "-c", _LEADER_ENDS])
    try:
        process = processes.identify(child.pid)
        assert process is not None
        deadline = time.monotonic() + 20
        while Path(f"/proc/{child.pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert processes.ended([process], timeout_s=0.05) == [process]
        child.send_signal(signal.SIGKILL)
        assert processes.ended([process], timeout_s=10) == []
    finally:
        child.kill()
        child.wait()


def test_a_number_that_another_process_has_is_no_process_that_runs() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        process = processes.identify(child.pid)
        assert process is not None
        assert processes.ended([processes.ProcessId(process.pid, process.started - 1)], timeout_s=5) == []

"""Run a command inside a node on our own terminal.

We enter the node ourselves, and the command becomes our child: so Ctrl-C, job control and exit status are those of the
command. (`nsenter` would die of the Ctrl-C that the command means to handle.)
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Sequence

from scripts.labkit import processes
from scripts.labkit.errors import LabError
from scripts.labkit.node import Node

__all__ = ["run_inside"]

_SPACES = ("net", "uts", "mnt", "pid")  # pid concerns children only


def run_inside(node: Node, command: Sequence[str], *, cwd: str) -> int:
    """Exit status of *command*, 128 + n where signal n ended it. This process stays in the node's namespaces.

    Starts in *cwd* where the node has such a directory, else in /.
    """
    if node.init is None or not node.running:
        raise LabError(f"{node.name} of lab {node.lab} is not running; `lab boot {node.name}` or `lab up` starts it")
    environment = node.environment()
    libc = ctypes.CDLL(None, use_errno=True)
    descriptors = [os.open(f"/proc/{node.init.pid}/ns/{space}", os.O_RDONLY | os.O_CLOEXEC) for space in _SPACES]
    if not processes.alive(node.init):
        raise LabError(f"{node.name} of lab {node.lab} ended just now")
    for descriptor, space in zip(descriptors, _SPACES, strict=True):
        if libc.setns(descriptor, 0) != 0:
            raise LabError(f"can't enter the {space} namespace of {node.name}: {os.strerror(ctypes.get_errno())}")
        os.close(descriptor)
    os.chdir(cwd if os.path.isdir(cwd) else "/")
    try:
        child = subprocess.Popen(list(command), env=environment)
    except OSError as error:
        raise LabError(f"{node.name}: `{command[0]}` can't be run: {error.strerror}") from None
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # the terminal sends it to the command too
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, frame: child.send_signal(received))
    status = child.wait()
    return status if status >= 0 else 128 - status

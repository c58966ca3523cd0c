"""The end of a lab, whatever state it is in, by whichever process.

Nothing is remembered or asked for: the lab's processes are found by their mark. Each node is killed at its first
process, with which the kernel ends all the others of the node, its mounts, its network devices. What is left are
processes that entered a node's network from outside; they are found by that network, asked to end, then killed. It is
done again until there is nothing to do, because a lab that is just being built makes new processes meanwhile.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path

from scripts.labkit import processes, state
from scripts.labkit.errors import LabError
from scripts.labkit.processes import ProcessId

__all__ = ["kill_all", "tear_down"]


def tear_down(name: str) -> None:
    """End every process of the lab and remove its directory. Nothing to do is no error."""
    deadline = time.monotonic() + 20
    while left := kill_all(name):
        if time.monotonic() > deadline:
            raise LabError(f"lab {name}: processes {', '.join(str(p.pid) for p in left)} do not die")
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(state.base_directory() / name)
    with contextlib.suppress(OSError):  # not empty: other labs
        state.base_directory().rmdir()


def kill_all(name: str) -> set[ProcessId]:
    """Kill what the lab has now; returns what it found, so that empty means: nothing was left."""
    marked = processes.marked(name)
    firsts = [process for process in marked if _is_first(process)]
    others = processes.sharing_network(marked) - set(firsts)
    processes.stop(firsts, grace_s=0)  # the kernel ends all of each node
    processes.stop([process for process in others if processes.alive(process)], grace_s=1.0)
    return set(marked) | others


def _is_first(process: ProcessId) -> bool:
    """Whether it is the first process of a pid namespace of its own."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return len(line.split()) > 2 and line.split()[-1] == "1"
    return False

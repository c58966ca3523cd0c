"""Where a benchmark ran: kernel, cores, load, versions; the figures mean nothing without it. And options they share."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import platform
import subprocess
from collections.abc import Sequence
from typing import Any

from scripts.labkit.node import REPOSITORY
from scripts.labkit.switch import choose_datapath

__all__ = ["environment", "positive"]

_VERSIONS = {
    "openvswitch": ("ovs-vswitchd", "--version"),
    "ovn": ("ovn-controller", "--version"),
    "libvirt": ("libvirtd", "--version"),
    "qemu": ("qemu-system-x86_64", "--version"),
    "revision": ("git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"),
}


def environment() -> dict[str, Any]:
    """The machine as it is now, and the versions of what is compared; None for what is not there."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "memory_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        "load_1min_at_start": os.getloadavg()[0],
        "datapath": choose_datapath(None),
        **{what: _first_line(command) for what, command in _VERSIONS.items()},
    }


def positive(text: str) -> int:
    """A count, from an option of the command line."""
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"wanted a whole number of at least 1, found {text!r}")
    return int(text)


def _first_line(command: Sequence[str]) -> str | None:
    with contextlib.suppress(OSError, subprocess.SubprocessError, IndexError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.splitlines()[0]
    return None

"""Logs of a lab's daemons and guests, one after the other or as they grow."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["follow", "last_lines"]

_PATTERNS = ("var/log/*.log", "var/log/libvirt/*.log", "var/log/libvirt/qemu/*.log", "var/log/openvswitch/*.log")


def last_lines(directories: Iterable[Path], count: int) -> Iterator[str]:
    """The last *count* lines of every log, each with host and log before it."""
    for path, label in _logs(directories):
        for line in path.read_text(errors="replace").splitlines()[-count:]:
            yield f"{label}: {line}"


def follow(directories: Iterable[Path], *, interval_s: float = 0.3) -> Iterator[str]:
    """Lines as they are written, from now on, also of logs that appear later. Never ends."""
    kept = list(directories)
    positions = {path: path.stat().st_size for path, _ in _logs(kept)}
    while True:
        for path, label in _logs(kept):
            with path.open(errors="replace") as file:
                file.seek(positions.get(path, 0))
                for line in file:
                    yield f"{label}: {line.rstrip()}"
                positions[path] = file.tell()
        time.sleep(interval_s)


def _logs(directories: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    for directory in directories:
        for pattern in _PATTERNS:
            for path in sorted(directory.glob(pattern)):
                yield path, f"{directory.name} {path.stem}"

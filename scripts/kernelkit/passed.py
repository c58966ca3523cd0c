"""What has passed on the kernel's datapath, kept from run to run for as long as the code is the same.

A file of lines: the code's mark, then a test each, written when it has passed. So a run may be ended at any time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Passed", "mark"]


class Passed:
    """The tests in *file* that passed on the code with this *mark*; what is known of other code is forgotten."""

    def __init__(self, file: Path, mark: str) -> None:
        self._file = file
        found, *tests = (file.read_text() if file.exists() else "").splitlines() or [""]
        self.tests = set(tests) if found == mark else set()
        if found != mark:
            file.write_text(f"{mark}\n")

    def take(self, event: Mapping[str, Any]) -> None:
        """Write down the test that *event* says has passed, or take back what no longer does."""
        if event["event"] != "ended":
            return
        test = event["test"]
        if event["outcome"] == "passed" and test not in self.tests:
            self.tests.add(test)
            with self._file.open("a") as file:
                file.write(f"{test}\n")
        elif event["outcome"] != "passed" and test in self.tests:
            self.tests.remove(test)
            lines = self._file.read_text().splitlines()
            self._file.write_text("".join(f"{line}\n" for line in lines if line != test))


def mark(root: Path, directories: Iterable[str]) -> str:
    """Tells one state of the files in these *directories* of *root* from another, whether git knows of them or not."""
    digest = hashlib.sha256()
    for directory in directories:
        for path in sorted((root / directory).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(root)}\0".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()

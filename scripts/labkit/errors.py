"""The one error of the lab."""

from __future__ import annotations

__all__ = ["LabError"]


class LabError(Exception):
    """A sentence that names the lab or host, what was wanted, what was found and what to do."""

"""Steps in words: for people, and for the log."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from hostagent.model import ChangeFlows, Step

__all__ = ["describe", "log_steps"]

log = structlog.get_logger(__name__)

_FACTS = ("bridge", "name", "link", "address", "uuid", "mtu", "arp_ignore")


def describe(step: Step) -> str:
    """A step in words, for people."""
    if isinstance(step, ChangeFlows):
        return f"bridge {step.bridge}: delete {len(step.delete)} flows, add {len(step.add)}"
    return f"{type(step).__name__} " + " ".join(f"{name}={value}" for name, value in _facts(step).items())


def log_steps(steps: Sequence[Step]) -> None:
    """One line for each step that is about to be carried out."""
    for step in steps:
        facts = _facts(step)
        if isinstance(step, ChangeFlows):
            facts |= {"delete": str(len(step.delete)), "add": str(len(step.add))}
        log.info("step", kind=type(step).__name__, **facts)


def _facts(step: Step) -> dict[str, str]:
    found = ((name, getattr(step, name, None)) for name in _FACTS)
    return {name: str(value) for name, value in found if value not in (None, "")}

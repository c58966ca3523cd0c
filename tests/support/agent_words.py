"""What a host's agent says, asked at its socket from outside: what `hostagent show -o json` prints, without a process.

A test that waits asks again and again, and a command each time would keep the machine's few cores from those that are
waited for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hostagent.control import ask

if TYPE_CHECKING:
    from scripts.labkit import Lab

__all__ = ["agent_shows", "agent_vifs"]

_SOCKET = "/run/hostagent/hostagent.sock"


def agent_shows(lab: Lab, host: str) -> dict[str, Any]:
    """As `hostagent show -o json`. Raises OSError when no agent answers."""
    return _asked(lab, host, "show")


def agent_vifs(lab: Lab, host: str) -> list[dict[str, Any]]:
    """As `hostagent vif list -o json`. Raises OSError when no agent answers."""
    vifs: list[dict[str, Any]] = _asked(lab, host, "vifs")["vifs"]
    return vifs


def _asked(lab: Lab, host: str, verb: str) -> dict[str, Any]:
    answer = ask(lab.path(host, _SOCKET), verb)
    assert answer.get("ok"), answer
    return answer

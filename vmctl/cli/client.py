"""The CLI's way to the daemon: JSON over a unix socket; what the daemon refuses becomes the command's error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

__all__ = ["Failure", "call"]


class Failure(click.ClickException):
    """The daemon's sentence; exit code 2 where it was refused before anything was changed, else 1."""

    def __init__(self, sentence: str, *, refused: bool = False) -> None:
        super().__init__(sentence)
        if refused:
            self.exit_code = 2  # type: ignore[misc]  # click reads it from the instance


def call(method: str, path: str, *, body: dict[str, Any] | None = None, **query: str) -> Any:
    """The daemon's answer to one request, None where it has no body.

    Raises:
        Failure: it refused, failed or does not answer.
    """
    import httpx

    socket: Path = click.get_current_context().find_root().obj
    transport = httpx.HTTPTransport(uds=str(socket))
    try:
        with httpx.Client(transport=transport, base_url="http://vmctl/api/v1", timeout=200.0) as client:
            answer = client.request(method, path, json=body, params=query or None)
    except (httpx.ConnectError, FileNotFoundError) as error:
        raise Failure(f"no vmctl serves at {socket} ({error}); start it: vmctl serve") from None
    except httpx.HTTPError as error:
        raise Failure(f"the daemon at {socket} broke off: {error or type(error).__name__}; see its log") from None
    if answer.status_code == 204:
        return None
    try:
        content = answer.json()
    except ValueError:
        raise Failure(f"the daemon at {socket} answered {answer.status_code} without JSON; see its log") from None
    if answer.is_error:
        refused = bool(content.get("refusals")) or answer.status_code == 403
        raise Failure(content.get("error", f"the daemon answered {answer.status_code}"), refused=refused)
    return content

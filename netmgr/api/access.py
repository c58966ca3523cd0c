"""Who may do what, and how much of it: one ASGI layer in front of every route.

    client           may
    none             GET /api/v1/ca, POST /api/v1/join, the documentation
    viewer           GET
    host             GET its own settings, /api/v1/hosts/<its UUID>
    operator         everything

Refusals are 401 or 403 with a sentence. Bodies are read whole before a route runs, so that a limit holds whatever the
client says of its length.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from netmgr.api.direct import DirectRoute
from netmgr.api.ports import Role
from netmgr.api.tls import SCOPE_KEY, Client
from netmgr.service.document import BYTES_MAX

__all__ = ["Access"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_BYTES_MAX = BYTES_MAX + 4096  # a document, and what surrounds it
DISCARDED_BYTES_MAX = 32 * 1024 * 1024
_OPEN = {
    ("GET", "/api/v1/ca"),
    ("POST", "/api/v1/join"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
}
_READS = ("GET", "HEAD")


class Access:
    """ASGI middleware, see the module."""

    def __init__(self, app: App, *, direct: Mapping[tuple[str, str], DirectRoute]) -> None:
        self._app = app
        self._direct = direct

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client: Client | None = scope.get("extensions", {}).get(SCOPE_KEY)
        refusal = _refusal(client, method=scope["method"], path=scope["path"])
        body = await _read_body(receive)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        if body is None:
            await _answer(send, 413, f"the request is larger than {BODY_BYTES_MAX} bytes; split it")
            return
        route = self._direct.get((scope["method"], scope["path"]))
        response = await route.answer(scope, body) if route is not None else None
        if response is not None:
            await response(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)


def _refusal(client: Client | None, *, method: str, path: str) -> tuple[int, str] | None:
    """Status and sentence when *client* may not do this."""
    if (method, path) in _OPEN:
        return None
    if client is None:
        return 401, "this needs a client certificate of this manager's CA (NETMGR_IDENTITY names its directory)"
    if client.role == Role.OPERATOR:
        return None
    if client.role == Role.VIEWER:
        if method in _READS:
            return None
        return 403, f"{client.name} has role viewer, which may read only; use an operator's certificate"
    if client.role == Role.HOST:
        if method in _READS and path == f"/api/v1/hosts/{client.name}":
            return None
        return 403, f"host {client.name} may read its own settings here and nothing else"
    return 403, f"the certificate of {client.name!r} has role {client.role!r}, which has no rights here"


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body, or None when it is too large.

    A body that is too large is read on and thrown away, within reason: a client that is cut off while it sends never
    reads the sentence.
    """
    parts: list[bytes] = []
    size = 0
    while size <= DISCARDED_BYTES_MAX:
        message = await receive()
        part = message.get("body", b"")
        size += len(part)
        if size <= BODY_BYTES_MAX:
            parts.append(part)
        else:
            parts.clear()
        if message["type"] != "http.request" or not message.get("more_body", False):
            break
    return b"".join(parts) if size <= BODY_BYTES_MAX else None


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> MutableMapping[str, Any]:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replay


async def _answer(send: Send, status: int, sentence: str) -> None:
    body = json.dumps({"error": sentence}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),  # an unread body may follow
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

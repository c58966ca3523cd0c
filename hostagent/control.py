"""The agent's unix socket: libvirt's hooks ask here, and `hostagent show` looks here.

One JSON object a line, one answer, then the connection closes. The socket is root's alone (0600), and still nothing
that comes in is trusted: lines are bounded, every field is checked before anybody acts on it, and what does not fit is
refused with a sentence, and logged. Whoever is slow to speak has five seconds, and only so many may be slow at once.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog

__all__ = ["ControlServer", "HookRequest", "RequestError", "ask", "parse_request"]

log = structlog.get_logger(__name__)

_LINE_MAX = 64 * 1024
_READ_DEADLINE_S = 5.0
_NAME_MAX = 1024
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")
_FIELDS = {
    "port-created": {"network_uuid", "vif_uuid", "mac", "vm_uuid", "vm_name"},
    "port-deleted": {"network_uuid", "vif_uuid", "mac", "vm_uuid", "vm_name"},
    "migrate-begin": {"vm_uuid", "vm_name"},
    "vif-of": {"network", "mac"},
    "explain": {"which"},
    "endpoint-attach": {"which", "network", "netns", "internal", "pnic", "ifname", "mac", "addresses", "name"},
    "endpoint-detach": {"which"},
    "endpoints": set(),
    "show": set(),
    "vifs": set(),
    "flows": set(),
    "network-flows": {"network", "table"},
    "drops": set(),
    "metrics": set(),
}
_SLOW_MAX = 64  # clients that have not yet said what they want; a hook says it at once


class RequestError(ValueError):
    """A request that does not fit; the message is the sentence for whoever sent it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HookRequest:
    """A checked request. Fields that its verb does not carry, or that libvirt did not know, are None or empty; those of
    the other verbs are in `words`."""

    verb: str
    network_uuid: UUID | None = None
    vif_uuid: UUID | None = None
    mac: str = ""
    vm_uuid: UUID | None = None
    vm_name: str = ""
    words: Mapping[str, str] = field(default_factory=dict)


Answer = Mapping[str, Any]
Handler = Callable[[HookRequest], Awaitable[Answer]]


def parse_request(line: bytes) -> HookRequest:
    """The request on one line.

    Raises:
        RequestError: not a JSON object, an unknown verb, a missing, unknown or malformed field.
    """
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError):
        raise RequestError("request: not one JSON object on one line") from None
    if not _is_text(raw):
        raise RequestError("request: holds half of a surrogate pair, which no text can")
    if not isinstance(raw, dict) or not isinstance(raw.get("verb"), str):
        raise RequestError('request: wanted a JSON object with a text "verb"')
    verb = raw.pop("verb")
    if verb not in _FIELDS:
        known = ", ".join(sorted(_FIELDS))
        raise RequestError(f"request: unknown verb {verb[:40]!r}; known are {known}")
    wanted = _FIELDS[verb]
    if set(raw) != wanted:
        odd = ", ".join(sorted(set(raw) ^ wanted))
        raise RequestError(f"request {verb}: missing or unknown fields: {odd[:200]}")
    for key, value in raw.items():
        if not isinstance(value, str) or len(value) > _NAME_MAX:
            raise RequestError(f"request {verb}: {key} must be text of at most {_NAME_MAX} characters")
    mac = raw.get("mac", "")
    if mac and not _MAC.match(mac):
        raise RequestError(f"request {verb}: mac {mac[:40]!r} is not a MAC in lower case with colons")
    request = HookRequest(
        verb=verb,
        network_uuid=_uuid(verb, "network_uuid", raw),
        vif_uuid=_uuid(verb, "vif_uuid", raw),
        mac=mac,
        vm_uuid=_uuid(verb, "vm_uuid", raw),
        vm_name=raw.get("vm_name", ""),
        words=raw,
    )
    if verb == "port-created" and (request.network_uuid is None or request.vif_uuid is None):
        raise RequestError(
            "request port-created: network_uuid and vif_uuid are needed; give the interface"
            " <virtualport><parameters interfaceid='UUID'/></virtualport> in the domain's XML"
        )
    return request


def _is_text(raw: object) -> bool:
    """False where JSON's escapes spell what can be neither stored, sent nor logged."""
    try:
        json.dumps(raw, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _uuid(verb: str, key: str, raw: Mapping[str, str]) -> UUID | None:
    text = raw.get(key, "")
    if not text:
        return None
    try:
        value = UUID(text)
    except ValueError:
        value = None
    if value is None or str(value) != text:
        raise RequestError(f"request {verb}: {key} {text[:40]!r} is not a UUID in lower case with hyphens")
    return value


class ControlServer:
    """Listens on *path* and gives every checked request to *handler*."""

    def __init__(self, path: Path, handler: Handler) -> None:
        self._path = path
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._reading = 0

    async def start(self) -> None:
        """Take over the socket's path.

        Raises:
            RequestError: another agent answers there.
            OSError: the directory can't be written.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        with suppress(OSError):
            _, writer = await asyncio.open_unix_connection(str(self._path))
            writer.close()
            raise RequestError(f"{self._path}: another hostagent already answers here; stop it first")
        fresh = self._path.with_name(f"{self._path.name}.new")
        with suppress(FileNotFoundError):
            fresh.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(fresh))
        os.chmod(fresh, 0o600)
        fresh.rename(self._path)  # never there with wider rights, never absent while an old one answers
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=_LINE_MAX)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            with suppress(FileNotFoundError):
                self._path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answer = await self._answer(reader)
            if answer is not None:
                writer.write(json.dumps(answer).encode() + b"\n")
                await asyncio.wait_for(writer.drain(), _READ_DEADLINE_S)
        except (ConnectionError, TimeoutError) as error:
            log.warning("control: connection lost", error=str(error) or type(error).__name__)
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> Answer | None:
        if self._reading >= _SLOW_MAX:
            return _refused(f"request: {_SLOW_MAX} others have not said yet what they want; try again")
        self._reading += 1
        try:
            line = await asyncio.wait_for(reader.readline(), _READ_DEADLINE_S)
            if not line:
                return None
            request = parse_request(line)
        except TimeoutError:
            return _refused(f"request: no whole line within {_READ_DEADLINE_S:g} s")
        except RequestError as error:
            return _refused(str(error))
        except ValueError:  # the stream's limit
            return _refused(f"request: longer than {_LINE_MAX} bytes")
        finally:
            self._reading -= 1
        try:
            return await self._handler(request)
        except Exception as error:  # one request must not take the agent down
            log.exception("control: request failed", verb=request.verb)
            return {"ok": False, "sentence": f"{request.verb}: the agent failed on this request: {error!r}"}


def _refused(sentence: str) -> Answer:
    log.warning("control: request refused", sentence=sentence)
    return {"ok": False, "sentence": sentence}


def ask(path: Path, verb: str, *, deadline_s: float = 10.0, **words: str) -> dict[str, Any]:
    """The agent's answer to a request of a command.

    Raises:
        OSError: nobody answers on *path*.
        RequestError: the answer can't be read.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(deadline_s)
        connection.connect(str(path))
        connection.sendall(json.dumps({"verb": verb, **words}).encode() + b"\n")
        with connection.makefile("rb") as file:
            line = file.readline()
    try:
        answer = json.loads(line)
    except ValueError:
        raise RequestError(f"{path}: the agent's answer can't be read; see its log") from None
    if not isinstance(answer, dict):
        raise RequestError(f"{path}: the agent's answer is not an object; see its log")
    return answer

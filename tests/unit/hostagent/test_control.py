"""The agent's socket refuses garbage with a sentence, and lives on."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from hostagent.control import ControlServer, HookRequest, RequestError, ask, parse_request

UUID_A, UUID_B = "3f2a0000-0000-4000-8000-000000000001", "3f2a0000-0000-4000-8000-000000000002"
PORT_CREATED = {
    "verb": "port-created",
    "network_uuid": UUID_A,
    "vif_uuid": UUID_B,
    "mac": "52:54:00:00:00:01",
    "vm_uuid": UUID_A,
    "vm_name": "wéb 1",
}


def _line(**changes: Any) -> bytes:
    return json.dumps({key: value for key, value in (PORT_CREATED | changes).items() if value is not None}).encode()


def test_a_whole_request_is_understood() -> None:
    request = parse_request(_line())
    assert (str(request.network_uuid), str(request.vif_uuid), request.vm_name) == (UUID_A, UUID_B, "wéb 1")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"\xff\xfe garbage", "not one JSON object"),
        (b"[" * 100_000, "not one JSON object"),
        (b"[1, 2]", 'wanted a JSON object with a text "verb"'),
        (b"{}", 'wanted a JSON object with a text "verb"'),
        (b'{"verb": "reboot"}', "unknown verb 'reboot'"),
        (_line(extra="x"), "unknown fields: extra"),
        (_line(mac=None), "fields: mac"),
        (_line(mac="52:54:00:00:00"), "is not a MAC"),
        (_line(mac="52:54:00:00:00:0A"), "is not a MAC"),
        (_line(vif_uuid=UUID_B.upper().replace("3F2A", "3F2B")), "is not a UUID"),
        (_line(vif_uuid="1"), "is not a UUID"),
        (_line(vif_uuid=""), "interfaceid='UUID'"),
        (_line(vm_name=7), "vm_name must be text"),
        (_line(vm_name="x" * 2000), "at most 1024"),
        (b'{"verb": "show", "mac": ""}', "unknown fields: mac"),
        (b'{"verb": "explain", "which": "\\ud800"}', "surrogate"),
        (b'{"verb": "show", "\\udfff": ""}', "surrogate"),
        (b'{"verb": "show"', "not one JSON object"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_sentence(line: bytes, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        parse_request(line)


def _serve(path: Path, handler: Callable[[HookRequest], Awaitable[Any]], talk: Callable[[], Any]) -> Any:
    async def main() -> Any:
        server = ControlServer(path, handler)
        await server.start()
        try:
            return await asyncio.to_thread(talk)
        finally:
            await server.close()

    return asyncio.run(main())


async def _verb(request: HookRequest) -> dict[str, Any]:
    if request.verb == "flows":
        raise RuntimeError("our mistake")
    return {"ok": True, "verb": request.verb}


def _send(path: Path, data: bytes) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer: dict[str, Any] = json.loads(connection.makefile().readline())
        return answer


def test_garbage_does_not_end_the_server_and_the_socket_is_roots_alone(tmp_path: Path) -> None:
    path = tmp_path / "run" / "agent.sock"

    def talk() -> None:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert _send(path, b"garbage\n")["ok"] is False
        assert "longer than" in _send(path, b"x" * 70_000 + b"\n")["sentence"]
        assert "our mistake" in _send(path, b'{"verb": "flows"}\n')["sentence"]
        with socket.socket(socket.AF_UNIX) as silent:
            silent.connect(str(path))
        assert ask(path, "show") == {"ok": True, "verb": "show"}

    _serve(path, _verb, talk)
    assert not path.exists()


def test_only_so_many_may_be_slow_and_whoever_speaks_at_once_is_served_after_them(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"

    def talk() -> None:
        slow = [socket.socket(socket.AF_UNIX) for _ in range(64)]
        for client in slow:
            client.connect(str(path))
        assert "64 others" in _send(path, b'{"verb": "show"}\n')["sentence"]
        for client in slow:
            client.close()
        assert _send(path, b'{"verb": "show"}\n')["ok"]

    _serve(path, _verb, talk)


def test_a_stale_socket_is_taken_over_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def second() -> None:
        await ControlServer(path, _verb).start()

    def talk() -> None:
        with pytest.raises(RequestError, match="another hostagent already answers"):
            asyncio.run(second())
        assert ask(path, "vifs")["ok"]

    _serve(path, _verb, talk)

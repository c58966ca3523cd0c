"""What the benchmark does itself on a node's network, without a process for each question.

A network namespace belongs to a thread: a thread that has entered one makes its sockets and taps there, and any thread
may use them from then on. So the clock and both ends of a measured frame are in one process, and no start of a process
is in a figure. What answers on a unix socket (OVSDB, unixctl) needs no entering: it is a path.
"""

from __future__ import annotations

import ctypes
import fcntl
import http.client
import json
import os
import select
import socket
import ssl
import struct
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from scripts.labkit import LabError
from scripts.labkit.node import Node

__all__ = ["Inside", "Rest", "Tap", "question", "rpc"]

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x0001
_FRAME_MAX = 2048


class Inside:
    """A thread on a node's network."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"inside-{node.name}", initializer=self._enter)

    def call(self, work: Callable[[], T]) -> T:
        """Do *work* there; its answer."""
        return self._thread.submit(work).result()

    def close(self) -> None:
        self._thread.shutdown()

    def _enter(self) -> None:
        assert self.node.init is not None
        libc = ctypes.CDLL(None, use_errno=True)
        with Path(f"/proc/{self.node.init.pid}/ns/net").open("rb") as space:
            if libc.setns(space.fileno(), _CLONE_NEWNET) != 0:
                why = os.strerror(ctypes.get_errno())
                raise LabError(f"node {self.node.name}: its network can't be entered: {why}")


class Tap:
    """A tap as QEMU holds one: what is written to it comes from the guest, what is read from it is for the guest."""

    def __init__(self, host: Inside, name: str) -> None:
        self.name = name
        self._file = host.call(lambda: _open_tap(name))

    def fileno(self) -> int:
        return self._file

    def send(self, frame: bytes) -> None:
        """A frame of the guest; lost where nobody listens, as on a wire."""
        with suppress(OSError):
            os.write(self._file, frame)

    def received(self) -> bytes | None:
        """The next frame for the guest; None when there is none now."""
        try:
            return os.read(self._file, _FRAME_MAX)
        except BlockingIOError:
            return None

    def close(self) -> None:
        """The device is gone after this."""
        os.close(self._file)


class Rest(http.client.HTTPSConnection):
    """A connection to a REST API that stays open and asks for little of the processor, as the API's answer is measured
    on a machine that both share. *name* is what the server's certificate is for."""

    def __init__(self, address: str, port: int, *, name: str, tls: ssl.SSLContext, timeout_s: float) -> None:
        super().__init__(address, port, timeout=timeout_s, context=tls)
        self._name, self._tls = name, tls

    def connect(self) -> None:
        bare = socket.create_connection((self.host, self.port), self.timeout)
        bare.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = self._tls.wrap_socket(bare, server_hostname=self._name)

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Status and body of the answer.

        Raises:
            OSError: no answer.
        """
        if self.sock is not None and select.select([self.sock], [], [], 0)[0]:
            self.close()  # the server has closed what was idle
        text = None if body is None else json.dumps(body).encode()
        self.request(method, path, text, {"Content-Type": "application/json"} if text else {})
        answer = self.getresponse()
        return answer.status, answer.read()


def rpc(path: Path, method: str, *parameters: Any, timeout_s: float = 10.0) -> Any:
    """The result of one JSON-RPC question on a unix socket: ovsdb-server(7), or unixctl of a daemon.

    Raises:
        LabError: nobody answers, not in time, or with an error.
    """
    answer = question(path, {"method": method, "params": parameters, "id": 0}, timeout_s=timeout_s)
    if answer.get("error") is not None:
        raise LabError(f"{path}: {method} {str(parameters)[:200]} was refused: {answer['error']}")
    return answer["result"]


def question(path: Path, words: Mapping[str, Any], *, timeout_s: float = 10.0) -> dict[str, Any]:
    """The JSON object that answers one on a unix socket.

    Raises:
        LabError: nobody answers, or not in time.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(path))
            connection.sendall(json.dumps(words).encode() + b"\n")
            return _read_json(connection)
    except OSError as error:
        raise LabError(f"{path}: no answer to {str(words)[:200]} within {timeout_s:g} s: {error}") from None


def _read_json(connection: socket.socket) -> dict[str, Any]:
    text = b""
    while chunk := connection.recv(1 << 20):
        text += chunk
        if chunk.rstrip().endswith(b"}"):
            with suppress(ValueError):
                answer: dict[str, Any] = json.loads(text)
                return answer
    raise OSError("the connection was closed")


def _open_tap(name: str) -> int:
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        wanted = struct.pack("16sH", name.encode(), _IFF_TAP | _IFF_NO_PI)
        fcntl.ioctl(file, _TUNSETIFF, wanted + bytes(22))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            _set_up(control, name)
    except BaseException:
        os.close(file)
        raise
    return file


def _set_up(control: socket.socket, name: str) -> None:
    request = struct.pack("16sH", name.encode(), _IFF_UP) + bytes(22)
    fcntl.ioctl(control, _SIOCSIFFLAGS, request)

"""Commands in a guest, over the serial console that libvirt offers.

A shell sits on the guest's ttyS0 (`guestfiles/init`). A command goes there as base64, so that no terminal changes it,
in lines short enough for any line editor; two marks that the typed line itself does not contain frame what comes back.
The console has one user at a time: a second one is told so by libvirt.

libvirt's blocking streams know no deadline, so the talk runs in a thread, and the deadline aborts the stream.
"""

from __future__ import annotations

import base64
import contextlib
import re
import secrets
import shlex
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import libvirt

from scripts.labkit.errors import LabError

__all__ = ["running_on", "talk"]

_CHUNK = 400


def running_on(vm: str, uris: Mapping[str, str]) -> str:
    """The host (a key of *uris*) on which the domain *vm* runs. Raises LabError when it runs nowhere."""
    states = {}
    for host, uri in uris.items():
        with _connection(uri, host) as connection, contextlib.suppress(libvirt.libvirtError):
            states[host] = connection.lookupByName(vm).state()[0]
    for host, state in states.items():
        if state == libvirt.VIR_DOMAIN_RUNNING:
            return host
    where = f"it is defined but not running on {', '.join(states)}" if states else f"none of {', '.join(uris)} knows it"
    raise LabError(f"guest {vm} runs on no host of this lab: {where}")


def talk(vm: str, command: Sequence[str], *, host: str, uri: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run *command* in the guest: exit code, and output with standard error in it. Waits for a guest that boots."""
    with _connection(uri, host) as connection:
        stream = connection.newStream()
        try:
            connection.lookupByName(vm).openConsole(None, stream, 0)
        except libvirt.libvirtError as error:
            raise LabError(f"the console of {vm} on {host} can't be opened: {error}") from None
        conversation = _Conversation(stream, shlex.join(command), time.monotonic() + timeout_s)
        thread = threading.Thread(target=conversation.run, name=f"console-{vm}", daemon=True)
        thread.start()
        thread.join(timeout_s)
        if thread.is_alive():
            with contextlib.suppress(libvirt.libvirtError):
                stream.abort()
            thread.join(5)
            seen = conversation.seen.decode(errors="replace").strip()[-800:]
            seen = seen or "(nothing)"
            raise LabError(f"guest {vm} on {host} did not answer within {timeout_s:g} s; its console says last: {seen}")
        if conversation.result is None:
            why = f"{conversation.failure}; the guest may have moved or ended"
            raise LabError(f"the console of {vm} on {host} closed: {why}")
        code, output = conversation.result
        return subprocess.CompletedProcess(list(command), code, output, "")


class _Conversation:
    """One command over an open console stream."""

    def __init__(self, stream: Any, script: str, deadline: float) -> None:
        self._stream = stream
        self._script = script
        self._deadline = deadline
        self.seen = b""
        self.result: tuple[int, str] | None = None
        self.failure = ""

    def run(self) -> None:
        try:
            self._wake()
            self.result = self._command()
            self._stream.finish()
        except libvirt.libvirtError as error:
            self.failure = str(error)
        except EOFError:
            self.failure = "end of the stream"

    def _wake(self) -> None:
        """Type until a shell answers: while the guest boots, what is typed may be lost."""
        token = secrets.token_hex(4)
        poking = threading.Event()

        def poke() -> None:
            while not poking.is_set() and time.monotonic() < self._deadline:
                with contextlib.suppress(libvirt.libvirtError):
                    self._stream.send(b'\x15T=%s; echo "$T!"\n' % token.encode())
                poking.wait(0.7)

        poker = threading.Thread(target=poke, daemon=True)
        poker.start()
        try:
            self._read_until(re.compile(token.encode() + rb"!"))
        finally:
            poking.set()
            poker.join()

    def _command(self) -> tuple[int, str]:
        token = secrets.token_hex(4)
        encoded = base64.b64encode(self._script.encode()).decode()
        lines = [f"T={token}; P="]
        lines += [f'P="${{P}}{encoded[i : i + _CHUNK]}"' for i in range(0, len(encoded), _CHUNK)]
        lines.append('echo "$T<"; sh -c "$(echo $P | base64 -d)" </dev/null 2>&1; echo "$T>$?"')
        for line in lines:
            self._send((line + "\n").encode())
        match = self._read_until(re.compile(rf"{token}<\r?\n(.*?){token}>(\d+)\r?\n".encode(), re.DOTALL))
        return int(match.group(2)), match.group(1).decode(errors="replace").replace("\r\n", "\n")

    def _send(self, data: bytes) -> None:
        while data:
            sent = self._stream.send(data)
            data = data[sent:]

    def _read_until(self, pattern: re.Pattern[bytes]) -> re.Match[bytes]:
        while (match := pattern.search(self.seen)) is None:
            part = self._stream.recv(4096)
            if not part:
                raise EOFError
            self.seen += part
        self.seen = self.seen[match.end() :]
        return match


@contextlib.contextmanager
def _connection(uri: str, host: str) -> Iterator[Any]:
    libvirt.registerErrorHandler(lambda context, error: None, None)  # its errors reach us as exceptions
    try:
        connection = libvirt.open(uri)
    except libvirt.libvirtError as error:
        raise LabError(f"libvirtd of {host} does not answer: {error}") from None
    try:
        yield connection
    finally:
        connection.close()

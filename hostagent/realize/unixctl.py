"""One command to ovs-vswitchd's control socket: what `ovs-appctl` does, without a process.

It serves one need: to know that no packet meets a removed flow any more. A barrier says that the flow table has
changed, but packets are switched by megaflows, which revalidator threads derive from it; they follow within
milliseconds, usually. `await_revalidation` returns once a whole revalidation has passed since it was called:

- `revalidator/wait` answers at the end of a round, which may have begun before the removal. So there are two of them:
  the second one's round began after the first one's end.
- A round comes every 500 ms, or at once when a flow table changes. *kick* is called to change one, after each wait was
  asked for, so that the two rounds take milliseconds.

The protocol is JSON-RPC over a Unix socket (ovs-appctl(8), ovs-vswitchd(8)). The socket is `ovs-vswitchd.PID.ctl` in
the run directory, the PID is in `ovs-vswitchd.pid`; a switch started with `--unixctl=ovs-vswitchd.ctl` has it there.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

from hostagent.realize.errors import RealizeError

__all__ = ["UnixctlError", "await_revalidation", "socket_of", "unixctl"]

_ANSWER_MAX = 1 << 25  # a port may have many connections (`tracking.limits`)
_KICK_AFTER_S = 0.002


class UnixctlError(RealizeError):
    """ovs-vswitchd did not answer, or refused; the sentence says what was asked of it and where."""


async def await_revalidation(rundir: Path, *, kick: Callable[[], Awaitable[None]], timeout_s: float = 5.0) -> None:
    """Return when every megaflow is younger than this call, or was checked against the flow tables since.

    Raises:
        UnixctlError: the switch did not say so in time.
        RealizeError: *kick* failed.
    """
    for _ in range(2):
        waiting = asyncio.create_task(unixctl(rundir, "revalidator/wait", timeout_s=timeout_s))
        try:
            await asyncio.sleep(
                _KICK_AFTER_S
            )  # asked before kicked; else the round may be over, and it waits for another
            await kick()
            await waiting
        finally:
            waiting.cancel()


async def unixctl(rundir: Path, command: str, *arguments: str, timeout_s: float = 5.0) -> str:
    """The answer of the ovs-vswitchd that runs in *rundir* to *command*.

    Raises:
        UnixctlError: nobody answers in time, or the answer is an error.
    """
    path = socket_of(rundir)
    request = {"id": 0, "method": command, "params": list(arguments)}
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_unix_connection(str(path))
            try:
                writer.write(json.dumps(request).encode())
                await writer.drain()
                answer = await _read(reader)
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError) as error:
        why = str(error) or f"no answer within {timeout_s:g} s"
        raise UnixctlError(f"ovs-vswitchd at {path}: {command} failed ({why})") from None
    if answer.get("error") is not None:
        raise UnixctlError(f"ovs-vswitchd at {path}: {command} was refused: {str(answer['error']).strip()}")
    return str(answer.get("result") or "")


async def _read(reader: asyncio.StreamReader) -> dict[str, object]:
    """One JSON object; the protocol has no frames, an object ends where it is whole."""
    data = bytearray()  # megabytes that grow by copying would take longer to copy than to read
    while len(data) < _ANSWER_MAX:
        more = await reader.read(65536)
        if not more:
            raise ValueError("it closed the connection")
        data += more
        if data.endswith((b"}", b"}\n")):
            try:
                answer = json.loads(data)
            except ValueError:
                continue
            if isinstance(answer, dict):
                return answer
    raise ValueError(f"an answer of more than {_ANSWER_MAX} bytes")


def socket_of(rundir: Path) -> Path:
    """The control socket of the ovs-vswitchd that runs in *rundir*, or ran there last."""
    try:
        pid = int((rundir / "ovs-vswitchd.pid").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return rundir / "ovs-vswitchd.ctl"
    return rundir / f"ovs-vswitchd.{pid}.ctl"

"""`hostagent run`: the agent with its sockets, logs, signals, and systemd's questions."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import secrets
import signal
import socket
import sys
import time
from contextlib import suppress
from functools import partial
from glob import glob
from pathlib import Path

import structlog

from hostagent.agent import Agent
from hostagent.cli.output import Settings
from hostagent.control import ControlServer, RequestError
from hostagent.hooks import refresh_hooks
from hostagent.host import HostPaths
from hostagent.identity import Identity, IdentityError, load_identity, read_boot_id
from hostagent.show import view_of
from hostagent.state import State
from hostagent.verbs import Verbs
from hostagent.view import ViewServer

__all__ = ["DaemonError", "run_daemon"]

log = structlog.get_logger(__name__)

_SWITCH_S = 0.0005  # how long a thread may keep the event loop's from its turn; Python's own default is ten times it

_SETTLED_S = 2.0
_COLLECTION = (50_000, 20, 20)  # new containers until a collection of the youngest; of these until one of the next
_ARENA_MAX = -8  # M_ARENA_MAX of mallopt(3)
_STUCK_S = 60.0  # a loop that has not come round for so long is not fed to the watchdog any more


class DaemonError(Exception):
    """The agent can't start; the sentence says why."""


def run_daemon(
    settings: Settings, *, view_port: int | None, log_level: str, mtu_again_s: float, connections_max: int
) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        DaemonError: not joined, or another agent runs.
    """
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[log_level.upper()]),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], bool_as_flag=False),
        ],
    )
    try:
        identity = load_identity(settings.state_dir)
    except IdentityError as error:
        raise DaemonError(str(error)) from None
    sys.setswitchinterval(_SWITCH_S)
    _spare_the_collector()
    asyncio.run(_run(settings, identity, view_port, mtu_again_s, connections_max))


async def _run(
    settings: Settings, identity: Identity, view_port: int | None, mtu_again_s: float, connections_max: int
) -> None:
    port = view_port if view_port is not None else identity.view_port
    state = State(settings.state_dir / "state.db")
    boot_id = read_boot_id(settings.socket.parent, make=lambda: secrets.token_hex(8))
    paths = HostPaths(
        ovs_rundir=settings.ovs_rundir, ovs_database=settings.ovs_database, libvirt_uri=settings.libvirt_uri
    )
    agent = Agent(
        identity=identity,
        state=state,
        paths=paths,
        boot_id=boot_id,
        agent_version=_version(),
        view_port=port,
        mtu_again_s=mtu_again_s,
        connections_max=connections_max,
    )
    control = ControlServer(settings.socket, Verbs(agent, identity, state))
    view = ViewServer(identity=identity, port=port, view=partial(view_of, agent))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await control.start()
    except (RequestError, OSError) as error:
        state.close()
        raise DaemonError(str(error)) from None
    _refresh_hooks(settings)
    gc.freeze()  # what the state holds stays, too
    work = asyncio.create_task(agent.run(), name="agent")
    watchdog = asyncio.create_task(_feed_watchdog(agent), name="watchdog")
    settling = asyncio.create_task(_settle_down(agent), name="settling")
    try:
        if view_port != 0:
            await _serve_view(view)
        agent.reporting.on_change.append(view.changed)
        log.info("hostagent: running", host=identity.host_name, uuid=str(identity.host_uuid), boot=boot_id)
        _notify("READY=1")
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({stopping, work}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        _notify("STOPPING=1")
        log.info("hostagent: stopping; what it has built stays")
    finally:
        for task in (watchdog, settling, work):
            task.cancel()
        await asyncio.gather(work, watchdog, settling, return_exceptions=True)
        await control.close()
        await view.close()
        state.close()
    failure = None if work.cancelled() else work.exception()
    if failure is not None:
        raise failure


def _refresh_hooks(settings: Settings) -> None:
    """An upgrade of the package brings the hooks along."""
    try:
        for path in refresh_hooks(socket=settings.socket):
            log.info("hook: written again", path=str(path))
    except OSError as error:
        log.warning("hook: can't be written again; run `hostagent install-hooks`", reason=str(error))


async def _serve_view(view: ViewServer) -> None:
    try:
        port = await view.start()
    except RuntimeError as error:  # the host is more important than its view
        log.error("view: not served", reason=str(error))
        return
    log.info("view: serving", port=port)


async def _feed_watchdog(agent: Agent) -> None:
    micros = int(os.environ.get("WATCHDOG_USEC", "0"))
    if not micros:
        return
    while True:
        if time.monotonic() - agent.beat < _STUCK_S:
            _notify("WATCHDOG=1")
        await asyncio.sleep(micros / 2_000_000)


async def _settle_down(agent: Agent) -> None:
    """Once the host is as wanted: what the start needed and nobody needs any more goes back to the kernel, 10 MB where
    there are 10,000 ports."""
    await asyncio.sleep(_SETTLED_S)
    gc.enable()
    while not agent.in_sync:  # noqa: ASYNC110  # in no hurry; an event would be for this alone
        await asyncio.sleep(_SETTLED_S)
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    with suppress(AttributeError):  # not every C library can
        ctypes.CDLL(None).malloc_trim(0)


def _spare_the_collector() -> None:
    """What is there now stays: modules, and soon what the state holds. A full collection would walk through all of it,
    in the middle of a turn of the loop, and several times during the start; and the loop's values, being frozen, hardly
    ever form cycles. What the imports have left is collected when the host is as wanted (`_settle_down`)."""
    gc.freeze()
    gc.set_threshold(*_COLLECTION)
    with suppress(AttributeError):  # as above
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)  # threads that wait for the network need no heap of their own each


def _notify(state: str) -> None:
    """Tell systemd (sd_notify(3)); nothing where nobody asked."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notices:
        notices.sendto(state.encode(), address)


def _version() -> str:
    """Of what is installed, by the name of its metadata's directory: `importlib.metadata` would bring the parsers of
    mail and of archives along, 2 MB."""
    for directory in sys.path:
        for found in glob(f"{directory}/opaque_networks-*.dist-info"):
            return Path(found).stem.removeprefix("opaque_networks-")
    return "unknown"

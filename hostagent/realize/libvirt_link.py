"""The agent's one connection to libvirtd, and the two threads that libvirt wants.

Theory of operation. libvirt's calls block and its events need a loop of their own, so there is one thread that runs
libvirt's default event loop (registered before the first connection is opened, once a process) and one worker that
makes all calls. Every call has a deadline; a worker stuck in a dead libvirtd is freed by libvirt's own keepalive, which
closes the connection. A lost connection is opened again with backoff, and everything that listens is registered anew
and told to read again, because events are lost in between.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import libvirt
import structlog

from hostagent.realize.errors import RealizeError

__all__ = ["DEFAULT_URI", "LibvirtLink"]

T = TypeVar("T")

DEFAULT_URI = "qemu:///system"
_BACKOFF_S = (0.2, 0.5, 1.0, 2.0)
_KEEPALIVE_S, _KEEPALIVE_COUNT = 5, 3
log = structlog.get_logger(__name__)


class LibvirtLink:
    """One connection, kept open. `start` it, `close` it; subscribe with `on_connected` before `start`."""

    def __init__(self, uri: str = DEFAULT_URI) -> None:
        self.uri = uri
        self._conn: Any = None
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="libvirt")
        self._on_connected: list[Callable[[Any], None]] = []
        self._on_change: list[Callable[[], None]] = []
        self._lost: asyncio.Event = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._why = f"libvirt {uri}: not yet connected"
        self._stuck = False

    @property
    def connected(self) -> bool:
        return self._conn is not None

    @property
    def why_not(self) -> str:
        """Why there is no connection, one sentence."""
        return self._why

    def subscribe(self, *, connected: Callable[[Any], None], changed: Callable[[], None]) -> None:
        """*connected* is called in the worker with each new connection, to register for events; *changed* on the
        event loop after each connection made or lost."""
        self._on_connected.append(connected)
        self._on_change.append(changed)

    def start(self) -> None:
        _start_event_loop()
        self._task = asyncio.create_task(self._keep(), name="libvirt")

    async def close(self) -> None:
        """Close the connection; guests and networks stay as they are."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        conn, self._conn = self._conn, None
        if conn is not None and not self._stuck:
            await asyncio.wait_for(self._loop.run_in_executor(self._worker, _close, conn), 5)
        self._worker.shutdown(wait=False, cancel_futures=True)

    async def call(self, function: Callable[[Any], T], *, deadline_s: float = 20.0) -> T:
        """The result of *function(connection)*, run in the worker.

        Raises:
            RealizeError: no connection, no answer in time, or libvirt's own sentence.
        """
        conn = self._conn
        if conn is None or self._stuck:
            raise RealizeError(self._why)
        future = self._loop.run_in_executor(self._worker, function, conn)
        try:
            return await asyncio.wait_for(asyncio.shield(future), deadline_s)
        except TimeoutError:
            self._stuck = True
            self._why = f"libvirt {self.uri}: no answer within {deadline_s:g} s; waiting for it"
            future.add_done_callback(self._unstick)
            raise RealizeError(self._why) from None
        except libvirt.libvirtError as error:
            raise RealizeError(f"libvirt {self.uri}: {error}") from None

    def dispatch(self, callback: Callable[..., None], *args: Any) -> None:
        """From an event thread: call *callback* on the event loop."""
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            assert self._loop.is_closed()  # nobody is left to tell

    def _unstick(self, future: asyncio.Future[Any]) -> None:
        future.cancelled() or future.exception()  # mark as retrieved
        self._stuck = False

    async def _keep(self) -> None:
        failures = 0
        while True:
            self._lost.clear()
            try:
                self._conn = await self._loop.run_in_executor(self._worker, self._open)
            except libvirt.libvirtError as error:
                why = f"libvirt {self.uri}: {error}"
                if failures == 0:
                    log.warning("libvirt: not connected, trying again", reason=why)
                self._why = why
                await asyncio.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
                failures += 1
                continue
            failures = 0
            log.info("libvirt: connected", uri=self.uri)
            self._changed()
            await self._lost.wait()
            self._conn, conn = None, self._conn
            self._why = f"libvirt {self.uri}: the connection was lost"
            log.warning("libvirt: connection lost", uri=self.uri)
            self._changed()
            await self._loop.run_in_executor(self._worker, _close, conn)

    def _open(self) -> Any:
        conn = libvirt.open(self.uri)
        conn.registerCloseCallback(lambda *_: self.dispatch(self._lost.set), None)
        if not self.uri.startswith("test:"):
            conn.setKeepAlive(_KEEPALIVE_S, _KEEPALIVE_COUNT)
        for connected in self._on_connected:
            connected(conn)
        return conn

    def _changed(self) -> None:
        for changed in self._on_change:
            changed()


def _close(conn: Any) -> None:
    try:
        conn.close()
    except libvirt.libvirtError as error:
        log.debug("libvirt: close", error=str(error))


_event_thread: threading.Thread | None = None


def _start_event_loop() -> None:
    """libvirt's default event loop in a thread, once a process; it ends with the process."""
    global _event_thread
    if _event_thread is not None:
        return
    libvirt.registerErrorHandler(lambda *_: None, None)  # errors are raised; libvirt also prints them otherwise
    libvirt.virEventRegisterDefaultImpl()
    libvirt.virEventAddTimeout(1000, lambda *_: None, None)  # so that a first handle is noticed without a wake-up

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    _event_thread = threading.Thread(target=run, name="libvirt-events", daemon=True)
    _event_thread.start()

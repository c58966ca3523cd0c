"""`vmctl serve`: one process that holds the connections, the journal and the API.

Order of the start: lock of the state directory (two daemons on one store would move the same VM twice), store (one on
PostgreSQL has a lock of its own), libvirt's event loop, socket, hosts, open moves, READY. Of the end: socket closed,
moves under way left to libvirt, store closed. The watchdog is fed from the event loop, so a stuck loop is noticed.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog
import uvicorn
from systemd import daemon as systemd

from vmctl.api import build_app
from vmctl.hypervisor import start_events
from vmctl.inventory import Inventory
from vmctl.journal import Journal
from vmctl.model import Virt, VmctlError
from vmctl.mover import Mover
from vmctl.service import Service
from vmctl.store import Store
from vmctl.views import Views

__all__ = ["serve"]

log = structlog.get_logger("vmctl")


def serve(
    *, state_dir: Path, socket_path: Path, store_url: str, identity: Path, manager: str, from_manager: bool, virt: Virt
) -> None:
    """Runs until SIGTERM or SIGINT.

    Raises:
        VmctlError: it cannot start; nothing was changed.
    """
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]),
        ],
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
    if from_manager and not manager:
        raise VmctlError("networks are to be read from the manager, and no --manager ADDRESS:PORT is given")
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _lock(state_dir):
        listener = _listen(socket_path)
        store = Store(store_url or f"sqlite:///{state_dir / 'vmctl.db'}", sole=True)
        start_events()
        asyncio.run(
            _run(
                store,
                listener,
                identity=identity,
                manager=manager,
                from_manager=from_manager,
                virt=virt,
            )
        )
        with suppress(FileNotFoundError):
            socket_path.unlink()
    # threads that hang in libvirt would keep the interpreter from finishing in order
    sys.stderr.flush()
    os._exit(0)


async def _run(
    store: Store, listener: socket.socket, *, identity: Path, manager: str, from_manager: bool, virt: Virt
) -> None:
    inventory = Inventory()
    views = Views(identity=identity, manager=manager, from_manager=from_manager)
    journal = Journal(store)
    mover = Mover(journal=journal, inventory=inventory, views=views)
    service = Service(store=store, journal=journal, inventory=inventory, views=views, mover=mover, virt=virt)
    await service.start()
    app = build_app(service)
    config = uvicorn.Config(app, lifespan="off", log_level="warning", access_log=False, timeout_graceful_shutdown=3)
    server = _Server(config)
    watchdog = asyncio.create_task(_feed_watchdog())
    try:
        await server.serve(sockets=[listener])
    finally:
        _tell_systemd("STOPPING=1")
        watchdog.cancel()
        await service.close()
    log.info("stopped")


class _Server(uvicorn.Server):
    """Tells systemd when it listens, and ends in order on a signal instead of dying of it afterwards."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        _tell_systemd("READY=1")
        log.info("serving")


async def _feed_watchdog() -> None:
    period_s = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6 / 3
    while period_s:
        _tell_systemd("WATCHDOG=1")
        await asyncio.sleep(period_s)


def _listen(path: Path) -> socket.socket:
    """A listening socket at *path* that only its owner may open; one left by a killed daemon is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, suppress(OSError):
        probe.connect(str(path))
        raise VmctlError(f"another vmctl serves at {path}; stop it, or give another --socket")
    with suppress(FileNotFoundError):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        raise VmctlError(f"the socket {path} cannot be made: {error.strerror}; give another --socket") from None
    finally:
        os.umask(mask)
    listener.listen(128)
    return listener


def _tell_systemd(notice: str) -> None:
    with suppress(OSError):  # nobody listens any more: no reason to stop working
        systemd.notify(notice)


@contextmanager
def _lock(state_dir: Path) -> Iterator[None]:
    with (state_dir / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise VmctlError(f"another vmctl serves from {state_dir}; stop it, or give another --state-dir") from None
        yield

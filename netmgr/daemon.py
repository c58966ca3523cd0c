"""`netmgr run`: the store, the CA, the REST API and the push stream, in one process and one event loop.

Start: lock the state directory, open the store, the CA and the operator's identity, listen on both ports, then tell
systemd READY=1. A second manager on one state directory is refused; several on one PostgreSQL store each have their
own.

Life: while the store answers, systemd's watchdog is fed at half its interval; a manager that can't reach its store is
restarted by systemd, and hosts do not mind. SIGTERM or SIGINT ends it within a second: streams are told to connect
again, requests get a moment to finish. SIGKILL at any time is safe: what was acknowledged is in the store, everything
else is asked anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI
from fastapi.responses import Response
from systemd import daemon as systemd

from netmgr.api.app import create_app
from netmgr.api.ports import Role
from netmgr.api.tls import uvicorn_config
from netmgr.model import NetmgrError
from netmgr.pki import CertificateAuthority
from netmgr.store import Store
from netmgr.sync.fleet import Fleet
from netmgr.sync.hub import Hub
from netmgr.sync.metrics import metrics_text
from netmgr.sync.server import SyncServer

__all__ = ["API_PORT", "OPERATOR_DIRECTORY", "SYNC_PORT", "run"]

API_PORT = 7443
SYNC_PORT = 7444
OPERATOR_DIRECTORY = "operator"
_GRACE_S = 0.3
_COLLECTION = (20_000, 20, 20)  # new containers until a collection of the youngest; of these until one of the next

log = structlog.get_logger(__name__)

_SWITCH_S = 0.0005  # how long a thread may keep the event loop's from its turn; Python's own default is ten times it


def run(
    *,
    state_dir: Path,
    store_url: str | None = None,
    listen: str = "0.0.0.0",
    api_port: int = API_PORT,
    sync_port: int = SYNC_PORT,
    log_format: str = "console",
) -> None:
    """Run the manager until SIGTERM or SIGINT. Port 0 takes a free one, which the log names.

    *store_url* defaults to an SQLite file in *state_dir*; *log_format* is `console` or `json`.

    Raises:
        NetmgrError: it can't start: the state directory is in use, a port is taken, the store is away.
    """
    set_up_logging(log_format)
    sys.setswitchinterval(_SWITCH_S)
    state_dir = state_dir.resolve()
    with _locked(state_dir):
        now = datetime.now(UTC)
        authority = CertificateAuthority.open(state_dir, now=now)
        authority.server_identity(_concrete(listen), now=now)
        authority.ensure_identity(state_dir / OPERATOR_DIRECTORY, name="operator", role=Role.OPERATOR, now=now)
        store = Store.open(store_url or f"sqlite:///{state_dir}/netmgr.db")
        try:
            store.lay_out()
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(_serve(store, authority, listen=listen, api_port=api_port, sync_port=sync_port))
        finally:
            store.close()
    log.info("netmgr.stopped")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop where it is installed: every message costs less there. None is asyncio's own."""
    try:
        factory: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
    except ImportError:
        return None
    return factory


def set_up_logging(log_format: str) -> None:
    """One line an event on standard error, libraries' too: for people (`console`) or machines (`json`)."""
    renderer: Any = structlog.processors.JSONRenderer()
    if log_format != "json":
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


async def _serve(store: Store, authority: CertificateAuthority, *, listen: str, api_port: int, sync_port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    fleet = Fleet()
    hub = Hub(store, fleet)
    with _listening(listen, api_port) as rest_socket:
        sync = SyncServer(hub, authority.server_identity(_concrete(listen), now=datetime.now(UTC)))
        await sync.start(_join(listen, sync_port))
        app = create_app(store=store, fleet=fleet, authority=authority, hosts=hub, sync_port=sync.port)
        _add_metrics(app, hub)
        rest = _RestServer(
            uvicorn_config(
                app,
                ca_file=authority.ca_file,
                cert_file=authority.server_cert_file,
                key_file=authority.server_key_file,
                host=listen,
                port=api_port,
            )
        )
        serving = asyncio.ensure_future(rest.serve(sockets=[rest_socket]))
        work: list[asyncio.Future[Any]] = [
            serving,
            asyncio.ensure_future(hub.run()),
            asyncio.ensure_future(_feed_watchdog(store)),
        ]
        stopping = asyncio.ensure_future(stop.wait())
        api_port = rest_socket.getsockname()[1]
        log.info("netmgr.ready", store_id=store.store_id, listen=listen, api_port=api_port, sync_port=sync.port)
        _spare_the_collector()
        systemd.notify("READY=1")
        try:
            await asyncio.wait([*work, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            systemd.notify("STOPPING=1")
            log.info("netmgr.stopping")
            rest.begin_stop(_GRACE_S)
            await sync.stop(_GRACE_S)
            await asyncio.wait([serving], timeout=2 * _GRACE_S)
            for task in (*work, stopping):
                task.cancel()
            results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:  # a part that failed ends the daemon with its error: systemd starts it again
        if isinstance(result, Exception):
            raise result


def _spare_the_collector() -> None:
    """What is there now stays: modules, and what the store holds. A full collection would walk through all of it, a
    tenth of a second, in the middle of whatever is asked."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTION)


class _RestServer(uvicorn.Server):
    """uvicorn inside our loop: signals are ours, and it stops when told, not when its clients please."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def begin_stop(self, grace_s: float) -> None:
        """Close idle connections now and busy ones after *grace_s*; `serve` then returns."""
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it calls a client that stays on an error
        self.config.timeout_graceful_shutdown = grace_s  # type: ignore[assignment]
        self.should_exit = True


def _add_metrics(app: FastAPI, hub: Hub) -> None:
    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        """Metrics for Prometheus, which needs a viewer's certificate."""
        return Response(metrics_text(hub), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _feed_watchdog(store: Store) -> None:
    """Tell systemd that we live, for as long as the store answers; does nothing outside systemd."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID") or str(os.getpid())
    if not usec.isdigit() or int(usec) == 0 or pid != str(os.getpid()):
        await asyncio.Event().wait()
    interval_s = int(usec) / 2e6
    while True:
        try:
            async with asyncio.timeout(interval_s):
                await asyncio.to_thread(_probe, store)
            systemd.notify("WATCHDOG=1")
        except (NetmgrError, TimeoutError) as error:
            log.error("netmgr.store_silent", reason=str(error) or f"no answer within {interval_s:.1f} s")
        await asyncio.sleep(interval_s)


def _probe(store: Store) -> int:
    with store.read() as world:
        return world.revision


@contextlib.contextmanager
def _locked(state_dir: Path) -> Iterator[None]:
    """Hold the state directory, made with mode 0700, for ourselves."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        state_dir.chmod(0o700)
        descriptor = os.open(state_dir / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise NetmgrError(f"state directory {state_dir}: can't be used: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise NetmgrError(
            f"state directory {state_dir} is in use by another netmgr; stop it, or give this one another --state-dir",
            status=409,
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _listening(listen: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in listen else socket.AF_INET
    try:
        made = socket.create_server((listen, port), family=family, backlog=512)
    except OSError as error:
        raise NetmgrError(
            f"rest: can't listen on {_join(listen, port)}: {error.strerror}; is another netmgr running?"
        ) from None
    with made:
        yield made


def _join(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _concrete(listen: str) -> list[str]:
    """The addresses for the server's certificate; a wildcard names none, there the name `netmgr` is verified alone."""
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(listen).is_unspecified:
            return []
    return [listen]

"""The host's OVSDB: bridges, ports and interfaces, read and changed over one connection.

Theory of operation. Open vSwitch's own IDL keeps a copy of six tables, and of them only the columns that `model`
speaks of. It runs in one thread, which alone touches it. After each change of the copy the thread makes a new frozen
snapshot (rows that did not change keep their value, so one change costs one conversion) and publishes it; the event
loop reads the snapshot without a lock and without waiting, and is told through `on_change`. Without a connection the
snapshot is `Unread`: a server that went away has not removed our bridges.

A message that brings one new tap and nothing else is told before the IDL works on it (`ovsdb_taps`). The event loop
looks at what has come before the thread does (`ovsdb_ahead`), and wakes the thread once it has dealt with the tap: both
need the interpreter and a processor, and a guest waits for one of them. A tap that the loop did not see, because the
thread was at work, the thread tells it.

`apply` sends one transaction for all its steps. Columns that others write too (`Open_vSwitch:bridges`,
`Bridge:ports`, every `external_ids` and `other_config`) are changed with *mutate*, so that two writers never undo
each other. A transaction also bumps `next_cfg` and waits for `cur_cfg`, as ovs-vsctl does: when `apply` returns,
vswitchd has seen the change.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import ovs.db.idl
import ovs.dirs
import ovs.json
import structlog

from hostagent.model import (
    Bridge,
    Interface,
    OvsPort,
    PutBridge,
    PutPort,
    PutQos,
    Qos,
    Queue,
    RemoveBridge,
    RemovePort,
    RemoveQos,
    Unread,
)
from hostagent.names import is_ours
from hostagent.realize.errors import RealizeError
from hostagent.realize.ovsdb_ahead import Ahead, Bell, Poller, has_come
from hostagent.realize.ovsdb_taps import NewTap, tap_in
from hostagent.realize.ovsdb_write import write_step

__all__ = ["DEFAULT_REMOTE", "OvsDb", "OvsStep"]

OvsStep = PutBridge | RemoveBridge | PutPort | RemovePort | PutQos | RemoveQos
DEFAULT_REMOTE = "unix:/run/openvswitch/db.sock"

_COLUMNS = {
    "Open_vSwitch": ["bridges", "next_cfg", "cur_cfg", "ovs_version", "datapath_types"],
    "Bridge": ["name", "datapath_type", "fail_mode", "external_ids", "other_config", "ports"],
    "Port": [
        "name",
        "interfaces",
        "external_ids",
        "bond_mode",
        "lacp",
        "other_config",
        "vlan_mode",
        "trunks",
        "tag",
        "qos",
    ],
    "QoS": ["type", "queues", "other_config", "external_ids"],
    "Queue": ["other_config", "external_ids"],
    "Interface": [
        "name",
        "type",
        "ofport",
        "options",
        "external_ids",
        "mtu",
        "mtu_request",
        "link_state",
        "error",
        "lacp_current",
    ],
}
log = structlog.get_logger(__name__)
_POLL_MS = 1000  # bounds every wait of the thread; nothing depends on it
_GIVE_WAY_S = 0.004  # at most, to a tap: by then its flows are in, mostly


class OvsDb:
    """One connection to the host's ovsdb-server. Made on the event loop; `start` it, `close` it."""

    def __init__(
        self,
        remote: str = DEFAULT_REMOTE,
        *,
        on_change: Callable[[], None],
        on_tap: Callable[[NewTap, Callable[[], None]], None] | None = None,
    ) -> None:
        """*on_change* is called when there is a new snapshot. *on_tap*, if there is one, with a tap that is not in a
        snapshot yet, though nothing else has changed since the last one, and with what to call when the next may be
        made."""
        self._remote = remote
        self._on_change = on_change
        self._on_tap = on_tap
        self._loop = asyncio.get_running_loop()
        self._snapshot: tuple[Bridge, ...] | Unread = Unread(f"not yet connected to {remote}")
        self._loose_qos: tuple[UUID, ...] = ()
        self._bridge_names: Mapping[str, str] = {}  # by the UUIDs of their rows
        self._ahead = Ahead(self._seen_ahead)
        self._connection: socket.socket | None = None  # what the event loop looks at a duplicate of
        self._resting = False  # the thread waits, and has published all that it knows
        self._told_ahead: tuple[NewTap, threading.Event] | None = None
        self._jobs: deque[_Job] = deque()
        self._bell = Bell()
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="ovsdb", daemon=True)

    def start(self) -> None:
        """Connect in the background; `on_change` follows once the tables are here."""
        self._thread.start()

    async def close(self) -> None:
        """Disconnect; changes nothing on the host."""
        self._stop = True
        self._bell.ring()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, 5)
        await asyncio.sleep(0)  # the thread's last words
        self._ahead.close()
        if not self._thread.is_alive():
            self._bell.close()

    def read_bridges(self) -> tuple[Bridge, ...] | Unread:
        """All bridges of the host, sorted by name, foreign ones too; `Unread` without a connection. Never waits."""
        return self._snapshot

    def read_loose_qos(self) -> tuple[UUID, ...]:
        """QoS rows of ours that no port refers to; none without a connection. Never waits."""
        return self._loose_qos

    def hear(self) -> None:
        """Look now, on the event loop, whether a tap has come; it is told from here."""
        self._ahead.look()

    async def apply(self, steps: Sequence[OvsStep], *, deadline_s: float = 10.0) -> None:
        """Carry all *steps* out in one transaction and wait until vswitchd has taken it over.

        Raises:
            RealizeError: no connection, refused, or no answer within the deadline; then nothing or everything of it
                is done, and the next reading tells.
        """
        job = _Job(steps=tuple(steps), done=self._loop.create_future(), deadline=time.monotonic() + deadline_s)
        self._jobs.append(job)
        self._bell.ring()
        try:
            await asyncio.wait_for(job.done, deadline_s + 1)
        except TimeoutError:
            raise RealizeError(f"OVSDB {self._remote}: no answer to a transaction within {deadline_s:g} s") from None

    # --- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop:
            try:
                self._serve()
            except Exception as error:  # a reply that the IDL does not digest must not leave the agent blind
                log.error("ovsdb: reading anew", remote=self._remote, error=repr(error))
                self._snapshot = Unread(f"OVSDB {self._remote} sent what could not be read: {error}")
                self._call(self._on_change)
                time.sleep(1)

    def _serve(self) -> None:
        helper = ovs.db.idl.SchemaHelper(schema_json=_schema())
        for table, columns in _COLUMNS.items():
            helper.register_columns(table, columns)
        idl = _Idl(self._remote, helper, probe_interval=5000, on_tap=self._tell_tap)
        idl._session.reconnect.set_backoff(100, 1000)
        current: _Job | None = None
        seen: tuple[bool, int] | None = None
        try:
            while not self._stop:
                idl.run()
                state = (_connected(idl), idl.change_seqno)
                if state != seen:
                    seen = state
                    self._publish(idl)
                    idl.published = idl.change_seqno
                self._show(idl)
                # What run() brought is looked at before the thread sleeps: its data may complete a job.
                current = self._work(idl, current)
                poller = Poller(self._connection)
                idl.wait(poller)
                if current is not None and current.txn is not None:
                    current.txn.wait(poller)
                poller.fd_wait(self._bell.fd, select.POLLIN)
                poller.timer_wait(_POLL_MS)
                if not self._jobs or current is not None:
                    self._told_ahead = None  # it has been read by now
                    self._resting = _connected(idl) and idl.change_seqno == idl.published
                    if not has_come(idl.connection):  # since it was last read; the event loop may have looked
                        poller.block()
                    if self._told_ahead is not None:
                        self._told_ahead[1].wait(_GIVE_WAY_S)
                    self._resting = False
                self._bell.silence()
        finally:
            for job in [*([current] if current else []), *self._jobs]:
                self._finish(job, f"OVSDB {self._remote}: the connection was given up; retrying")
            self._jobs.clear()
            idl.close()

    def _work(self, idl: _Idl, job: _Job | None) -> _Job | None:
        """Advance the job under way, or begin the next one; the job that now waits, if any."""
        if job is None:
            if not self._jobs:
                return None
            job = self._jobs.popleft()
        if job.cfg is not None:
            rows = idl.tables["Open_vSwitch"].rows.values()
            if any(row.cur_cfg >= job.cfg for row in rows):
                return self._finish(job, None)
        elif not _connected(idl):
            return self._finish(job, f"OVSDB {self._remote} does not answer; retrying when it does")
        else:
            sentence = self._commit(idl, job)
            if sentence is not None:
                return self._finish(job, sentence)
            if job.txn is None and job.cfg is None:
                return self._finish(job, None)
        if time.monotonic() >= job.deadline:
            what = "ovs-vswitchd has not taken the change over" if job.cfg is not None else "no answer"
            return self._finish(job, f"OVSDB {self._remote}: {what} in time; retrying")
        return job

    def _commit(self, idl: _Idl, job: _Job) -> str | None:
        """Send the job's transaction, or look at its fate; a sentence when it failed."""
        if job.txn is None:
            job.txn = ovs.db.idl.Transaction(idl)
            root = next(iter(idl.tables["Open_vSwitch"].rows.values()), None)
            if root is None:
                job.txn.abort()
                return f"OVSDB {self._remote}: table Open_vSwitch is empty; run `ovs-vsctl init`"
            job.txn.add_comment("hostagent")
            try:
                for step in job.steps:
                    write_step(idl, job.txn, root, step)
            except RealizeError as error:
                job.txn.abort()
                return error.sentence
            except Exception as error:  # the thread must live; the mistake is ours
                job.txn.abort()
                log.exception("ovsdb: a step could not be written", steps=[type(step).__name__ for step in job.steps])
                return f"OVSDB {self._remote}: the agent could not write the change: {error!r}"
            root.increment("next_cfg")
        status = job.txn.commit()
        kinds = ovs.db.idl.Transaction
        if status == kinds.INCOMPLETE:
            return None
        if status == kinds.TRY_AGAIN:
            job.txn = None
            job.tries += 1
            return None if job.tries < 5 else f"OVSDB {self._remote}: the transaction met others five times; retrying"
        if status == kinds.UNCHANGED:
            job.txn = None
            return None
        if status == kinds.SUCCESS:
            job.cfg = job.txn.get_increment_new_value()
            return None
        return f"OVSDB {self._remote} refused the change: {job.txn.get_error() or kinds.status_to_string(status)}"

    def _finish(self, job: _Job, sentence: str | None) -> _Job | None:
        """Tell the job's outcome; None, the job that is under way now."""

        def tell() -> None:
            if job.done.done():
                return
            if sentence is None:
                job.done.set_result(None)
            else:
                job.done.set_exception(RealizeError(sentence))

        self._call(tell)
        return None

    def _publish(self, idl: _Idl) -> None:
        before = (self._snapshot, self._loose_qos)
        if _connected(idl):
            self._snapshot, self._loose_qos = idl.snapshot(), idl.loose_qos()
            self._bridge_names = idl.bridge_names()
        else:
            self._snapshot, self._loose_qos = Unread(f"OVSDB {self._remote} does not answer"), ()
        if (self._snapshot, self._loose_qos) != before:
            self._call(self._on_change)

    def _show(self, idl: _Idl) -> None:
        """Let the event loop look at the connection, which may be a new one."""
        connection = idl.connection
        if connection is not self._connection and self._on_tap is not None:
            self._connection = connection
            self._call(partial(self._ahead.watch, connection.dup() if connection is not None else None))

    def _seen_ahead(self, message: Any) -> None:
        """On the event loop: something has come, this *message* if it is one. The thread is woken for it, unless it is
        a tap, which is dealt with before."""
        tap, told = None, self._told_ahead
        if self._resting and isinstance(message, dict):
            tap = tap_in(message.get("method"), message.get("params"), bridge_of=self._bridge_names.get)
        if tap is None or self._on_tap is None:
            self._bell.ring()
        elif told is None or told[0] != tap:  # else it is seen again, before the thread has taken it
            dealt_with = threading.Event()
            go_on = partial(self._go_on, dealt_with)
            self._told_ahead = tap, dealt_with
            self._loop.call_later(_GIVE_WAY_S, go_on)
            self._on_tap(tap, go_on)

    def _go_on(self, dealt_with: threading.Event) -> None:
        dealt_with.set()
        self._bell.ring()

    def _tell_tap(self, tap: NewTap) -> None:
        ahead, self._told_ahead = self._told_ahead, None
        if self._on_tap is not None and (ahead is None or ahead[0] != tap):
            dealt_with = threading.Event()
            self._call(partial(self._on_tap, tap, dealt_with.set))
            dealt_with.wait(_GIVE_WAY_S)

    def _call(self, callback: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            assert self._loop.is_closed()  # nobody is left to tell


@dataclass(slots=True, kw_only=True, eq=False)
class _Job:
    """Steps of one transaction, and who waits for it."""

    steps: tuple[OvsStep, ...]
    done: asyncio.Future[None]
    deadline: float  # time.monotonic()
    txn: Any = None
    cfg: int | None = None  # next_cfg that vswitchd must reach
    tries: int = 0


class _Idl(ovs.db.idl.Idl):  # type: ignore[misc]
    """The IDL with frozen values of its rows, made once for each change of a row."""

    def __init__(self, *args: Any, on_tap: Callable[[NewTap], None], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.published = -1
        """Its `change_seqno` when the last snapshot was made."""
        self._on_tap = on_tap
        self._hear, self._session.recv = self._session.recv, self._recv
        self._interfaces: dict[UUID, Interface] = {}
        self._ports: dict[UUID, tuple[Any, OvsPort]] = {}
        self._session_seen = -1

    def _recv(self) -> Any:
        """The session's next message, of which a tap is told before it is worked on."""
        heard = self._hear()
        if heard is not None and self.state == self.IDL_S_MONITORING and self.change_seqno == self.published:
            tap = tap_in(heard.method, heard.params, bridge_of=self.bridge_names().get)
            if tap is not None:
                self._on_tap(tap)
        return heard

    @property
    def connection(self) -> socket.socket | None:
        """The connection's own socket; None without one, and where a failure has closed it."""
        found = self._session.rpc.stream.socket if self._session.rpc is not None else None
        return found if isinstance(found, socket.socket) and found.fileno() >= 0 else None

    def bridge_names(self) -> dict[str, str]:
        """Names of bridges by the UUIDs of their rows."""
        return {str(uuid): row.name for uuid, row in self.tables["Bridge"].rows.items()}

    def notify(self, event: str, row: Any, updates: Any = None) -> None:
        self._interfaces.pop(row.uuid, None)
        self._ports.pop(row.uuid, None)
        if row._table.name in ("QoS", "Queue"):  # few have one, and they seldom change
            self._ports = {uuid: one for uuid, one in self._ports.items() if one[1].qos is None}

    def snapshot(self) -> tuple[Bridge, ...]:
        seqno = self._session.get_seqno()
        if seqno != self._session_seen:  # a new connection sends the tables anew and notifies of no removal
            self._session_seen = seqno
            self._interfaces.clear()
            self._ports.clear()
        bridges = []
        for row in self.tables["Bridge"].rows.values():
            ports = tuple(sorted((self._port(port) for port in row.ports), key=lambda port: port.name))
            bridges.append(
                Bridge(
                    name=row.name,
                    datapath_type=row.datapath_type,
                    fail_mode=_one(row.fail_mode, ""),
                    external_ids=dict(row.external_ids),
                    other_config=dict(row.other_config),
                    ports=ports,
                )
            )
        return tuple(sorted(bridges, key=lambda bridge: bridge.name))

    def loose_qos(self) -> tuple[UUID, ...]:
        used = {qos.uuid for row in self.tables["Port"].rows.values() for qos in row.qos}
        rows = self.tables["QoS"].rows.values()
        return tuple(sorted(row.uuid for row in rows if row.uuid not in used and is_ours(row.external_ids)))

    def _port(self, row: Any) -> OvsPort:
        cached = self._ports.get(row.uuid)
        rows = row.interfaces if cached is None else cached[0]
        interfaces = tuple(self._interface(interface) for interface in rows)
        if cached is not None and all(a is b for a, b in zip(cached[1].interfaces, interfaces, strict=True)):
            return cached[1]
        port = OvsPort(
            name=row.name,
            interfaces=interfaces,
            external_ids=dict(row.external_ids),
            bond_mode=_one(row.bond_mode, ""),
            lacp=_one(row.lacp, ""),
            other_config=dict(row.other_config),
            vlan_mode=_one(row.vlan_mode, ""),
            trunks=tuple(sorted(row.trunks)),
            tag=_one(row.tag, None),
            qos=_qos(row.qos[0]) if row.qos else None,
        )
        self._ports[row.uuid] = (rows, port)
        return port

    def _interface(self, row: Any) -> Interface:
        value = self._interfaces.get(row.uuid)
        if value is None:
            value = self._interfaces[row.uuid] = Interface(
                name=row.name,
                type=row.type,
                ofport=_one(row.ofport, None),
                options=dict(row.options),
                external_ids=dict(row.external_ids),
                mtu=_one(row.mtu, None),
                mtu_request=_one(row.mtu_request, None),
                link_state=_one(row.link_state, ""),
                error=_one(row.error, ""),
                lacp_current=_one(row.lacp_current, None),
            )
        return value


def _qos(row: Any) -> Qos:
    """The row as a value; whatever is not of the form that we write is 0, and so never what is wanted."""
    queues = (row.queues.get(number) for number in range(max(row.queues, default=-1) + 1))
    return Qos(
        max_bps=_number(row.other_config, "max-rate") if row.type == "linux-htb" else 0,
        queues=tuple(_queue(queue.other_config if queue is not None else {}) for queue in queues),
        ours=is_ours(row.external_ids),
    )


def _queue(config: Mapping[str, str]) -> Queue:
    return Queue(
        min_bps=_number(config, "min-rate"), max_bps=_number(config, "max-rate"), priority=_number(config, "priority")
    )


def _number(config: Mapping[str, str], key: str) -> int:
    text = config.get(key, "")
    return int(text) if text.isascii() and text.isdigit() else 0


def _one(column: list[Any], default: Any) -> Any:
    return column[0] if column else default


def _connected(idl: _Idl) -> bool:
    return bool(idl._session.is_connected() and idl.state == idl.IDL_S_MONITORING)


def _schema() -> Any:
    return ovs.json.from_file(os.path.join(ovs.dirs.PKGDATADIR, "vswitch.ovsschema"))

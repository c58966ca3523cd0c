"""One persistent OpenFlow connection to a bridge of ours.

Theory of operation. Open vSwitch serves each bridge at `<rundir>/<bridge>.mgmt`, besides any controller that it has. We
connect once, and keep the connection: one change is committed and confirmed in a fraction of a millisecond, where a
process of `ovs-ofctl` takes tens.

Changes go as an atomic, ordered bundle. All of it is encoded before the bundle is opened, because a bundle dies after
10 s without a message. The switch drops a message that it does not like and would commit the others, so the commit
waits for a barrier's answer; unless each flow is of a form (`openflow_forms`) of which the switch has taken one before:
then all goes in one round trip. What it finds at the commit, the switch rolls back. The commit is followed by a barrier
too; once it is answered, packets meet the new flows (megaflows cached earlier are revalidated after, within
milliseconds: `unixctl` waits).

The switch tells of changes that others make through a flow monitor (OFPMP_FLOW_MONITOR), and of its end by closing the
connection. Our own bundles come back abbreviated and are not reported. The monitor is set before anyone can dump, so
nothing falls between dump and first report.

Only bridges that carry our mark are ever connected to; on those every flow is ours to decide.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Sequence, Set
from contextlib import asynccontextmanager
from typing import Any, Final

from hostagent.flow import Action, Flow, Match, Output
from hostagent.model import MeterLimit
from hostagent.pipeline.drops import Counted
from hostagent.realize.errors import RealizeError
from hostagent.realize.openflow_bundle import Bundle, pack
from hostagent.realize.openflow_codec import (
    decode_counted,
    decode_match,
    decode_stats,
    dump_key,
    encode_flow_mod,
    encode_packet_out,
)
from hostagent.realize.openflow_errors import error_name
from hostagent.realize.openflow_forms import Form
from hostagent.realize.openflow_meters import ASK_DROPS, ASK_METERS, drops_in, meter_changes, meters_in
from hostagent.realize.openflow_monitor import FLOW_MONITOR, monitor_request, tells_change
from hostagent.realize.openflow_ports import PORT_STATUS, Armed, PortWord, port_word
from hostagent.realize.openflow_wire import HELLO, VERSION, Wire, message

__all__ = ["OpenFlowConnection", "OpenFlowError"]

_ERROR, _ECHO_REQUEST, _ECHO_REPLY, _EXPERIMENTER, _SET_CONFIG, _PACKET_IN = 1, 2, 3, 4, 9, 10
_PACKET_OUT: Final = 13
_MULTIPART_REQUEST, _MULTIPART_REPLY, _BARRIER_REQUEST, _BARRIER_REPLY, _METER_MOD = 18, 19, 20, 21, 29
_FLOW_DESC: Final = 1
_MORE: Final = 1
_METER_EXISTS: Final = (12, 1)
_NICIRA, _CT_FLUSH_ZONE = 0x2320, 29
_FRAGMENTS_SHOW_PORTS: Final = 3  # Open vSwitch's "nx-match"
_MESSAGE_MAX: Final = 0xFFFF - 32  # of 65,535 bytes, less what a bundle puts around a flow-mod
_FIRST_TABLE: Final = 0xFFFFFFF9  # OFPP_TABLE
_MEMO_SPARE: Final = 1000  # encodings remembered between dumps, beyond those of the flows that are there


class OpenFlowError(RealizeError):
    """The switch refused, did not answer in time, or went away; the sentence says which and over what."""


class OpenFlowConnection:
    """A connection to one bridge. Make it with `connect`; once closed it stays closed.

    The callbacks run on the event loop and must not block.
    """

    def __init__(
        self,
        *,
        bridge: str,
        on_change: Callable[[], None],
        on_packet_in: Callable[[int, int, int, bytes], None],
        on_close: Callable[[str], None],
        on_port: Callable[[str, int], None] = lambda _name, _ofport: None,
    ) -> None:
        self.bridge = bridge
        self._on_change = on_change
        self._on_packet_in = on_packet_in
        self._on_close = on_close
        self._on_port = on_port
        self._wire = Wire(self._receive, self._lost)
        self._xids = itertools.count(1)
        self._bundle_ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._parts: dict[int, list[bytes]] = {}
        self._refused: list[tuple[int, int, int]] = []  # (xid, error type, code) of the bundle under way
        self._free: asyncio.Queue[None] = asyncio.Queue()  # one for whoever changes something: a lock, had at once
        self._free.put_nowait(None)
        self._known: dict[bytes, Flow] = {}
        self._taken: set[Form | None] = set()  # forms of flows that the switch has taken
        self._closed = ""

    @classmethod
    async def connect(
        cls,
        path: str,
        *,
        bridge: str,
        on_change: Callable[[], None],
        on_packet_in: Callable[[int, int, int, bytes], None],
        on_close: Callable[[str], None],
        on_port: Callable[[str, int], None] = lambda _name, _ofport: None,
        timeout_s: float = 5.0,
    ) -> OpenFlowConnection:
        """Connect to the bridge's management socket at *path*.

        `on_change()` is called after flows were changed by anyone but this connection; `on_packet_in(cookie, table,
        in_port, data)` for each packet that a flow sends here; `on_port(name, ofport)` when a port was added, with 0
        when it is gone, names cut to 15 characters; `on_close(why)` once, however the connection ends.

        Raises:
            OpenFlowError: nobody answers there, or not in OpenFlow 1.5.
        """
        self = cls(bridge=bridge, on_change=on_change, on_packet_in=on_packet_in, on_close=on_close, on_port=on_port)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.get_running_loop().create_unix_connection(lambda: self._wire, path)
                await self._greet()
        except (OSError, TimeoutError) as error:
            self.close()
            raise OpenFlowError(
                f"bridge {bridge}: no OpenFlow at {path} within {timeout_s:g} s ({error or 'no answer'}); "
                "is ovs-vswitchd running?"
            ) from None
        except BaseException:
            self.close()
            raise
        return self

    @property
    def closed(self) -> bool:
        """True once the connection has ended."""
        return bool(self._closed)

    def pack(self, delete: Sequence[Flow], add: Sequence[Flow]) -> Bundle:
        """What `bundle` would send for these flows, as bytes, to be sent once, now or later.

        Raises:
            OpenFlowError: a flow does not fit into a message.
        """
        return pack(
            sender=self,
            number=next(self._bundle_ids),
            first_xid=self._reserve(len(delete) + len(add) + 2),
            delete=delete,
            add=add,
            encode=self._encode,
        )

    def arm(self, bundle: Bundle, word: PortWord, *, timeout_s: float = 30.0) -> Armed | None:
        """*bundle*, ready to leave within a call, or with the switch's *word*. Nobody else changes anything until then.

        None where it must be left to `bundle`: another change is under way, or the switch may not like one of the
        flows.
        """
        ready = bundle.sender is self and bundle.forms and bundle.forms <= self._taken
        if self._closed or self._free.empty() or not ready:
            return None
        self._free.get_nowait()
        self._refused.clear()
        xid, answer = self._expect()

        def end() -> None:
            self._waiting.pop(xid, None)
            self._free.put_nowait(None)

        return Armed(
            bundle,
            word,
            data=bundle.messages + bundle.commit + message(_BARRIER_REQUEST, xid),
            write=self._wire.write,
            resubmit=self.resubmit,
            confirmed=lambda: self._committed(bundle, xid, answer, timeout_s),
            end=end,
        )

    async def bundle(
        self, delete: Sequence[Flow], add: Sequence[Flow], *, urgent: bool = False, timeout_s: float = 30.0
    ) -> None:
        """Delete exactly *delete*, then add *add*, at once or not at all; returns when the switch has confirmed it.

        Deleting a flow that is not there succeeds; adding one in the place of another replaces it. *urgent* commits in
        one round trip whatever the flows are: should the switch refuse one, the others are in.

        Raises:
            OpenFlowError: the switch refused a flow, which the sentence names, or went away. Nothing was changed,
                unless the sentence says that this is not known.
        """
        if not (delete or add):
            return
        bundle = self.pack(delete, add)
        async with self._turn():
            self._refused.clear()
            if bundle.alone:  # whole by itself: one round trip instead of two
                await self._barrier(bundle.alone, timeout_s, "changing a flow; whether it is in is not known")
                if self._refused:
                    raise OpenFlowError(self._refusal(bundle, "nothing was changed"))
                self._taken |= bundle.forms - {None}
                return
            messages = bundle.messages
            if not (urgent or (bundle.forms and bundle.forms <= self._taken)):
                await self._barrier(messages, timeout_s, "changing flows; nothing was changed")
                messages = b""
            if self._refused:
                self._wire.write(bundle.discard)
                raise OpenFlowError(self._refusal(bundle, "nothing was changed"))
            xid, answer = self._expect()
            self._wire.write(messages + bundle.commit + message(_BARRIER_REQUEST, xid))
            await self._committed(bundle, xid, answer, timeout_s)

    async def dump(
        self,
        *,
        before: Set[Flow] = frozenset(),
        expected: Callable[[], Iterable[Flow]] = tuple,
        timeout_s: float = 30.0,
    ) -> frozenset[Flow]:
        """All flows of the bridge, as the switch has them now; those of *before* that it still has by themselves.

        *expected* is asked, while the switch works on its answer, what will probably be in it (see `expect`).

        Raises:
            OpenFlowError: no whole answer.
        """
        answer = asyncio.ensure_future(self._dump_parts(0xFF, timeout_s))
        try:
            await asyncio.sleep(0)  # the question is out
            self.expect(expected())
            parts = await answer
        finally:
            answer.cancel()
        same = {flow: flow for flow in before}
        found: set[Flow] = set()
        for part in parts:
            found.update(decode_stats(part, self._known, same))
            await asyncio.sleep(0)  # 20,000 flows take 0.1 s: what is urgent does not wait for them all
        flows = frozenset(found)
        if len(self._known) > 2 * len(flows) + _MEMO_SPARE:
            self._known = {key: flow for key, flow in self._known.items() if flow in flows}
        return flows

    def expect(self, flows: Iterable[Flow]) -> None:
        """Say which flows a dump will probably have: those are given by themselves, and not decoded."""
        for flow in flows:
            key = dump_key(flow)
            if key is not None:
                self._known[key] = flow

    async def count(self, table: int = 0xFF, *, timeout_s: float = 30.0) -> tuple[Counted, ...]:
        """The flows of one *table*, or of all, with what has met each; counters lag by up to a second.

        Raises:
            OpenFlowError: no whole answer.
        """
        found: list[Counted] = []
        for part in await self._dump_parts(table, timeout_s):
            found.extend(Counted(*one) for one in decode_counted(part, self._known))
            await asyncio.sleep(0)  # as in `flows`
        return tuple(found)

    async def change_meters(self, *, put: Sequence[MeterLimit], remove: Sequence[int], timeout_s: float = 10.0) -> None:
        """Make the meters *put* as they are, whatever was there by their number, and delete those of *remove*.

        A meter takes the flows that use it with it: `on_change` tells of that.

        Raises:
            OpenFlowError: the switch refused one, or went away.
        """
        bodies = meter_changes(put=put, remove=remove)
        first_xid = self._reserve(len(bodies))
        messages = b"".join(
            message(_METER_MOD, xid, body) for xid, body in zip(itertools.count(first_xid), bodies, strict=False)
        )
        async with self._turn():
            self._refused.clear()
            await self._barrier(messages, timeout_s, "changing meters; whether they are in is not known")
            refused = [(kind, code) for _xid, kind, code in self._refused if (kind, code) != _METER_EXISTS]
            if refused:
                raise OpenFlowError(f"bridge {self.bridge}: the switch refused a meter ({error_name(*refused[0])})")

    async def meters(self, *, timeout_s: float = 10.0) -> frozenset[MeterLimit]:
        """All meters of the bridge, as the switch has them now.

        Raises:
            OpenFlowError: no whole answer.
        """
        return meters_in(await self._ask(_MULTIPART_REQUEST, ASK_METERS, timeout_s, "reading meters"))

    async def meter_drops(self, *, timeout_s: float = 10.0) -> dict[int, int]:
        """By number: the packets that each meter of the bridge has dropped since it was made or changed.

        Raises:
            OpenFlowError: no whole answer.
        """
        return drops_in(await self._ask(_MULTIPART_REQUEST, ASK_DROPS, timeout_s, "reading what meters dropped"))

    def packets_out(self, packets: Iterable[tuple[tuple[Action, ...], bytes]]) -> None:
        """Have the switch do the actions with each frame; nobody waits, and a refusal is not told."""
        self._wire.write(self._packets(encode_packet_out(actions, frame) for actions, frame in packets))

    def resubmit(self, in_port: int, frames: Iterable[bytes]) -> None:
        """Have the switch take each frame as if it had just come in by *in_port*; nobody waits, no refusal is told."""
        self._wire.write(self._resubmitted(in_port, frames))

    def hear(self, armed: Armed | None = None) -> bool:
        """Take what the switch has said already, ahead of the event loop; the callbacks are called from here. If it
        begins with the word that *armed* waits for, that leaves before them. False where nothing was said."""
        return self._wire.hear(armed.heard if armed is not None else None)

    async def flush_zone(self, zone: int, *, timeout_s: float = 5.0) -> None:
        """Forget all connections in *zone* of the connection tracker of the bridge's datapath.

        Raises:
            OpenFlowError: the switch refused, or went away.
        """
        body = struct.pack("!II6xH", _NICIRA, _CT_FLUSH_ZONE, zone)
        emptying = message(_EXPERIMENTER, next(self._xids), body)
        async with self._turn():
            self._refused.clear()
            await self._barrier(emptying, timeout_s, f"emptying zone {zone} of the connection tracker")
            if self._refused:
                why = error_name(*self._refused[0][1:])
                raise OpenFlowError(f"bridge {self.bridge}: the switch refused to empty zone {zone} ({why})")

    async def echo(self, timeout_s: float) -> None:
        """Return once the switch has answered an echo.

        Raises:
            OpenFlowError: it did not within *timeout_s*.
        """
        await self._ask(_ECHO_REQUEST, b"", timeout_s, "waiting for an echo")

    def close(self) -> None:
        """End the connection; `on_close` is called unless it has been."""
        self._wire.close()
        self._lost("closed by us")

    # --- conversation ---------------------------------------------------------------------------------------------

    async def _greet(self) -> None:
        self._wire.write(message(HELLO, next(self._xids), struct.pack("!HHI", 1, 8, 1 << VERSION)))
        # without a miss_send_len the switch sends no packets to a management connection; without the flag flows see
        # neither ports nor ICMP types of first fragments, and what a guest must not say could be said in fragments
        config = struct.pack("!HH", _FRAGMENTS_SHOW_PORTS, 0xFFFF)
        self._wire.write(message(_SET_CONFIG, next(self._xids), config))
        await self._ask(_MULTIPART_REQUEST, monitor_request(), 5.0, "asking for a flow monitor")

    async def _ask(self, kind: int, body: bytes, timeout_s: float, doing: str) -> Any:
        xid, answer = self._expect()
        self._wire.write(message(kind, xid, body))
        return await self._answered(xid, answer, timeout_s, doing)

    async def _barrier(self, before: bytes, timeout_s: float, doing: str) -> None:
        xid, answer = self._expect()
        self._wire.write(before + message(_BARRIER_REQUEST, xid))
        await self._answered(xid, answer, timeout_s, doing)

    async def _committed(self, bundle: Bundle, xid: int, answer: asyncio.Future[Any], timeout_s: float) -> None:
        """Return when the barrier *xid* behind the commit of *bundle* is answered and nothing was refused."""
        await self._answered(xid, answer, timeout_s, "committing flows; whether they are in is not known")
        if self._refused:
            self._taken.clear()
            failed = any(refused == bundle.commit_xid for refused, _, _ in self._refused)
            end = "the switch has rolled it back" if failed else "the others of its bundle are in"
            raise OpenFlowError(self._refusal(bundle, end))
        self._taken |= bundle.forms - {None}

    def _expect(self) -> tuple[int, asyncio.Future[Any]]:
        """A transaction id for what is to be sent now, and where its answer will be."""
        if self._closed:
            raise OpenFlowError(f"bridge {self.bridge}: the OpenFlow connection is gone ({self._closed})")
        xid = next(self._xids)
        answer = self._waiting[xid] = asyncio.get_running_loop().create_future()
        return xid, answer

    async def _answered(self, xid: int, answer: asyncio.Future[Any], timeout_s: float, doing: str) -> Any:
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            sentence = f"bridge {self.bridge}: the switch did not answer within {timeout_s:g} s, {doing}"
            # what it does of our request, and when, is unknown: only a new connection is sure to know
            self.close()
            raise OpenFlowError(sentence) from None
        finally:
            self._waiting.pop(xid, None)
            self._parts.pop(xid, None)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        await self._free.get()
        try:
            yield
        finally:
            self._free.put_nowait(None)

    def _resubmitted(self, in_port: int, frames: Iterable[bytes]) -> bytes:
        again = (Output(_FIRST_TABLE),)
        return self._packets(encode_packet_out(again, frame, in_port=in_port) for frame in frames)

    def _packets(self, bodies: Iterable[bytes]) -> bytes:
        return b"".join(message(_PACKET_OUT, next(self._xids), body) for body in bodies)

    async def _dump_parts(self, table: int, timeout_s: float) -> list[bytes]:
        request = struct.pack("!HH4xB3xII4xQQHH4x", _FLOW_DESC, 0, table, 0xFFFFFFFF, 0xFFFFFFFF, 0, 0, 1, 4)
        parts: list[bytes] = await self._ask(_MULTIPART_REQUEST, request, timeout_s, "dumping")
        return parts

    def _encode(self, command: int, flow: Flow) -> bytes:
        try:
            body = encode_flow_mod(command, flow)
        except (struct.error, OverflowError):  # a length or a value beyond its field
            body = bytes(_MESSAGE_MAX + 1)
        if len(body) > _MESSAGE_MAX:
            place = f"table {flow.table}, priority {flow.priority}, cookie {flow.cookie:#x}"
            raise OpenFlowError(
                f"bridge {self.bridge}: the flow in {place} with {len(flow.actions)} actions does not fit into an "
                f"OpenFlow message of {_MESSAGE_MAX} bytes; nothing was changed"
            )
        return body

    def _reserve(self, count: int) -> int:
        """The first of *count* transaction ids in a row."""
        first = next(self._xids)
        if first + count > 0x7FFFFFFF:
            first = 1
        self._xids = itertools.count(first + count)
        return first

    def _refusal(self, bundle: Bundle, end: str) -> str:
        xid, kind, code = self._refused[0]
        index, flows = xid - bundle.first_xid, bundle.flows
        what = f"the flow {flows[index]}" if 0 <= index < len(flows) else f"a bundle of {len(flows)} flows"
        return f"bridge {self.bridge}: the switch refused {what} ({error_name(kind, code)}); {end}"

    # --- what the switch says -------------------------------------------------------------------------------------

    def _receive(self, kind: int, xid: int, body: bytes) -> None:
        if kind == _MULTIPART_REPLY:
            self._multipart(xid, body)
        elif kind == _PACKET_IN:
            self._packet_in(body)
        elif kind == PORT_STATUS:
            word = port_word(body)
            if word is not None:
                self._on_port(*word)
        elif kind == _ECHO_REQUEST:
            self._wire.write(message(_ECHO_REPLY, xid, body))
        elif kind in (_BARRIER_REPLY, _ECHO_REPLY):
            self._answer(xid, None)
        elif kind == _ERROR:
            error, code = struct.unpack_from("!HH", body)
            if xid in self._waiting:
                self._answer(xid, OpenFlowError(f"bridge {self.bridge}: {error_name(error, code)}"))
            else:
                self._refused.append((xid, error, code))

    def _multipart(self, xid: int, body: bytes) -> None:
        kind, flags = struct.unpack_from("!HH", body)
        if kind == FLOW_MONITOR and xid not in self._waiting:
            if tells_change(body[8:]):
                self._on_change()
            return
        self._parts.setdefault(xid, []).append(body[8:])
        if not flags & _MORE:
            self._answer(xid, self._parts.pop(xid))

    def _packet_in(self, body: bytes) -> None:
        try:
            _, _, _, table, cookie, _, length = struct.unpack_from("!IHBBQHH", body)
            conditions = decode_match(body[20 : 16 + length])
        except (struct.error, ValueError):
            return  # a guest's frame must not cost the connection, whatever became of it
        in_port = next((item.value for item in conditions if isinstance(item, Match) and item.field == "in_port"), 0)
        self._on_packet_in(cookie, table, in_port, body[16 + (length + 7) // 8 * 8 + 2 :])

    def _answer(self, xid: int, result: Any) -> None:
        answer = self._waiting.get(xid)
        if answer is not None and not answer.done():
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)

    def _lost(self, why: str) -> None:
        if self._closed:
            return
        self._closed = why
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(OpenFlowError(f"bridge {self.bridge}: the OpenFlow connection ended ({why})"))
        self._on_close(why)

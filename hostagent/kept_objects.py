"""What the manager pushed, as rows of the agent's database. All of it is read at each start, so it is read fast.

Theory of operation. A row holds version and frozen value as MessagePack, by field name: what is absent has its default,
what this version does not know is passed over, as in the contract's messages. msgspec makes the values of it in C, in
an eighth of the time that a message and `codec` take; of ten thousand ports that is a seventh of a start. What many of
them name (a network, a host, a VTEP) is one object in memory, and so is what a port and its location have in common.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Final
from uuid import UUID

import msgspec

from netmgr.contract.codec import ContractError, decode_body
from netmgr.contract.proto import objects_pb2
from netmgr.contract.types import KINDS, Constructs, Learned, Location, LogicalPort, Object, ref_of

__all__ = ["TABLE", "from_messages", "read", "row"]

TABLE: Final = """
CREATE TABLE objects (
    kind TEXT NOT NULL, uuid TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (kind, uuid)
) WITHOUT ROWID;
"""

_READ: Final = {kind.value: msgspec.msgpack.Decoder(tuple[int, of]).decode for of, kind in KINDS.items()}  # type: ignore[valid-type]
_WRITE: Final = msgspec.msgpack.Encoder(uuid_format="bytes").encode


def row(item: Object) -> tuple[str, str, bytes]:
    """The row of `TABLE` that keeps *item*."""
    ref = ref_of(item)
    return ref.kind.value, str(ref.uuid), _WRITE((item.version, item.body))


def read(db: sqlite3.Connection) -> Iterator[tuple[str, int, Constructs]]:
    """Of each object its UUID as text, its version and its value; a port comes right before its location.

    Raises:
        ContractError: a value is none of its kind, or of no kind that is known.
        sqlite3.Error: the database is damaged.
    """
    share = _Sharing()
    for text, kind, value in db.execute("SELECT uuid, kind, value FROM objects ORDER BY uuid, kind DESC"):
        try:
            version, body = _READ[kind](value)
        except (KeyError, msgspec.DecodeError) as error:
            raise ContractError(f"{kind} {text} can't be read: {error!r}") from None
        share(body)
        yield text, version, body


def from_messages(db: sqlite3.Connection) -> None:
    """Bring the table of schema 1, which kept the contract's messages, to `TABLE`, within the caller's transaction.

    Raises:
        ContractError, DecodeError: a message can't be read.
    """
    rows: Iterable[tuple[bytes]] = db.execute("SELECT body FROM objects").fetchall()
    db.execute("DROP TABLE objects")
    db.execute(TABLE)
    for (raw,) in rows:
        message = objects_pb2.Object.FromString(raw)
        db.execute(
            "INSERT INTO objects VALUES (?, ?, ?)", row(Object(version=message.version, body=decode_body(message)))
        )


class _Sharing:
    """Makes equal parts of values that come one after the other the same object. Nobody has seen the values yet."""

    def __init__(self) -> None:
        self._uuids: dict[int, UUID] = {}
        self._port = UUID(int=0)  # of the last value

    def __call__(self, body: Any) -> None:
        kind = type(body)
        if kind is LogicalPort:
            self._port = body.uuid
            self._share(body, "network_uuid")
            _put(body, "mac", sys.intern(body.mac))
        elif kind is Location:
            if body.port_uuid.int == self._port.int:
                _put(body, "port_uuid", self._port)
            self._share(body, "network_uuid")
            if body.holder_host is not None:
                self._share(body, "holder_host")
            _put(body, "holder_vtep", sys.intern(body.holder_vtep))
            _put(body, "mac", sys.intern(body.mac))
        elif kind is Learned:
            self._share(body, "network_uuid")

    def _share(self, body: Any, name: str) -> None:
        uuid = getattr(body, name)
        _put(body, name, self._uuids.setdefault(uuid.int, uuid))


_put = object.__setattr__  # they are frozen

"""A bundle of changes of flows as bytes: what can be made before it is due. Pure."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from hostagent.flow import Flow
from hostagent.realize.openflow_codec import ADD, DELETE_STRICT
from hostagent.realize.openflow_forms import Form, form_of
from hostagent.realize.openflow_wire import message

__all__ = ["Bundle", "pack"]

_FLOW_MOD, _CONTROL, _ADD_MESSAGE = 14, 33, 34
_OPEN, _COMMIT, _DISCARD = 0, 4, 6
_ATOMIC_ORDERED: Final = 3
_KNOWN_FORMS_MAX: Final = 200  # flows of a bundle whose forms are looked at: of more the second trip is no matter


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bundle:
    """Flows to be deleted, then added, for one connection and for one time."""

    sender: object  # the connection, whose transaction ids it has
    delete: tuple[Flow, ...]
    add: tuple[Flow, ...]
    first_xid: int  # of the first flow; the others follow
    commit_xid: int
    messages: bytes  # open the bundle and put all in
    commit: bytes
    discard: bytes
    alone: bytes  # of a single flow, the same without a bundle
    forms: frozenset[Form | None]  # empty where there are too many to be looked at

    @property
    def flows(self) -> tuple[Flow, ...]:
        """In the order of their transaction ids."""
        return (*self.delete, *self.add)


def pack(
    *,
    sender: object,
    number: int,
    first_xid: int,
    delete: Sequence[Flow],
    add: Sequence[Flow],
    encode: Callable[[int, Flow], bytes],
) -> Bundle:
    """The bundle *number*, with transaction ids from *first_xid* on, two more than flows; *encode* makes the body of a
    flow's message of a command and the flow."""
    head = struct.pack("!I2xH", number, _ATOMIC_ORDERED)
    messages = bytearray(_control(number, _OPEN, first_xid))
    alone = b""
    commands = [*((DELETE_STRICT, flow) for flow in delete), *((ADD, flow) for flow in add)]
    for xid, (command, flow) in enumerate(commands, first_xid + 1):
        alone = message(_FLOW_MOD, xid, encode(command, flow))
        messages += message(_ADD_MESSAGE, xid, head + alone)
    forms: set[Form | None] = set()
    if len(commands) <= _KNOWN_FORMS_MAX:
        forms = {form_of(flow, delete=command == DELETE_STRICT) for command, flow in commands}
    return Bundle(
        sender=sender,
        delete=tuple(delete),
        add=tuple(add),
        first_xid=first_xid + 1,
        commit_xid=first_xid + 1 + len(commands),
        messages=bytes(messages),
        commit=_control(number, _COMMIT, first_xid + 1 + len(commands)),
        discard=_control(number, _DISCARD, first_xid + 1 + len(commands)),
        alone=alone if len(commands) == 1 else b"",
        forms=frozenset(forms),
    )


def _control(number: int, kind: int, xid: int) -> bytes:
    return message(_CONTROL, xid, struct.pack("!IHH", number, kind, _ATOMIC_ORDERED))

"""What the two sides of a stream can read of pushed objects, in words. Pure.

A word is the name of a type of object ("Learned"), of a field that is not always set ("LogicalPort.nested"), or of one
of the values that a field may have ("NetworkType.vlan"). A host says in its Hello which words it can read; the manager
knows which words an object needs, and does not send it what it could not read or would silently leave out, as a port's
security groups. Fields are only added, and with a default, so an object that does not use a new one needs no new word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, get_args, get_type_hints

from netmgr.contract.types import Constructs

__all__ = ["SINCE_HELLO", "WORDS", "unreadable", "words_of"]

SINCE_HELLO = frozenset({"ZoneKind.vlan", "NetworkType.vlan", "Allowance.nested", "LearnedSource.dhcp"})
"""Values that are younger than the Hello without words: who says none may not know them, and would end its stream."""


def unreadable(reads: Iterable[str]) -> frozenset[str]:
    """The words of this version that a host can't read that says it reads *reads*; it may be too old to say any."""
    said = frozenset(reads)
    return WORDS - said if said else SINCE_HELLO


def words_of(value: Any) -> frozenset[str]:
    """The words that one must know to read *value*, an object of the contract."""
    return frozenset(_used(value))


def _used(value: Any) -> Iterator[str]:
    if isinstance(value, tuple):
        for item in value:
            yield from _used(item)
    elif isinstance(value, Enum):
        yield f"{type(value).__name__}.{value.value}"
    elif is_dataclass(value):
        kind = type(value)
        yield kind.__name__
        for field in fields(value):
            item = getattr(value, field.name)
            if _may_be_absent(field):
                if item == field.default:
                    continue
                yield f"{kind.__name__}.{field.name}"
            yield from _used(item)


def _defined(hint: Any) -> Iterator[str]:
    if isinstance(hint, type) and issubclass(hint, Enum):
        yield from (f"{hint.__name__}.{item.value}" for item in hint)
    elif is_dataclass(hint) and isinstance(hint, type):
        yield from _words_of_type(hint)
    else:
        for part in get_args(hint):
            yield from _defined(part)


@cache
def _words_of_type(kind: type) -> frozenset[str]:
    hints = get_type_hints(kind)
    words = {kind.__name__}
    for field in fields(kind):
        if _may_be_absent(field):
            words.add(f"{kind.__name__}.{field.name}")
        words.update(_defined(hints[field.name]))
    return frozenset(words)


def _may_be_absent(field: Field[Any]) -> bool:
    return field.default is not MISSING


WORDS: frozenset[str] = frozenset(word for kind in get_args(Constructs) for word in _words_of_type(kind))
"""All that this version reads."""

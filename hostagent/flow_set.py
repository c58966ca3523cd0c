"""A set of flows that is changed by making another, at the price of what changed. Pure.

Theory of operation. A bridge may have a hundred thousand flows, and one port more costs two. So the set is kept in
small parts, by table and by the place of a flow in it (`Flow.key`); a set that differs in one flow is made from one new
part and the others as they are. Of two parts with equal flows there is one object in the whole process, however they
came about: what is wanted and what a switch has differ in just those parts that are not the same object, and what both
have is held once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from functools import wraps
from typing import Final, TypeVar
from weakref import ref

from hostagent.flow import Flow

__all__ = ["FlowSet", "flow_set", "of_a_set"]

R = TypeVar("R")

_PARTS: Final = 128
"""Of one table; a power of two. Ten thousand flows are then 78 in a part."""

_Part = frozenset[Flow]
_NONE: Final[_Part] = frozenset()
_EMPTY: Final[tuple[_Part, ...]] = (_NONE,) * _PARTS


class FlowSet(Set[Flow]):
    """Immutable. Flows of one table are found by the table, and counted by their cookie."""

    __slots__ = ("__weakref__", "_cookies", "_tables")

    def __init__(self, flows: Iterable[Flow] = ()) -> None:
        self._tables: dict[int, tuple[_Part, ...]] = {}
        self._cookies: dict[int, int] = {}
        self._edit((), flows)

    @property
    def cookies(self) -> Mapping[int, int]:
        """How many flows have each cookie."""
        return self._cookies

    def of_table(self, table: int) -> Iterator[Flow]:
        """The flows of one table."""
        for part in self._tables.get(table, ()):
            yield from part

    def changed(self, *, delete: Iterable[Flow], add: Iterable[Flow]) -> FlowSet:
        """This set without *delete*, then with *add*; what is added takes the place of what has its `key`."""
        made = FlowSet()
        made._tables, made._cookies = dict(self._tables), dict(self._cookies)
        made._edit(delete, add)
        return made

    def minus(self, other: FlowSet) -> list[Flow]:
        """The flows that *other* has not."""
        found: list[Flow] = []
        for table, parts in self._tables.items():
            others = other._tables.get(table, _EMPTY)
            if parts != others:  # equal parts are one object: to compare them is to compare addresses
                for mine, theirs in zip(parts, others, strict=True):
                    if mine is not theirs:
                        found.extend(mine - theirs)
        return found

    def __contains__(self, flow: object) -> bool:
        if not isinstance(flow, Flow):
            return False
        parts = self._tables.get(flow.table)
        return parts is not None and flow in parts[hash(flow) % _PARTS]

    def __iter__(self) -> Iterator[Flow]:
        for parts in self._tables.values():
            for part in parts:
                yield from part

    def __len__(self) -> int:
        return sum(self._cookies.values())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, FlowSet):
            return self is other or (self._cookies == other._cookies and not self.minus(other))
        return super().__eq__(other)

    def __repr__(self) -> str:
        return f"FlowSet({len(self)} flows)"

    def _edit(self, delete: Iterable[Flow], add: Iterable[Flow]) -> None:
        """Only while it is being made."""
        edits: dict[tuple[int, int], tuple[list[Flow], list[Flow]]] = {}
        for which, flows in enumerate((delete, add)):
            for flow in flows:
                place = (flow.table, hash(flow) % _PARTS)
                edit = edits.get(place)
                if edit is None:
                    edits[place] = edit = ([], [])
                edit[which].append(flow)
        opened: dict[int, list[_Part]] = {}
        for (table, number), (gone, new) in edits.items():
            parts = opened.get(table)
            if parts is None:
                opened[table] = parts = list(self._tables.get(table, _EMPTY))
            before = parts[number]
            after = _edited(before, gone, new)
            if after is not before:
                parts[number] = after
                self._count(before, -1)
                self._count(after, 1)
        for table, parts in opened.items():
            if any(parts):
                self._tables[table] = tuple(parts)
            else:
                self._tables.pop(table, None)

    def _count(self, part: _Part, step: int) -> None:
        cookies = self._cookies
        for flow in part:
            number = cookies.get(flow.cookie, 0) + step
            if number:
                cookies[flow.cookie] = number
            else:
                del cookies[flow.cookie]


def flow_set(flows: Set[Flow]) -> FlowSet:
    """*flows* as one; itself if it is."""
    return flows if isinstance(flows, FlowSet) else FlowSet(flows)


def of_a_set(function: Callable[[Set[Flow]], R]) -> Callable[[Set[Flow]], R]:
    """*function*, which remembers what it found of a set for as long as the set lives: it is asked several times a turn
    of the loop, of sets that seldom change. Sets are told apart by identity, and none is kept for it."""
    known: dict[int, tuple[ref[Set[Flow]], R]] = {}

    @wraps(function)
    def remembering(flows: Set[Flow]) -> R:
        number = id(flows)
        found = known.get(number)
        if found is not None and found[0]() is flows:
            return found[1]
        result = function(flows)
        known[number] = (ref(flows, lambda _: known.pop(number, None)), result)
        return result

    return remembering


def _edited(before: _Part, delete: list[Flow], add: list[Flow]) -> _Part:
    kept = set(before)
    kept.difference_update(delete)
    if kept and add:
        numbers, places, new = {hash(flow) for flow in add}, {flow.key() for flow in add}, set(add)
        kept -= {one for one in kept if hash(one) in numbers and one.key() in places and one not in new}
    kept.update(add)  # of equal flows the one that is there stays
    return _only(frozenset(kept)) if kept else _NONE


# --- of equal parts, one ------------------------------------------------------------------------------------------

_known: dict[ref[_Part], ref[_Part]] = {}


def _only(part: _Part) -> _Part:
    key = ref(part, _forget)
    known = _known.get(key)
    found = known() if known is not None else None
    if found is not None:
        return found
    _known[key] = key
    return part


def _forget(key: ref[_Part]) -> None:
    _known.pop(key, None)

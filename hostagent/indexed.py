"""Tables of what the manager pushed, of which parts are looked up without a look at the whole. Pure.

Theory of operation. Of ten thousand ports a host holds a few, limits a few, and hears of one change at a time. So a
table keeps what was asked of it: the rows that pass a test (`select`), how many rows have each of a few marks
(`tally`), and which rows were changed since a moment (`Indexed.changes`). A question is answered once by a look at all,
and from then on kept up by each change. The same questions may be asked of any mapping, which is then looked through:
what a test or a plan beside the daemon passes needs no table.

A question is told from others by the function that asks it: use functions of modules, not lambdas.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, NoReturn, TypeVar
from uuid import UUID

from netmgr.contract.types import Location, LogicalPort

__all__ = ["Indexed", "Overlaid", "held_here", "rows_of", "select", "tally"]

V = TypeVar("V")
K = TypeVar("K", bound=Hashable)

_CHANGES_MAX: Final = 4096


class Indexed(dict[UUID, V]):
    """A table by UUID that knows its changes. Set, delete, clear and fill; no other way leads in."""

    def __init__(self) -> None:
        super().__init__()
        self._selections: dict[Callable[[V], bool], dict[UUID, V]] = {}
        self._tallies: dict[Callable[[V], Any], Counter[Any]] = {}
        self._changed: list[UUID] = []
        self._before = 0  # changes that were, and are not in the list any more

    @property
    def mark(self) -> int:
        """Now, for `changes`."""
        return self._before + len(self._changed)

    def changes(self, since: int) -> Collection[UUID] | None:
        """Rows that were set or deleted after *since* was the mark; None when that is not known any more."""
        return set(self._changed[since - self._before :]) if self._before <= since <= self.mark else None

    def selection(self, test: Callable[[V], bool]) -> Mapping[UUID, V]:
        """See `select`; always the same mapping."""
        found = self._selections.get(test)
        if found is None:
            found = self._selections[test] = {key: value for key, value in self.items() if test(value)}
        return found

    def tally(self, mark: Callable[[V], K]) -> Mapping[K, int]:
        """See `tally`; always the same mapping."""
        found = self._tallies.get(mark)
        if found is None:
            found = self._tallies[mark] = Counter(map(mark, self.values()))
        return found

    def __setitem__(self, key: UUID, value: V) -> None:
        before = self.get(key)
        super().__setitem__(key, value)
        self._note(key, before, value)

    def __delitem__(self, key: UUID) -> None:
        before = self[key]
        super().__delitem__(key)
        self._note(key, before, None)

    def fill(self, rows: Mapping[UUID, V]) -> None:
        """Begin anew with *rows*."""
        self.clear()
        super().update(rows)

    def clear(self) -> None:
        super().clear()
        self._selections.clear()
        self._tallies.clear()
        self._before, self._changed = self.mark + 1, []

    def _refuse(self, *_args: Any, **_more: Any) -> NoReturn:
        raise TypeError("a row is set or deleted by itself")

    pop = popitem = update = setdefault = __ior__ = _refuse

    def _note(self, key: UUID, before: V | None, after: V | None) -> None:
        for test, rows in self._selections.items():
            if after is not None and test(after):
                rows[key] = after
            elif before is not None:
                rows.pop(key, None)
        for mark, counts in self._tallies.items():
            _count(counts, mark, before, after)
        self._changed.append(key)
        if len(self._changed) > _CHANGES_MAX:
            half = len(self._changed) // 2
            self._before += half
            del self._changed[:half]


class Overlaid(Mapping[UUID, V]):
    """*base* with other values for a few of its rows, *over*."""

    def __init__(self, base: Mapping[UUID, V], over: Mapping[UUID, V]) -> None:
        assert over.keys() <= base.keys()
        self.base = base
        self.over = over

    def __getitem__(self, key: UUID) -> V:
        return self.over[key] if key in self.over else self.base[key]

    def __iter__(self) -> Iterator[UUID]:
        return iter(self.base)

    def __len__(self) -> int:
        return len(self.base)


def select(table: Mapping[UUID, V], test: Callable[[V], bool]) -> Mapping[UUID, V]:
    """The rows of *table* that pass *test*, by UUID."""
    if isinstance(table, Indexed):
        return table.selection(test)
    if isinstance(table, Overlaid):
        passing = {key: value for key, value in table.over.items() if test(value)}
        base = select(table.base, test)
        return {**{key: value for key, value in base.items() if key not in table.over}, **passing}
    return {key: value for key, value in table.items() if test(value)}


def tally(table: Mapping[UUID, V], mark: Callable[[V], K]) -> Mapping[K, int]:
    """How many rows of *table* have each mark; none that no row has."""
    if isinstance(table, Indexed):
        return table.tally(mark)
    if isinstance(table, Overlaid):
        counts = Counter(tally(table.base, mark))
        for key, value in table.over.items():
            _count(counts, mark, table.base[key], value)
        return counts
    return Counter(map(mark, table.values()))


def _count(counts: Counter[K], mark: Callable[[V], K], before: V | None, after: V | None) -> None:
    if after is not None:
        counts[mark(after)] += 1
    if before is not None:
        key = mark(before)
        counts[key] -= 1
        if not counts[key]:
            del counts[key]


def rows_of(table: Mapping[UUID, LogicalPort] | Mapping[UUID, Location], network: UUID) -> int:
    """How many rows of *table* are of *network*."""
    return tally(table, _network_of).get(network.int, 0)


def _network_of(row: Any) -> int:
    number: int = row.network_uuid.int  # numbers are told apart ten times as fast
    return number


def held_here(locations: Mapping[UUID, Location], host: UUID) -> Mapping[UUID, Location]:
    """Of *locations* those of ports that *host* holds or that are coming to it."""
    return select(locations, _of(host))


@lru_cache(maxsize=16)
def _of(host: UUID) -> Callable[[Location], bool]:
    number = host.int  # numbers are told apart ten times as fast

    def is_here(location: Location) -> bool:
        holder, incoming = location.holder_host, location.incoming_host
        return (holder is not None and holder.int == number) or (incoming is not None and incoming.int == number)

    return is_here

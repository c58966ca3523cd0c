"""Which numbers of a range are free: the lowest is known without a search, however many are taken. Pure."""

from __future__ import annotations

from bisect import bisect_right

__all__ = ["FreeNumbers"]


class FreeNumbers:
    """The free numbers from 0 up, as the ends of runs in their order: `[first, after, first, after, …]`, the last run
    without an end. What is taken and given back any number of times is the same value as if it had never been taken."""

    __slots__ = ("_ends",)

    def __init__(self) -> None:
        self._ends: list[int] = [0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FreeNumbers) and self._ends == other._ends

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"FreeNumbers({self._ends})"

    @property
    def all_free(self) -> bool:
        return self._ends == [0]

    def take(self, number: int) -> None:
        """*number*, 0 or more, is free no longer; nothing happens where it was not."""
        place = bisect_right(self._ends, number)
        if place % 2:  # inside the run that begins at place - 1
            self._flip(number, place)

    def give_back(self, number: int) -> None:
        """*number*, 0 or more, is free again; nothing happens where it was."""
        place = bisect_right(self._ends, number)
        if not place % 2:
            self._flip(number, place)

    def lowest(self, *, first: int) -> int:
        """The lowest free number from *first* on."""
        place = bisect_right(self._ends, first)
        return first if place % 2 else self._ends[place]

    def _flip(self, number: int, place: int) -> None:
        """Set ends at *number* and after it, where there are none; where there are, the runs join."""
        after = number + 1
        begins = place > 0 and self._ends[place - 1] == number
        ends = place < len(self._ends) and self._ends[place] == after
        self._ends[place - begins : place + ends] = ([] if begins else [number]) + ([] if ends else [after])

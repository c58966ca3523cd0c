"""Which of the flows that let a guest in go first. Pure.

Theory of operation. To take a flow costs the switch ten to twenty microseconds, and a port has forty, half of them for
IPv6 alone. What a guest says first is ARP or IPv4, mostly, and it waits. So the flows that such frames meet, a dozen,
are sent first, and the port is entered by these types of frames only; when the switch has confirmed them the rest
follows, with the entry for all, a few milliseconds later. To a frame of these types that makes no difference: what is
left out is for other types, or counts what is dropped in any case. To a frame of another type the port is dark until
then, so it is held, as before (`held`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Final

from hostagent.flow import Flow, Match, canonical
from hostagent.model import ChangeFlows
from hostagent.pipeline.tables import ADDRESS4, Table
from hostagent.vifs import entered_by

__all__ = ["FIRST", "in_two", "type_of"]

FIRST: Final = frozenset({0x0800, 0x0806})
"""Types of the frames that a guest is let in for first: IPv4 and ARP."""

_OTHERS: Final = frozenset(Match("eth_type", number) for number in (0x86DD, 0x8035))
_IPV6_ADDRESS: Final = Match(ADDRESS4, 0)
_UNMET: Final = frozenset({Table.DROPPED, Table.MADE})  # MADE is asked about IPv6 only


def in_two(change: ChangeFlows, addresses: Collection[str]) -> tuple[ChangeFlows, ChangeFlows] | None:
    """*change*, which lets a guest in at one port, as what goes first and what follows. *addresses* are all that its
    port may use, none for any. None where it is to be made in one: the guest speaks IPv6 only, or it is no such change.
    """
    entries = [flow for flow in change.add if flow.table == Table.CLASSIFY]
    if change.delete or len(entries) != 1 or [*entered_by(entries).values()] != [None]:
        return None
    if addresses and all(":" in address for address in addresses):
        return None
    (entry,) = entries
    # of a port with defined addresses only link-local ones of IPv6 come to CLAIMS
    unmet = _UNMET | {Table.CLAIMS} if addresses else _UNMET
    waiting = [flow for flow in change.add if flow.table in unmet or _is_of_others(flow)]
    ours = [item for item in entry.match if isinstance(item, Match)]
    for_first = [replace(entry, match=canonical([*ours, Match("eth_type", number)])) for number in sorted(FIRST)]
    late = {entry, *waiting}
    first = (*for_first, *(flow for flow in change.add if flow not in late))
    rest = (entry, *waiting)
    return replace(change, add=first), replace(change, delete=tuple(for_first), add=rest)


def _is_of_others(flow: Flow) -> bool:
    """Whether only frames of other types meet it. These also ask for the port's IPv6 addresses, which must not be known
    before it is known that their owner answers for them itself, as a router does."""
    return (flow.table == Table.BINDING and _IPV6_ADDRESS in flow.match) or not _OTHERS.isdisjoint(flow.match)


def type_of(frame: bytes) -> int:
    """The type of an Ethernet frame."""
    return int.from_bytes(frame[12:14])

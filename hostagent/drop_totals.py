"""Frames that were dropped, in sums that only grow, for those who look at differences. Pure.

Theory of operation. The switch counts drops by flow, `hostagent drops` adds them up by port, network and reason, and a
flow that is replaced or removed takes its count along. So a sum may shrink a little, and who takes a counter that
shrinks for one that began anew, as Prometheus does, would see all of the rest as new drops. So here a sum that shrank
has grown by nothing: what was dropped since the last look may be missed then, and nothing is counted twice.

Where nothing is counted any more, because the port has gone for example, the total is forgotten: it begins anew when
something is. The first total is what the switch has counted by then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["DropTotals", "with_ports"]


class _Key(NamedTuple):
    """What frames are told apart by. The same OVS port may be another guest's by the next look."""

    bridge: str
    ovs_port: str
    port_uuid: str
    port: str
    network: str
    reason: str


class DropTotals:
    """Of one agent since it began."""

    def __init__(self) -> None:
        self._counted: dict[_Key, int] = {}
        self._totals: dict[_Key, int] = {}

    def look(self, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The totals, now that *rows*, as `with_ports` has them, were counted, in the same shape.

        Rows that differ in their counts alone are one.
        """
        counted: dict[_Key, int] = {}
        for row in rows:
            key = _Key(*(row[name] for name in _Key._fields))
            counted[key] = counted.get(key, 0) + row["packets"]
        self._totals = {key: self._total(key, packets) for key, packets in counted.items()}
        self._counted = counted
        return [{**key._asdict(), "packets": packets} for key, packets in self._totals.items()]

    def _total(self, key: _Key, packets: int) -> int:
        return self._totals.get(key, 0) + max(0, packets - self._counted.get(key, 0))


def with_ports(drops: Iterable[Mapping[str, Any]], vifs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """*drops* as `show.drops_of` has them, each with the logical port of its OVS port, as `show.vifs_of` names it."""
    ports = {vif["ovs_port"]: vif for vif in vifs if vif["ovs_port"]}
    return [
        {
            **drop,
            "ovs_port": drop["port"],
            "port": ports.get(drop["port"], {}).get("port", ""),
            "port_uuid": ports.get(drop["port"], {}).get("port_uuid", ""),
        }
        for drop in drops
    ]

"""Which queue a frame takes on its way out of a PNIC: filters and queue lengths of an HTB that Open vSwitch made.

Open vSwitch's HTB has handle 1:, its queue N is class 1:N+1. What is ours is known by its numbers: a filter by its
preference, one for each protocol because the kernel wants that, a queueing discipline by its handle. Filters are read
back whole: one of another port is another one. Functions over an open `IPRoute`, in the thread that owns it.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pyroute2.netlink import nla
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl.tcmsg import plugins

from hostagent.model import Classifier, Filter

__all__ = ["keys_of", "read_classifiers", "write_classifier"]

_HTB = 0x10000
_MARK = 0x6F70  # "op"
_PROTOCOLS = (0x0800, 0x0806, 0x8100, 0x86DD, 0x8809)  # the place in this list is added to the mark
_ALL = "0x0/0x0+0"
_SELECTOR, _COUNT_AT, _KEY = 16, 2, struct.Struct("=4s4si4x")  # tc_u32_sel; tc_u32_key: mask, value, where
_ATTRIBUTE = 4  # length and type before it


class _Bfifo:
    """What pyroute2 must know of the kernel's bfifo (`struct tc_fifo_qopt`)."""

    class options(nla):  # type: ignore[misc]  # pyroute2 looks for this name
        fields = (("limit", "I"),)

    @staticmethod
    def get_parameters(given: dict[str, Any]) -> dict[str, Any]:
        return {"limit": given["limit"]}


plugins.setdefault("bfifo", _Bfifo)


def read_classifiers(route: Any) -> dict[int, Classifier]:
    """By index of the link: what is ours on links that Open vSwitch shapes."""
    disciplines = list(route.get_qdiscs())
    lengths: dict[int, set[int]] = {}
    for one in disciplines:
        if one["parent"] >> 16 == _HTB >> 16 and one["handle"] >> 16 == _MARK + (one["parent"] & 0xFFFF):
            options = one.get_attr("TCA_OPTIONS")
            lengths.setdefault(one["index"], set()).add(options["limit"] if isinstance(options, nla) else 0)
    found = {}
    for one in disciplines:
        if one["handle"] == _HTB and one.get_attr("TCA_KIND") == "htb":
            index = one["index"]
            length = lengths.get(index, {0})
            found[index] = Classifier(
                filters=_filters(route, index), queue_bytes=length.pop() if len(length) == 1 else 0
            )
    return found


def write_classifier(route: Any, index: int, filters: Sequence[Filter], queue_bytes: int) -> None:
    """Replace the filters that are ours by *filters*; queues of *queue_bytes* each, 0 leaves them as they are."""
    for protocol in {one.protocol for one in _filters(route, index)}:
        mark = _MARK + _PROTOCOLS.index(protocol)
        with suppress(NetlinkError):  # went with its HTB meanwhile
            route.tc("del-filter", "u32", index, parent=_HTB, prio=mark, protocol=protocol, target=0, keys=[_ALL])
    for queue in sorted({one.queue for one in filters} | {0}) if queue_bytes else ():
        number = queue + 1
        handle = (_MARK + number) << 16
        route.tc("replace", "bfifo", index, handle=handle, parent=_HTB | number, limit=queue_bytes)
    for one in filters:
        route.tc(
            "add-filter",
            "u32",
            index,
            parent=_HTB,
            prio=_MARK + _PROTOCOLS.index(one.protocol),
            protocol=one.protocol,
            target=_HTB | (one.queue + 1),
            keys=[_key(*key) for key in one.keys] or [_ALL],
        )


def keys_of(selector: bytes) -> tuple[tuple[int, int, int], ...]:
    """The keys of a `Filter` that a u32 selector of the kernel's has: masked bytes in a row are one, in their order."""
    masked: dict[int, tuple[int, int]] = {}
    for number in range(selector[_COUNT_AT]):
        mask, value, at = _KEY.unpack_from(selector, _SELECTOR + number * _KEY.size)
        masked.update((at + i, (value[i], mask[i])) for i in range(len(mask)) if mask[i])
    keys: list[tuple[int, int, int]] = []
    for at, (byte, mask) in sorted(masked.items()):
        if at - 1 in masked:
            before, its_mask, begin = keys.pop()
            keys.append((before << 8 | byte, its_mask << 8 | mask, begin))
        else:
            keys.append((byte, mask, at))
    return tuple(keys)


def _filters(route: Any, index: int) -> tuple[Filter, ...]:
    """Ours, sorted. pyroute2 looks for their keys in the wrong place, so they are decoded here."""
    found = []
    for one in route.get_filters(index=index, parent=_HTB):
        protocol, mark = socket.ntohs(one["info"] & 0xFFFF), one["info"] >> 16
        options = one.get_attr("TCA_OPTIONS")
        if not options or not _MARK <= mark < _MARK + len(_PROTOCOLS):
            continue
        target = options.get_attr("TCA_U32_CLASSID")
        if target:
            selector = options.get_attr("TCA_U32_SEL")
            raw = bytes(selector.data[selector.offset + _ATTRIBUTE : selector.offset + selector.length])
            found.append(Filter(protocol=protocol, queue=(target & 0xFFFF) - 1, keys=keys_of(raw)))
    return tuple(sorted(found))


def _key(value: int, mask: int, at: int) -> str:
    width = 2 if mask <= 0xFF else 4  # pyroute2 takes the size of a match from how its mask is written
    return f"{value:#0{width + 2}x}/{mask:#0{width + 2}x}+{at}"

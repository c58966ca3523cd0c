"""Which of a host's links say something of its switches and networks. Pure.

Theory of operation. Each guest's tap is a link, and each that comes or goes makes the links another reading. What the
pushed objects mean here depends on few of them; while these are the same, nothing of it has to be worked out anew, and
what was compiled for a guest that is about to come still holds (`anticipated`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from hostagent.addresses import interface_of
from hostagent.model import Desired, Link, Observed, Unread
from netmgr.contract.types import VtepAssignment

__all__ = ["telling_links"]


def telling_links(desired: Desired, observed: Observed) -> tuple[Link, ...] | Unread:
    """PNICs that are offered, and what has the address of a VTEP. The same object while they are the same."""
    if isinstance(observed.links, Unread):
        return observed.links
    vteps = desired.host.vteps if desired.host is not None else ()
    asked = (desired.offered_pnics, vteps)
    known = next((one for one in _telling if one.links is observed.links and (one.pnics, one.vteps) == asked), None)
    if known is None:
        addresses = {interface_of(one.address).ip for one in vteps}
        found = tuple(
            link
            for link in observed.links
            if link.name in desired.offered_pnics or any(interface_of(one).ip in addresses for one in link.addresses)
        )
        before = next((one.found for one in _telling if one.found == found), found)
        known = _Telling(links=observed.links, pnics=desired.offered_pnics, vteps=vteps, found=before)
        _telling.appendleft(known)
    return known.found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Telling:
    """What was found among *links*, for these PNICs and VTEPs."""

    links: tuple[Link, ...]
    pnics: tuple[str, ...]
    vteps: tuple[VtepAssignment, ...]
    found: tuple[Link, ...]


_telling: deque[_Telling] = deque(maxlen=2)

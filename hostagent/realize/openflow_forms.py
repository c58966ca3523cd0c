"""The form of a flow: all of it that decides whether the switch takes it. Pure.

Two flows of one form differ in values of which the switch takes any: addresses, registers, port numbers in the ordinary
range. What it has accepted of the one it accepts of the other. All else, and whatever has no name here, is part of the
form: tables, masks or none, values that others depend on (an Ethernet type), and actions as they are. A flow with a
meter has no form: the meter may have gone.
"""

from __future__ import annotations

import re
from typing import Final

from hostagent.flow import Action, Flow, Match, Meter, Output, Raw, SetField

__all__ = ["Form", "form_of"]

Form = tuple[object, ...]

_ANY: Final = re.compile(
    r"metadata|tun_\w+|eth_(src|dst)|(nw|ipv6|tcp|udp)_(src|dst)|arp_[st][ph]a|nd_(target|sll|tll)|x{0,2}reg\d+"
)
"""Fields that may have any value, with any mask."""

_PORTS_END: Final = 0xFF00
"""Numbers from here on are not of ordinary ports."""


def form_of(flow: Flow, *, delete: bool) -> Form | None:
    """The form of *flow* that is to be added, or deleted; None when it has none that says all."""
    conditions = []
    for item in flow.match:
        if not isinstance(item, Match) or (item.mask is not None and item.value & ~item.mask):
            return None
        free = _ANY.fullmatch(item.field) or (item.field == "in_port" and item.mask is None and item.value < _PORTS_END)
        conditions.append((item.field, item.mask is None) if free else (item.field, item.value, item.mask))
    if any(isinstance(action, Raw | Meter) for action in flow.actions):
        return None
    return delete, flow.table, tuple(conditions), tuple(map(_form_of, flow.actions)), flow.extra


def _form_of(action: Action) -> object:
    if isinstance(action, Output) and action.port < _PORTS_END:
        return Output
    if isinstance(action, SetField) and _ANY.fullmatch(action.field):
        return SetField, action.field, action.mask is None
    return action

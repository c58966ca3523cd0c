"""LOCATE: at which VTEPs a MAC of the network is. One row a remote MAC."""

from __future__ import annotations

from functools import lru_cache

from hostagent.flow import Action, Flow, Match, SetField
from hostagent.flow import address_of as to_int
from hostagent.pipeline.tables import MAC_REGISTER, Table, family_of

__all__ = ["locate"]


def locate(key: int, mac: int, holder_vtep: str, incoming_vtep: str, own_vtep: str) -> tuple[Flow, ...]:
    """The row of *mac* on network *key*, if it is at another VTEP than this host's: with its holder, going to another,
    or both. Canonical by hand: there are many."""
    holder = holder_vtep if holder_vtep != own_vtep else ""
    incoming = incoming_vtep if incoming_vtep != own_vtep else ""
    if not (holder or incoming):
        return ()
    assert MAC_REGISTER == "xreg6"
    question = (_network(key), _high(mac >> 32), Match("reg13", mac & 0xFFFFFFFF))
    actions = _places(holder, incoming)
    return (Flow(table=Table.LOCATE, priority=100, cookie=key, match=question, actions=actions),)


@lru_cache(maxsize=4096)
def _network(key: int) -> Match:
    return Match("metadata", key)


@lru_cache(maxsize=4096)  # makers of NICs are fewer than NICs
def _high(number: int) -> Match:
    return Match("reg12", number)


@lru_cache(maxsize=1 << 14)
def _places(holder: str, incoming: str) -> tuple[Action, ...]:
    actions: list[Action] = []
    if holder:
        actions.append(SetField(family_of(holder).holder, to_int(holder)))
    if incoming:
        actions.append(SetField(family_of(incoming).incoming, to_int(incoming)))
    return tuple(actions)

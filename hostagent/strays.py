"""MACs that an uplink bridge believes behind a switch of this host, though their guests are elsewhere now. Pure.

An uplink bridge learns: the first frame that a guest sends from its new host moves its MAC there. Not so where several
PNICs are balanced without LACP (Open vSwitch's balance-slb): what comes in by the bond from a MAC that was learned
inside is taken for a reflection of its own broadcast and dropped, but for gratuitous ARP, and QEMU announces guests by
RARP. So a guest that left would be cut off from those it left behind, for the 300 s that a MAC is remembered. There the
agent has the bridge forget a MAC as soon as its guest is paused for its move, or its port is another host's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from hostagent.model import Desired, Observed, Phase, Unread
from hostagent.names import trunk_port
from hostagent.resolve import SwitchIntent, resolve
from netmgr.contract.types import OpaqueNetwork, Teaming

__all__ = ["Stray", "believed", "strays"]

_ENTRY = re.compile(r"\s*(\d+)\s+(\d+)\s+([0-9a-f:]{17})\s+\d+\s*\Z")


class Stray(NamedTuple):
    """A MAC that is not to be believed at a port of an uplink bridge."""

    bridge: str
    port: str
    ofport: int
    vlan: int
    mac: str


def strays(desired: Desired, observed: Observed) -> frozenset[Stray]:
    """All of this host; empty, at no cost, where nothing is on a VLAN."""
    on_vlans = any(not network.type.tunneled for network in desired.networks.values())
    if not on_vlans or isinstance(observed.bridges, Unread) or desired.host is None:
        return frozenset()
    balanced = [intent for intent in resolve(desired, observed).switches.values() if _is_balanced(intent)]
    numbers = {
        one.name: one.ofport or 0 for bridge in observed.bridges for port in bridge.ports for one in port.interfaces
    }
    return frozenset(
        Stray(intent.uplink, name, numbers[name], network.segment_id, mac)
        for intent in balanced
        for name in [trunk_port(intent.switch.uuid)]
        for network in intent.networks
        if not network.type.tunneled and numbers.get(name, 0) > 0
        for mac in _macs_elsewhere(desired, network)
    )


def believed(text: str) -> frozenset[tuple[int, int, str]]:
    """Port number, VLAN and MAC of what was learned, in the words of `ovs-appctl fdb/show`; LOCAL is left out."""
    found = (_ENTRY.match(line) for line in text.splitlines())
    return frozenset((int(entry[1]), int(entry[2]), entry[3]) for entry in found if entry)


def _is_balanced(intent: SwitchIntent) -> bool:
    return bool(
        intent.vlans and len(intent.pnics) > 1 and intent.switch.teaming is Teaming.BALANCE and not intent.blocked
    )


def _macs_elsewhere(desired: Desired, network: OpaqueNetwork) -> Iterator[str]:
    assert desired.host is not None
    for uuid, location in desired.locations.items():
        if location.network_uuid != network.uuid or not location.mac or location.holder_host is None:
            continue
        phase = desired.phases.get(uuid, Phase.STEADY)
        here = location.holder_host == desired.host.uuid
        if phase is Phase.REDIRECTING or (not here and phase is not Phase.ACTIVATED):
            yield location.mac
            port, learned = desired.ports.get(uuid), desired.learned.get(uuid)
            yield from (one.mac for one in (port.nested if port is not None else ()))
            yield from (one.mac for one in (learned.macs if learned is not None else ()))

"""Networks on a VLAN of the switch's uplink: what differs from those in tunnels. And tags of sub-ports, on taps.

The physical network delivers. A frame leaves as one copy with the network's VLAN, by the patch port to the uplink
bridge, and physical switches take it where they have learned its MAC to be; one that comes in may be of another host's
VIF or of any machine on that VLAN, of which nobody tells us. So:

- What is believed of the uplink: every source but a port that is lit on this host, for which nobody else speaks. That
  is also the end of a loop in the physical network: what comes back to where it was sent from is dropped.
- What came from the uplink never goes back to it: SEND knows frames of VIFs only.
- MACs of VIFs are known and need no learning, so a unicast frame that is for none of this host goes to the uplink, not
  to taps; one that came from the uplink ends in SEND. Remote ports cost no flow here but those of their addresses, and
  one in RIVAL: who uses another port's MAC is told of, wherever that is.
- The tag is of the wire: put on in the last step, taken off in the first. A frame with a tag within it is dropped: no
  guest may send one, and none should get one.

Migrations. Where a guest is, physical switches and the uplink bridges of all hosts learn from its first frame there
(QEMU's RARP). The source can't send on what arrives meanwhile, for a physical switch does not send a frame back to
where it came from: what is not delivered in those milliseconds is lost. Where an uplink bridge would not learn, the
agent helps (`hostagent.strays`).

    phase here    frames for the MAC from a VIF      from the uplink    frames of the MAC from the uplink
    STEADY        tap                                tap                dropped
    REDIRECTING   uplink                             dropped            as any other's
    RELAYING      uplink                             dropped            as any other's
    INCOMING      uplink                             dropped            as any other's
    ACTIVATED     tap                                tap                dropped
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hostagent.flow import Action, Drop, Flow, Goto, Match, Output, PopVlan, PushVlan, SetField, canonical
from hostagent.pipeline.tables import FROM_VIF, Origin, Table

__all__ = ["Trunk", "detour_flow", "frames_of_others", "subport_flows", "tagged", "trunk_flows"]

_TAG_PRESENT, _VLAN = 0x1000, 0xFFF  # a tag's priority may be any


@dataclass(frozen=True, slots=True, kw_only=True)
class Trunk:
    """How a network leaves the bridge by VLAN."""

    patch: int  # ofport of the patch port to the uplink bridge
    vlan: int  # 1 to 4094


def trunk_flows(key: int, trunk: Trunk) -> Iterator[Flow]:
    """In and out of network *key*, whatever its ports."""
    tag = Match("vlan_tci", _TAG_PRESENT | trunk.vlan)
    enter = (SetField("metadata", key), PopVlan(), Goto(Table.UPLINK))
    network = Match("metadata", key)
    yield _row(Table.CLASSIFY, 100, key, (Match("in_port", trunk.patch), tag), enter)
    yield _row(Table.UPLINK, 50, key, (network,), (SetField("reg0", Origin.UPLINK), Goto(Table.LEASES)))
    yield _row(Table.FORWARD, 20, key, (network,), (Goto(Table.SEND),))
    yield _row(Table.SEND, 100, key, (network, FROM_VIF), tagged(trunk))


def subport_flows(tap: int, *, tag: int, end: int, limit: tuple[Action, ...], cookie: int) -> Iterator[Flow]:
    """CLASSIFY: frames with *tag* out of *tap* lose it and go to *end*, one of a patch whose other end is like a tap
    (`hostagent.subports`); what comes out of *end* goes to the tap with the tag. *limit* is the tap's.

    A second tag is there after the first: the other end's guard drops it, as every tag. Tags that are no sub-port's go
    the way of untagged frames, to the guard of the port itself.
    """
    out_of_tap = (Match("in_port", tap), Match("vlan_tci", _TAG_PRESENT | tag, _TAG_PRESENT | _VLAN))
    yield _row(Table.CLASSIFY, 110, cookie, out_of_tap, (*limit, PopVlan(), Output(end)))
    to_tap = (PushVlan(), SetField("vlan_tci", _TAG_PRESENT | tag), Output(tap))
    yield _row(Table.CLASSIFY, 110, cookie, (Match("in_port", end),), to_tap)


def tagged(trunk: Trunk) -> tuple[Action, ...]:
    """A copy to the uplink; what comes after it sees the tag, so it is the last."""
    return (PushVlan(), SetField("vlan_tci", _TAG_PRESENT | trunk.vlan), Output(trunk.patch))


def frames_of_others(key: int, mac: int) -> Flow:
    """UPLINK: nobody else speaks for *mac*, which is lit here."""
    return _row(Table.UPLINK, 100, key, (Match("metadata", key), Match("eth_src", mac)), Drop)


def detour_flow(key: int, mac: int) -> Flow:
    """FORWARD: the guest of *mac* is elsewhere, though its tap or its location is here."""
    return _row(Table.FORWARD, 110, key, (Match("metadata", key), Match("eth_dst", mac)), (Goto(Table.SEND),))


def _row(table: Table, priority: int, cookie: int, conditions: tuple[Match, ...], actions: tuple[Action, ...]) -> Flow:
    return Flow(table=table, priority=priority, cookie=cookie, match=canonical(conditions), actions=actions)

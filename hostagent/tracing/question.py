"""The frame of a trace question in Open vSwitch's words, and the switch's answer in the contract's. Pure.

A frame comes out of a VIF, out of a tunnel, or tagged from the uplink. How it leaves is told by the port: a VIF's tap,
the tunnel port with the VTEP that was set, the patch to the uplink bridge, or the port it came from (the pipeline's own
answers to ARP). A frame that left by no port was
dropped by the last flow on its way, for the reason that `hostagent drops` counts it under.

The fields of a frame come from the manager's operator; they are read as values before a word of them is written, so
that no text of theirs reaches the switch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from uuid import UUID

from hostagent.flow import Flow, Match, mac_to_int, value_text
from hostagent.flow_words import table_name
from hostagent.pipeline.drops import reason_of
from hostagent.pipeline.tables import REASON, Table
from hostagent.tracing.text import IN_PORT, Exit, Met, Parsed
from netmgr.contract.types import TraceEnd, TraceEndKind, TraceFrame, TraceProtocol, TraceStep

__all__ = ["Entry", "Ports", "TraceError", "describe", "flow_of"]

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")
_NO_ROUTE = "native tunnel routing failed"
_NO_NEIGHBOUR = "neighbor cache miss"


class TraceError(ValueError):
    """The question does not fit; the message is the sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Where the frame enters: a port, for a tunnel its outer addresses and key, for the uplink its VLAN."""

    ofport: int
    tun_src: str = ""  # empty: out of a VIF
    tun_dst: str = ""
    tun_id: int = 0
    vlan: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The ports of the bridge by number."""

    names: Mapping[int, str] = field(default_factory=dict)
    vifs: Mapping[int, UUID] = field(default_factory=dict)
    tunnels: frozenset[int] = frozenset()
    answered_s: Mapping[str, float] = field(default_factory=dict)  # by VTEP: since its last answer to a probe
    patch: int = 0  # to the uplink bridge


def flow_of(frame: TraceFrame, entry: Entry) -> str:
    """The argument of `ofproto/trace`.

    Raises:
        TraceError: a field of the frame is no MAC, address or port.
    """
    source, destination = _address(frame.ip_src), _address(frame.ip_dst)
    if source.version != destination.version:
        raise TraceError(f"a frame from {source} to {destination}: both must be IPv4, or both IPv6")
    six = source.version == 6
    words = [f"in_port={entry.ofport}", *_outer(entry)]
    words += [f"dl_src={_mac(frame.eth_src)}", f"dl_dst={_mac(frame.eth_dst)}"]
    addresses = (
        [f"ipv6_src={source}", f"ipv6_dst={destination}"] if six else [f"nw_src={source}", f"nw_dst={destination}"]
    )
    if frame.protocol is TraceProtocol.ARP:
        if six:
            raise TraceError(f"ARP asks for IPv4 addresses, and {destination} is none; trace icmp instead")
        words += ["arp", "arp_op=1", f"arp_sha={frame.eth_src}", f"arp_spa={source}", f"arp_tpa={destination}"]
    elif frame.protocol is TraceProtocol.ICMP:
        words += ["icmp6" if six else "icmp", *addresses, "nw_ttl=64", f"icmp{'v6' * six}_type={128 if six else 8}"]
    else:
        kind = frame.protocol.value
        words += [kind + "6" * six, *addresses, "nw_ttl=64"]
        words += [f"{kind}_src={_port(frame.source_port)}", f"{kind}_dst={_port(frame.destination_port)}"]
        words += ["tcp_flags=0x002"] if kind == "tcp" else []
    return ",".join(words)


def describe(parsed: Parsed, entry: Entry, ports: Ports) -> tuple[tuple[TraceStep, ...], tuple[TraceEnd, ...]]:
    """The flows that the frame met, and every copy of it; one that left nowhere is one that was dropped."""
    steps = tuple(
        TraceStep(
            table=table_name(one.table),
            priority=one.priority,
            match=_named(one.match, ports),
            actions=tuple(_named(action, ports) for action in one.actions),
            depth=one.depth,
        )
        for one in parsed.met
    )
    # out of a sub-port's patch the frame goes on to its parent's tap, and CLASSIFY sends nothing else anywhere
    ends = tuple(_end(one, entry, ports) for one in parsed.exits if one.table != Table.CLASSIFY)
    if not ends and parsed.way:
        ends = (_dropped(parsed.way),)
    return steps, ends


# --- the question -------------------------------------------------------------------------------------------------


def _outer(entry: Entry) -> Iterator[str]:
    if entry.tun_src:
        infix = "ipv6_" if ":" in entry.tun_src else ""
        yield f"tun_{infix}src={_address(entry.tun_src)}"
        yield f"tun_{infix}dst={_address(entry.tun_dst)}"
        yield f"tun_id={entry.tun_id:#x}"
    if entry.vlan:
        yield f"dl_vlan={entry.vlan}"


def _address(text: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(text)
    except ValueError:
        raise TraceError(f"{text[:60]!r} is no address") from None


def _mac(text: str) -> str:
    if not _MAC.match(text):
        raise TraceError(f"{text[:40]!r} is no MAC in lower case with colons")
    return value_text("eth_src", mac_to_int(text))


def _port(number: int) -> int:
    if not 0 <= number <= 0xFFFF:
        raise TraceError(f"{number} is no port of TCP or UDP; they are 0 to 65535")
    return number


# --- the answer ---------------------------------------------------------------------------------------------------


def _end(one: Exit, entry: Entry, ports: Ports) -> TraceEnd:
    ofport = entry.ofport if one.ofport == IN_PORT else one.ofport
    name = ports.names.get(ofport, str(ofport))
    if ofport in ports.tunnels:
        failed = next((remark for remark in one.remarks if _NO_ROUTE in remark), "")
        if failed:
            reason = f"no route to VTEP {one.tun_dst}: {failed}"
            return TraceEnd(kind=TraceEndKind.DROPPED, ovs_port=name, vtep=one.tun_dst, table="SEND", reason=reason)
        unknown = any(_NO_NEIGHBOUR in remark for remark in one.remarks)
        answered_s = ports.answered_s.get(one.tun_dst)
        reason = f"it has answered a probe {answered_s:.1f} s ago" if answered_s is not None else ""
        if unknown:
            way = "neighbour discovery" if ":" in one.tun_dst else "ARP"
            reason = f"VTEP {one.tun_dst} is not resolved: the switch asks by {way}, and loses this frame"
        return TraceEnd(kind=TraceEndKind.TUNNEL, ovs_port=name, vtep=one.tun_dst, reason=reason)
    if ofport == ports.patch:
        return TraceEnd(kind=TraceEndKind.UPLINK, ovs_port=name)
    if one.ofport == IN_PORT:
        return TraceEnd(kind=TraceEndKind.ANSWERED, ovs_port=name, vif_uuid=ports.vifs.get(ofport))
    if ofport in ports.vifs:
        return TraceEnd(kind=TraceEndKind.VIF, ovs_port=name, vif_uuid=ports.vifs[ofport])
    return TraceEnd(kind=TraceEndKind.PORT, ovs_port=name)


def _dropped(way: tuple[Met, ...]) -> TraceEnd:
    """DROPPED only counts, and RIVAL copies: the table that sent the frame there is the one that decided."""
    last = way[-1]
    why = re.search(rf"\b{REASON}=(0x[0-9a-f]+|\d+)(?:,|\Z)", last.match)
    conditions = (Match(REASON, int(why[1], 0)),) if why and last.table == Table.DROPPED else ()
    reason = reason_of(Flow(table=last.table, priority=last.priority, cookie=0, match=conditions))
    decided = next((one for one in reversed(way) if one.table not in (Table.DROPPED, Table.RIVAL)), last)
    return TraceEnd(kind=TraceEndKind.DROPPED, table=table_name(decided.table), reason=reason)


def _named(text: str, ports: Ports) -> str:
    """*text* with names for port numbers, and for tables."""

    def port(found: re.Match[str]) -> str:
        number = int(found[2])
        return found[1] + ports.names.get(number, found[2])

    text = re.sub(r"\b(in_port=|output:)(\d+)", port, text)
    return re.sub(
        r"(goto_table:|resubmit\(,|\bct\(.*?\btable=)(\d+)", lambda found: found[1] + table_name(int(found[2])), text
    )

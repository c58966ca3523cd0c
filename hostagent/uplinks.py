"""Uplink bridges: PNICs in, VTEP addresses on top.

An uplink bridge is a plain learning switch that holds a set of PNICs; its LOCAL port carries the VTEP address of each
switch that uses the set (userspace tunnels need exactly that). The PNIC was given to us at join, so its link is ours to
bring up; its MTU is the operator's. LOCAL's MTU is ours: the largest that a switch on it asks for.

Addresses on LOCAL are removed only if the bridge's own record says that we put them there: an operator may have added
one. The record is written before the address, and cleaned after it, so that an agent that dies in between still knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hostagent.addresses import interface_of
from hostagent.model import (
    AddAddress,
    Bridge,
    Interface,
    Link,
    Observed,
    OvsPort,
    PutBridge,
    PutPort,
    RemoveAddress,
    RemoveBridge,
    SetLink,
    Step,
    Unread,
)
from hostagent.names import ADDRESSES_KEY, OWNER, PNICS_KEY, bond_port, is_ours
from hostagent.resolve import Resolved

__all__ = ["bridge_step", "remove_uplinks", "uplink_steps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Uplink:
    name: str
    pnics: tuple[str, ...]
    mtu: int
    addresses: tuple[str, ...]  # CIDRs, sorted


def remove_uplinks(resolved: Resolved, own: Mapping[str, Bridge], observed: Observed) -> Iterator[Step]:
    """Uplink bridges that no switch has any more, unless somebody else's port is on them.

    A blocked switch holds on to whatever uplink its PNICs are in now.
    """
    if isinstance(observed.links, Unread):
        return
    wanted = {intent.uplink for intent in resolved.switches.values()}
    frozen = {pnic for intent in resolved.switches.values() if intent.blocked for pnic in intent.pnics}
    stuck = any(intent.blocked and not intent.pnics for intent in resolved.switches.values())
    for name, bridge in sorted(own.items()):
        if PNICS_KEY not in bridge.external_ids or name in wanted or stuck:
            continue
        strangers = [port for port in bridge.ports if port.name != name and not is_ours(port.external_ids)]
        if not strangers and not frozen & set(bridge.external_ids[PNICS_KEY].split(",")):
            yield RemoveBridge(name=name)


def uplink_steps(resolved: Resolved, own: Mapping[str, Bridge], observed: Observed, datapath: str) -> Iterator[Step]:
    """Bridges, PNICs, links and addresses of the uplinks of all switches that are not blocked."""
    if isinstance(observed.links, Unread):
        return
    links = {link.name: link for link in observed.links}
    for uplink in _uplinks(resolved):
        bridge = own.get(uplink.name)
        yield from _bridge_and_addresses(uplink, bridge, links, datapath)


def bridge_step(
    name: str, found: Bridge | None, datapath: str, fail_mode: str, marks: Mapping[str, str]
) -> Iterator[Step]:
    """The step that makes or mends a bridge of ours, if one is needed; other settings of it are left alone."""
    if (
        found is None
        or (found.datapath_type or "system") != datapath
        or found.fail_mode != fail_mode
        or any(found.external_ids.get(key) != value for key, value in marks.items())
    ):
        yield PutBridge(
            name=name, datapath_type=datapath, fail_mode=fail_mode, external_ids=dict(marks), other_config={}
        )


def _uplinks(resolved: Resolved) -> list[_Uplink]:
    by_name: dict[str, list[tuple[tuple[str, ...], int, str]]] = {}
    for intent in resolved.switches.values():
        if intent.uplink and not intent.blocked:
            by_name.setdefault(intent.uplink, []).append((intent.pnics, intent.switch.mtu, intent.vtep))
    return [
        _Uplink(
            name=name,
            pnics=users[0][0],
            mtu=max(mtu for _, mtu, _ in users),
            addresses=tuple(sorted({vtep for _, _, vtep in users if vtep})),
        )
        for name, users in sorted(by_name.items())
    ]


def _bridge_and_addresses(
    uplink: _Uplink, bridge: Bridge | None, links: Mapping[str, Link], datapath: str
) -> Iterator[Step]:
    local = links.get(uplink.name)
    there = {_normal(address) for address in local.addresses} if local is not None else set()
    recorded = {one for one in (bridge.external_ids.get(ADDRESSES_KEY, "") if bridge else "").split(",") if one}
    stale = sorted(one for one in recorded - set(uplink.addresses) if _normal(one) in there)
    marks = {**OWNER, PNICS_KEY: ",".join(uplink.pnics)}
    before = {**marks, ADDRESSES_KEY: ",".join(sorted({*uplink.addresses, *stale}))}
    after = {**marks, ADDRESSES_KEY: ",".join(uplink.addresses)}
    yield from bridge_step(uplink.name, bridge, datapath, "standalone", before)
    yield from _ports(uplink, bridge)
    for name in (*uplink.pnics, uplink.name):
        link = links.get(name)
        if link is None or not link.admin_up:
            yield SetLink(name=name)
    for address in stale:
        yield RemoveAddress(link=uplink.name, address=address)
    for address in uplink.addresses:
        if _normal(address) not in there:
            yield AddAddress(link=uplink.name, address=address)
    if after != before:
        yield PutBridge(
            name=uplink.name, datapath_type=datapath, fail_mode="standalone", external_ids=after, other_config={}
        )


def _ports(uplink: _Uplink, bridge: Bridge | None) -> Iterator[Step]:
    ports = {port.name: port for port in bridge.ports} if bridge is not None else {}
    bonded = len(uplink.pnics) > 1
    name = bond_port(uplink.pnics) if bonded else uplink.pnics[0]
    mode = "active-backup" if bonded else ""
    found = ports.get(name)
    if found is None or not _holds(found, uplink.pnics) or (found.bond_mode or "") != mode:
        interfaces = tuple(Interface(name=pnic, external_ids=OWNER) for pnic in uplink.pnics)
        yield PutPort(bridge=uplink.name, name=name, interfaces=interfaces, external_ids=OWNER, bond_mode=mode)
    local = ports.get(uplink.name)
    if local is None or any(one.mtu_request != uplink.mtu for one in local.interfaces):
        interface = Interface(name=uplink.name, type="internal", mtu_request=uplink.mtu)
        yield PutPort(bridge=uplink.name, name=uplink.name, interfaces=(interface,), external_ids={})


def _holds(port: OvsPort, pnics: tuple[str, ...]) -> bool:
    return is_ours(port.external_ids) and tuple(sorted(one.name for one in port.interfaces)) == pnics


def _normal(address: str) -> str:
    return str(interface_of(address))

"""Uplink bridges: PNICs in, VTEP addresses on top.

An uplink bridge is a plain learning switch that holds a set of PNICs; its LOCAL port carries the VTEP address of each
switch that uses the set (userspace tunnels need exactly that). The PNIC was given to us at join, so its link is ours to
bring up; its MTU is the operator's. LOCAL's MTU is ours: the largest that a switch on it asks for. Open vSwitch gives
such a bridge its one flow, and does not give it back when it was deleted (`uplink_flows`).

A switch with networks on VLANs is patched to it by a trunk of exactly these VLANs, so that nothing else of the physical
network gets in. LOCAL, where tunnels end, is in no VLAN: whoever is on one, guests too, must not be heard there. Open
vSwitch in user space believes any ARP answer that it carries to LOCAL, tagged or not, and would send tunnels to its
MAC. What VLANs others have said of LOCAL, and what VLANs other ports of the bridge carry, is not ours to change.

Several PNICs are one bond, which asks nothing of the physical switch unless its teaming is LACP: balance-slb spreads
source MACs, so the tunnels of one VTEP use one PNIC at a time; LACP with balance-tcp spreads flows. While LACP has no
partner such a bond works as active-backup, so a physical switch that is not set up costs bandwidth, not the host. Open
vSwitch takes 3 s to find that out, and then offers LACP every 30 s.

Linux answers ARP for any address of its own on any interface, with that interface's MAC (arp_ignore, ip-sysctl). A
PNIC in a userspace bridge is such an interface still, and so is another uplink's LOCAL on the same segment: a peer
would send tunnels to a MAC where no tunnel ends. So our uplinks and their PNICs answer for what they carry themselves;
a stricter setting stays.

Addresses on LOCAL are removed only if the bridge's own record says that we put them there: an operator may have added
one. The record is written before the address, and cleaned after it, so that an agent that dies in between still knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from hostagent.addresses import interface_of
from hostagent.model import (
    AddAddress,
    Bridge,
    Interface,
    Link,
    Observed,
    OvsPort,
    PutBridge,
    PutNormal,
    PutPort,
    RemoveAddress,
    RemoveBridge,
    RemovePort,
    SetArpIgnore,
    SetLink,
    Step,
    Unread,
)
from hostagent.names import ADDRESSES_KEY, OWNER, PNICS_KEY, bond_port, is_ours, patch_port, trunk_port
from hostagent.resolve import Resolved, SwitchIntent
from netmgr.contract.types import Teaming

__all__ = ["bridge_step", "patch_to", "remove_trunks", "remove_uplinks", "uplink_steps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bonding:
    """How Open vSwitch is told a teaming: columns of Port."""

    mode: str = ""
    lacp: str = ""
    other_config: Mapping[str, str] = field(default_factory=dict)


_BONDINGS = {
    Teaming.ACTIVE_BACKUP: _Bonding(mode="active-backup"),
    Teaming.BALANCE: _Bonding(mode="balance-slb"),
    Teaming.LACP: _Bonding(
        mode="balance-tcp", lacp="active", other_config={"lacp-fallback-ab": "true", "lacp-time": "fast"}
    ),
}


_PATCH = "patch"
_UNTAGGED = 0  # as `tag` of a port: what has no tag, and nothing else
_ANY_ADDRESS, _OWN_ADDRESSES = 0, 1  # values of arp_ignore


@dataclass(frozen=True, slots=True, kw_only=True)
class _Uplink:
    """An uplink bridge as it should be."""

    name: str
    pnics: tuple[str, ...]
    bonding: _Bonding
    mtu: int
    addresses: tuple[str, ...]  # CIDRs, sorted
    frozen: frozenset[str]  # CIDRs of blocked switches: left as they are
    trunks: tuple[PutPort, ...]  # to the switches with networks on VLANs


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


def remove_trunks(resolved: Resolved, own: Mapping[str, Bridge]) -> Iterator[Step]:
    """Trunks of ours that no switch has any more; those of a blocked switch stay, wherever they are."""
    wanted = {
        trunk_port(intent.switch.uuid): "" if intent.blocked else intent.uplink
        for intent in resolved.switches.values()
        if intent.blocked or intent.vlans
    }
    for name, bridge in sorted(own.items()):
        for port in bridge.ports if PNICS_KEY in bridge.external_ids else ():
            ours = is_ours(port.external_ids) and any(one.type == _PATCH for one in port.interfaces)
            if ours and wanted.get(port.name, "nowhere") not in (name, ""):
                yield RemovePort(bridge=name, name=port.name)


def patch_to(peer: str, *, bridge: str, name: str, trunks: tuple[int, ...] = ()) -> PutPort:
    """One end of a patch between two bridges of ours; its other end is port *peer*."""
    end = Interface(name=name, type=_PATCH, options={"peer": peer}, external_ids=OWNER)
    return PutPort(bridge=bridge, name=name, interfaces=(end,), external_ids=OWNER, trunks=trunks)


def uplink_steps(resolved: Resolved, own: Mapping[str, Bridge], observed: Observed, datapath: str) -> Iterator[Step]:
    """Bridges, PNICs, links and addresses of the uplinks of all switches that are not blocked."""
    if isinstance(observed.links, Unread):
        return
    links = {link.name: link for link in observed.links}
    for uplink in _uplinks(resolved):
        bridge = own.get(uplink.name)
        yield from _bridge_and_addresses(uplink, bridge, links, datapath)
        if bridge is not None and uplink.name in observed.silent_uplinks:
            yield PutNormal(bridge=uplink.name)


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
    by_name: dict[str, list[SwitchIntent]] = {}
    frozen: dict[str, set[str]] = {}
    for intent in resolved.switches.values():
        if intent.uplink and intent.blocked:
            frozen.setdefault(intent.uplink, set()).add(intent.vtep)
        elif intent.uplink:
            by_name.setdefault(intent.uplink, []).append(intent)
    return [
        _Uplink(
            name=name,
            pnics=users[0].pnics,
            bonding=_BONDINGS[users[0].switch.teaming] if len(users[0].pnics) > 1 else _Bonding(),
            mtu=max(user.switch.mtu for user in users),
            addresses=tuple(sorted({user.vtep for user in users if user.vtep})),
            frozen=frozenset(frozen.get(name, ())),
            trunks=tuple(
                patch_to(patch_port(uuid), bridge=name, name=trunk_port(uuid), trunks=user.vlans)
                for user in users
                for uuid in [user.switch.uuid]
                if user.vlans
            ),
        )
        for name, users in sorted(by_name.items())
    ]


def _bridge_and_addresses(
    uplink: _Uplink, bridge: Bridge | None, links: Mapping[str, Link], datapath: str
) -> Iterator[Step]:
    local = links.get(uplink.name)
    there = {_normal(address) for address in local.addresses} if local is not None else set()
    recorded = {one for one in (bridge.external_ids.get(ADDRESSES_KEY, "") if bridge else "").split(",") if one}
    kept = {*uplink.addresses, *(recorded & uplink.frozen)}
    stale = sorted(one for one in recorded - kept if _normal(one) in there)
    marks = {**OWNER, PNICS_KEY: ",".join(uplink.pnics)}
    before = {**marks, ADDRESSES_KEY: ",".join(sorted({*kept, *stale}))}
    after = {**marks, ADDRESSES_KEY: ",".join(sorted(kept))}
    yield from bridge_step(uplink.name, bridge, datapath, "standalone", before)
    yield from _ports(uplink, bridge)
    for name in (*uplink.pnics, uplink.name):
        link = links.get(name)
        if link is None or not link.admin_up:
            yield SetLink(name=name)
        if link is None or link.arp_ignore == _ANY_ADDRESS:
            yield SetArpIgnore(link=name, arp_ignore=_OWN_ADDRESSES)
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
    name = bond_port(uplink.pnics) if len(uplink.pnics) > 1 else uplink.pnics[0]
    bonding = uplink.bonding
    found = ports.get(name)
    if found is None or not _holds(found, uplink.pnics) or not _bonds(found, bonding):
        yield PutPort(
            bridge=uplink.name,
            name=name,
            interfaces=tuple(Interface(name=pnic, external_ids=OWNER) for pnic in uplink.pnics),
            external_ids=OWNER,
            bond_mode=bonding.mode,
            lacp=bonding.lacp,
            other_config=bonding.other_config,
        )
    for trunk in uplink.trunks:
        if not _is_patched(trunk, ports.get(trunk.name)):
            yield trunk
    local = ports.get(uplink.name)
    open_to_all = local is None or (local.tag, local.vlan_mode, local.trunks) == (None, "", ())
    if open_to_all or local is None or any(one.mtu_request != uplink.mtu for one in local.interfaces):
        interface = Interface(name=uplink.name, type="internal", mtu_request=uplink.mtu)
        tag = _UNTAGGED if open_to_all else None
        yield PutPort(bridge=uplink.name, name=uplink.name, interfaces=(interface,), external_ids={}, tag=tag)


def _is_patched(wanted: PutPort, found: OvsPort | None) -> bool:
    if found is None or len(found.interfaces) != 1 or not is_ours(found.external_ids):
        return False
    one, other = wanted.interfaces[0], found.interfaces[0]
    same = (other.type, dict(other.options)) == (one.type, dict(one.options)) and is_ours(other.external_ids)
    return same and (found.vlan_mode, found.trunks) == ("trunk", wanted.trunks)


def _holds(port: OvsPort, pnics: tuple[str, ...]) -> bool:
    return is_ours(port.external_ids) and tuple(sorted(one.name for one in port.interfaces)) == pnics


def _bonds(port: OvsPort, bonding: _Bonding) -> bool:
    """Whether it is bonded so; keys of other_config that a teaming does not speak of are the operator's."""
    kept = all(port.other_config.get(key) == value for key, value in bonding.other_config.items())
    return (port.bond_mode, port.lacp) == (bonding.mode, bonding.lacp) and kept


@lru_cache(maxsize=1024)  # each link's, in each turn
def _normal(address: str) -> str:
    return str(interface_of(address))

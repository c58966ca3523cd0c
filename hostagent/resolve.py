"""What the pushed objects mean on this very host: bridges, PNICs, addresses, tunnels, and what cannot be.

Theory of operation. `plan`, `flows` and `health` must agree on every choice that the definition leaves to the host, so
the choices are made here, once, as a pure function of what is wanted and what was read:

- A switch is carried when the manager pushed it. Its PNICs are those offered at join whose names match its globs: the
  first by name where teaming is single, all where it is a bond. The choice looks at names only, so that a PNIC that
  fails does not silently make room for another.
- Switches with the same PNICs share one uplink bridge. A PNIC can be in one bridge only, so of two switches that want
  it in different sets, or in one set teamed differently, the one with the lower UUID has it, and the other is rejected.
- A *blocked* switch is frozen: nothing of it is made and nothing of it is removed, and the flows of what exists are
  kept up. What works is not torn down because a cable was pulled.
- An *excluded* network has no flows (another one has its segment). An *undefined* network is not given to libvirt.
- Of two networks that want one segment the one in use stays: what works is not taken down by a newcomer. It is in use
  if libvirt has it, if the trunk to its uplink carries its VLAN, or if it has flows (while a port of it is known), in
  this order; what was not read says nothing. Where neither or both are in use, the one with the lower UUID stays.

Problems are sentences: the object, what was wanted, what was found, what to do.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import chain
from operator import is_
from typing import Final
from uuid import UUID

from hostagent.addresses import interface_of
from hostagent.flow_set import flow_set
from hostagent.model import Bridge, Desired, LibvirtNetwork, Link, Observed, OvsPort, Unread
from hostagent.names import (
    exit_port,
    is_ours,
    is_uplink_bridge,
    network_key,
    switch_bridge,
    trunk_port,
    uplink_bridge,
)
from hostagent.telling_links import telling_links
from hostagent.underlay.path_fit import Fit, by_tunnel, fit, overhead, paths_of, peer_names
from netmgr.contract.types import Kind, NetworkType, OpaqueNetwork, OpaqueSwitch, Ref, Teaming

__all__ = ["Resolved", "SwitchIntent", "claims_of", "definition_problems", "resolve", "tunnel_key"]


_Claim = tuple[UUID | str, NetworkType, int] | int  # what one network at a time can have
_ByRank = list[tuple[OpaqueNetwork, tuple[_Claim, ...]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchIntent:
    """One switch on this host."""

    switch: OpaqueSwitch
    bridge: str
    vtep: str  # CIDR; empty while none is assigned
    pnics: tuple[str, ...]  # sorted; empty while none fits
    uplink: str  # bridge of the PNICs; empty without them
    networks: tuple[OpaqueNetwork, ...]  # by UUID, without those excluded
    cut: Mapping[NetworkType, frozenset[str]] = field(default_factory=dict)  # VTEPs that nothing is sent to
    blocked: tuple[str, ...] = ()  # why it cannot be realized as wanted
    foreign: bool = False  # a bridge of its name exists and is not ours: hands off

    @property
    def vtep_address(self) -> str:
        """The VTEP without prefix length; empty while none is assigned."""
        return self.vtep.partition("/")[0]

    @property
    def types(self) -> tuple[NetworkType, ...]:
        """Tunnel types in use."""
        return tuple(sorted({network.type for network in self.networks if network.type.tunneled}))

    @property
    def exits(self) -> dict[NetworkType, str]:
        """By type of its networks: the port by which they leave its bridge."""
        return {kind: exit_port(kind, self.switch.uuid) for kind in {network.type for network in self.networks}}

    @property
    def vlans(self) -> tuple[int, ...]:
        """VLANs of its networks on the uplink, sorted."""
        return tuple(sorted(network.segment_id for network in self.networks if not network.type.tunneled))


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """All switches of this host, and all that cannot be realized."""

    switches: Mapping[UUID, SwitchIntent]
    undefined: frozenset[UUID]  # networks that libvirt must not be given
    fits: Mapping[UUID, Fit]  # whether the underlay passes a network's packets, as far as there is something to say
    rejections: tuple[tuple[Ref, str], ...]


def resolve(desired: Desired, observed: Observed) -> Resolved:
    """What *desired* means on the host that *observed* shows.

    Several ask in each turn of the loop: what was resolved is remembered with what was looked at, which is as it was if
    it is the same object. That memory changes no answer.
    """
    looked_at, in_use = _looked_at(desired, observed), _in_use(observed)
    foreign = _foreign_networks(observed)
    for known in _memory:
        if _same(known.looked_at, looked_at) and known.foreign == foreign and _same(known.in_use or in_use, in_use):
            return known.resolved
    by_rank, contested = _by_seniority(desired, observed)
    resolved = _resolve(desired, observed, by_rank, foreign)
    _memory.appendleft(
        _Known(looked_at=looked_at, foreign=foreign, in_use=in_use if contested else None, resolved=resolved)
    )
    return resolved


_Foreign = Mapping[UUID | str, Sequence[LibvirtNetwork]]  # libvirt's networks that are not ours, by UUID and by name
_Objects = tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What was resolved, and from what; None for *in_use* where no two networks want the same."""

    looked_at: _Objects
    foreign: _Foreign
    in_use: _Objects | None
    resolved: Resolved


_memory: deque[_Known] = deque(maxlen=4)


def _looked_at(desired: Desired, observed: Observed) -> _Objects:
    """All that `_resolve` looks at, but for libvirt's networks."""
    wanted = (desired.host, desired.switches, desired.networks, desired.offered_pnics)
    return (*wanted, observed.bridges, telling_links(desired, observed), observed.paths)


def _in_use(observed: Observed) -> _Objects:
    """What tells, beside the bridges, whether a network is in use."""
    return (observed.libvirt_networks, *chain.from_iterable(observed.flows.items()))


def _same(some: _Objects, others: _Objects) -> bool:
    return len(some) == len(others) and all(map(is_, some, others))


def _resolve(desired: Desired, observed: Observed, by_rank: _ByRank, foreign: _Foreign) -> Resolved:
    problems: list[tuple[Ref, str]] = []
    undefined: set[UUID] = set()
    networks = _networks(desired, by_rank, foreign, problems, undefined)
    fits = _fits(desired, observed, networks)
    for network, found in fits.items():
        if found.problem:
            problems.append((Ref(kind=Kind.NETWORK, uuid=network), found.problem))
            undefined.add(network)
    switches = {}
    taken: dict[str, tuple[tuple[str, ...], OpaqueSwitch]] = {}
    for uuid, switch in sorted(desired.switches.items()):
        vtep = _vtep(desired, uuid)
        pnics = _choose_pnics(switch, desired.offered_pnics)
        blocked = [*_switch_problems(switch, vtep, pnics, desired, observed)]
        clash = next((pnic for pnic in pnics if pnic in taken and taken[pnic][0] != pnics), None)
        if clash:
            other = taken[clash][1]
            blocked.append(
                f"switch {switch.name}: PNIC {clash} is the uplink of switch {other.name} already, in another set of "
                "PNICs; give both switches the same set, or sets that do not overlap"
            )
        elif len(pnics) > 1 and pnics[0] in taken and taken[pnics[0]][1].teaming is not switch.teaming:
            other = taken[pnics[0]][1]
            blocked.append(
                f"switch {switch.name}: wants teaming {switch.teaming} on {', '.join(pnics)}, which is the uplink of "
                f"switch {other.name} with teaming {other.teaming} already; give both the same teaming"
            )
        elif not (pnics and pnics[0] in taken):
            taken.update(dict.fromkeys(pnics, (pnics, switch)))
        taken_by_others = _foreign_bridge(switch_bridge(uuid), observed)
        if taken_by_others:
            blocked.append(_foreign_sentence(f"switch {switch.name}", switch_bridge(uuid)))
        if pnics and _foreign_bridge(uplink_bridge(pnics), observed):
            blocked.append(_foreign_sentence(f"switch {switch.name}", uplink_bridge(pnics)))
        problems += [(Ref(kind=Kind.SWITCH, uuid=uuid), sentence) for sentence in blocked]
        switches[uuid] = intent = SwitchIntent(
            switch=switch,
            bridge=switch_bridge(uuid),
            vtep=vtep,
            pnics=pnics,
            uplink=uplink_bridge(pnics) if pnics else "",
            networks=networks.get(uuid, ()),
            cut=_cut(uuid, observed),
            blocked=tuple(blocked),
            foreign=taken_by_others,
        )
        problems += _port_problems(intent, observed)
    return Resolved(switches=switches, undefined=frozenset(undefined), fits=fits, rejections=tuple(problems))


def tunnel_key(network: OpaqueNetwork) -> int:
    """The tunnel's key of a network: its VNI, or its VSID above eight bits of flow id (RFC 7637)."""
    return network.segment_id << 8 if network.type is NetworkType.NVGRE else network.segment_id


# --- switches -----------------------------------------------------------------------------------------------------


def _cut(switch: UUID, observed: Observed) -> dict[NetworkType, frozenset[str]]:
    found: dict[NetworkType, set[str]] = {}
    for path in observed.paths:
        if path.cut and path.key.switch == switch:
            found.setdefault(path.key.type, set()).add(path.key.vtep)
    return {kind: frozenset(vteps) for kind, vteps in found.items()}


def _vtep(desired: Desired, switch: UUID) -> str:
    assignments = desired.host.vteps if desired.host is not None else ()
    return next((item.address for item in assignments if item.switch_uuid == switch), "")


def _choose_pnics(switch: OpaqueSwitch, offered: tuple[str, ...]) -> tuple[str, ...]:
    fitting = sorted({name for name in offered if any(fnmatchcase(name, glob) for glob in switch.pnic_globs)})
    return tuple(fitting[:1] if switch.teaming is Teaming.SINGLE else fitting)


def _switch_problems(
    switch: OpaqueSwitch, vtep: str, pnics: tuple[str, ...], desired: Desired, observed: Observed
) -> Iterator[str]:
    name = f"switch {switch.name}"
    if not vtep and switch.vtep_pool:  # without a pool it has VLAN networks only
        yield f"{name}: the manager has assigned this host no VTEP address on it; enlarge the switch's VTEP pool"
    if not pnics:
        offered = ", ".join(desired.offered_pnics) or "none"
        yield (
            f"{name}: wants a PNIC that matches {', '.join(switch.pnic_globs)}, but this host offers {offered}; "
            "offer one with `hostagent join --pnic`, or change the switch's PNICs"
        )
    found = telling_links(desired, observed)
    if isinstance(found, Unread) or isinstance(observed.bridges, Unread):
        return  # what is ours and what is not cannot be told apart
    links = {link.name: link for link in found}
    ours = _own_uplink_of(observed)
    for pnic in pnics:
        yield from _pnic_problems(name, switch, links.get(pnic), pnic, ours.get(pnic, ""), observed)
    if vtep:
        yield from _vtep_problems(name, vtep, links, observed)


def _pnic_problems(
    name: str, switch: OpaqueSwitch, link: Link | None, pnic: str, in_ours: str, observed: Observed
) -> Iterator[str]:
    if link is None:
        yield f"{name}: PNIC {pnic} does not exist on this host; plug it in, or offer another one"
        return
    if link.mtu < switch.mtu:
        yield (
            f"{name}: PNIC {pnic} has an MTU of {link.mtu}, the switch needs {switch.mtu}; raise the MTU of {pnic} "
            "and of the underlay, or lower the switch's"
        )
    if in_ours:
        return
    foreign = _bridge_of(pnic, observed)
    if foreign or link.master:
        yield f"{name}: PNIC {pnic} is in bridge or bond {foreign or link.master}, which is not ours; take it out"
    addresses = [address for address in link.addresses if not interface_of(address).ip.is_link_local]
    if addresses:
        yield (
            f"{name}: PNIC {pnic} carries {', '.join(addresses)}, which would be cut off in a bridge; move the "
            "address elsewhere, or offer another PNIC"
        )


def _vtep_problems(name: str, vtep: str, links: Mapping[str, Link], observed: Observed) -> Iterator[str]:
    own = {bridge.name for bridge in _bridges(observed) if is_ours(bridge.external_ids)}
    address = interface_of(vtep).ip
    for link in links.values():
        if link.name not in own and any(interface_of(one).ip == address for one in link.addresses):
            yield f"{name}: its VTEP address {address} is on {link.name} already; remove it there"


def _port_problems(intent: SwitchIntent, observed: Observed) -> Iterator[tuple[Ref, str]]:
    if intent.foreign:
        return
    ports = {port.name: port for bridge in _bridges(observed) if bridge.name == intent.bridge for port in bridge.ports}
    names = intent.exits
    errors = {kind: _port_error(ports.get(name)) for kind, name in names.items()}
    for network in intent.networks if any(errors.values()) else ():
        name, sentence = names[network.type], errors[network.type]
        if sentence:
            what = f"{network.type} tunnel port" if network.type.tunneled else f"port {name} to the uplink"
            yield (
                Ref(kind=Kind.NETWORK, uuid=network.uuid),
                f"network {network.name}: Open vSwitch refuses its {what}: {sentence}, it is retried",
            )


def _port_error(port: OvsPort | None) -> str:
    """What Open vSwitch says of *port* that it does not take, and what to do; empty when it takes it."""
    for interface in port.interfaces if port is not None else ():
        module = _MODULES.get(interface.type)
        if module is not None and _NO_MODULE in interface.error:
            return f"{interface.error}; the kernel has no module {module}: have it loaded"
        if interface.ofport == -1 or interface.error:
            return f"{interface.error or 'it gave no reason'}; remove what stands in its way"
    return ""


_NO_MODULE: Final = "Address family not supported by protocol"
_MODULES: Final = {"vxlan": "vport-vxlan", "geneve": "vport-geneve", "gre": "vport-gre", "ip6gre": "ip6_gre"}
"""By the type of a tunnel port, without which the kernel's datapath answers so."""


def _bridges(observed: Observed) -> tuple[Bridge, ...]:
    return () if isinstance(observed.bridges, Unread) else observed.bridges


def _foreign_bridge(name: str, observed: Observed) -> bool:
    return any(bridge.name == name and not is_ours(bridge.external_ids) for bridge in _bridges(observed))


def _foreign_sentence(name: str, bridge: str) -> str:
    return f"{name}: a bridge {bridge} exists that this agent did not make; rename or remove it"


def _own_uplink_of(observed: Observed) -> dict[str, str]:
    """Bridge of ours by the name of an interface on it."""
    return {
        interface.name: bridge.name
        for bridge in _bridges(observed)
        if is_ours(bridge.external_ids)
        for port in bridge.ports
        for interface in port.interfaces
    }


def _bridge_of(interface_name: str, observed: Observed) -> str:
    for bridge in _bridges(observed):
        if any(one.name == interface_name for port in bridge.ports for one in port.interfaces):
            return bridge.name
    return ""


# --- networks -----------------------------------------------------------------------------------------------------


def _networks(
    desired: Desired,
    by_rank: _ByRank,
    foreign: _Foreign,
    problems: list[tuple[Ref, str]],
    undefined: set[UUID],
) -> dict[UUID, tuple[OpaqueNetwork, ...]]:
    """Networks by switch, without the excluded ones."""
    by_switch: dict[UUID, list[OpaqueNetwork]] = {}
    carried: dict[_Claim, OpaqueNetwork] = {}
    vteps = {uuid: _vtep(desired, uuid) for uuid in desired.switches}
    for network, claims in by_rank:
        ref = Ref(kind=Kind.NETWORK, uuid=network.uuid)
        switch = desired.switches.get(network.switch_uuid)
        if switch is None:
            problems.append((ref, f"network {network.name}: its switch {network.switch_uuid} is not on this host"))
            continue
        senior = next((carried[claim] for claim in claims if claim in carried), None)
        if senior is not None:
            problems.append(
                (
                    ref,
                    f"network {network.name}: {network.type} segment {network.segment_id} is carried for network "
                    f"{senior.name} ({senior.uuid}) on this host{_of_switch(senior, switch, desired)}; it is retried "
                    "after that one's removal",
                )
            )
            continue
        carried.update(dict.fromkeys(claims, network))
        by_switch.setdefault(switch.uuid, []).append(network)
        for sentence in definition_problems(network, switch, vteps[switch.uuid], foreign):
            problems.append((ref, sentence))
            undefined.add(network.uuid)
    return {switch: tuple(sorted(found, key=lambda one: one.uuid.int)) for switch, found in by_switch.items()}


def _fits(desired: Desired, observed: Observed, networks: Mapping[UUID, tuple[OpaqueNetwork, ...]]) -> dict[UUID, Fit]:
    """By network, where there is something to say; a switch that has no peers has nothing."""
    if not observed.paths:
        return {}
    names, nothing = peer_names(desired), Fit()
    groups, uplinks = by_tunnel(observed.paths), _uplinks(desired)
    found = {}
    for carried in networks.values():
        for network in carried:
            group = paths_of(network, groups, uplinks)
            one = fit(network, group, names) if group is not None else nothing
            if one != nothing:
                found[network.uuid] = one
    return found


def _of_switch(senior: OpaqueNetwork, switch: OpaqueSwitch, desired: Desired) -> str:
    """Said where the two are on different switches."""
    other = desired.switches.get(senior.switch_uuid)
    return f", on the same PNICs by switch {other.name}" if other is not None and other.uuid != switch.uuid else ""


def _by_seniority(desired: Desired, observed: Observed) -> tuple[_ByRank, bool]:
    """All networks with what each must have for itself; of those that want the same, the one that is to have it first.
    And whether there are such.

    Whether a network is in use is looked at only where it matters: there may be many flows.
    """
    uplinks = _uplinks(desired)
    claims = {network.uuid: claims_of(network, uplinks) for network in desired.networks.values()}
    times = Counter(claim for several in claims.values() for claim in several)
    contested = {claim for claim, number in times.items() if number > 1}

    def rank(network: OpaqueNetwork) -> tuple[tuple[bool, ...], int]:
        in_question = contested and not contested.isdisjoint(claims[network.uuid])
        return tuple(not sign for sign in _signs_of_use(network, observed)) if in_question else (), network.uuid.int

    by_rank = [(network, claims[network.uuid]) for network in sorted(desired.networks.values(), key=rank)]
    return by_rank, bool(contested)


def _uplinks(desired: Desired) -> dict[UUID, str]:
    """By switch: the uplink bridge of its PNICs."""
    return {
        uuid: uplink_bridge(_choose_pnics(switch, desired.offered_pnics)) for uuid, switch in desired.switches.items()
    }


def claims_of(network: OpaqueNetwork, uplinks: Mapping[UUID, str]) -> tuple[_Claim, ...]:
    """What one network at a time can have: its segment, and its key in the pipeline. A VLAN is one for all switches on
    the same PNICs, which *uplinks* name by switch."""
    wire: UUID | str = network.switch_uuid
    if not network.type.tunneled:
        wire = uplinks.get(network.switch_uuid, wire)
    return (wire, network.type, network.segment_id), network_key(network.uuid)


def _signs_of_use(network: OpaqueNetwork, observed: Observed) -> Iterator[bool]:
    known = observed.libvirt_networks
    yield not isinstance(known, Unread) and any(one.ours and one.uuid == network.uuid for one in known)
    trunk = trunk_port(network.switch_uuid)
    yield not network.type.tunneled and any(
        port.name == trunk and is_ours(port.external_ids) and network.segment_id in port.trunks
        for bridge in _bridges(observed)
        if is_uplink_bridge(bridge.external_ids)
        for port in bridge.ports
    )
    flows, cookie = observed.flows.get(switch_bridge(network.switch_uuid)), network_key(network.uuid)
    yield flows is not None and not isinstance(flows, Unread) and cookie in flow_set(flows).cookies


def _foreign_networks(observed: Observed) -> _Foreign:
    found: dict[UUID | str, list[LibvirtNetwork]] = {}
    for network in () if isinstance(observed.libvirt_networks, Unread) else observed.libvirt_networks:
        if not network.ours:
            found.setdefault(network.uuid, []).append(network)
            found.setdefault(network.name, []).append(network)
    return found


def definition_problems(network: OpaqueNetwork, switch: OpaqueSwitch, vtep: str, foreign: _Foreign) -> Iterator[str]:
    """Why *network* can't be defined as it is: a size that does not fit, or what libvirt has of *foreign* networks."""
    extra = overhead(network.type, vtep)
    if network.mtu > switch.mtu and not network.type.tunneled:
        yield (
            f"network {network.name}: its MTU of {network.mtu} is more than the {switch.mtu} of switch {switch.name}; "
            "lower the network's, or raise the switch's"
        )
    elif network.mtu + extra > switch.mtu:
        yield (
            f"network {network.name}: its MTU of {network.mtu} and {extra} bytes of {network.type} do not fit "
            f"the {switch.mtu} of switch {switch.name}; lower the network's MTU to {switch.mtu - extra}"
        )
    if not foreign:
        return
    of_its_name = [other for other in foreign.get(network.name, ()) if other.uuid != network.uuid]
    for other in (*foreign.get(network.uuid, ()), *of_its_name):
        yield (
            f"network {network.name}: libvirt has a network {other.name} ({other.uuid}) that this agent did not "
            "make; rename or undefine it"
        )

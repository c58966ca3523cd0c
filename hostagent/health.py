"""How this host fares: status, score and reasons of switches, networks and VIFs, and what it must reject.

Theory of operation. Findings lower a score of 100; each says by how much, at least which status it means, and why, in a
sentence. A switch or network has the worst status found and the lowest score. A network has its switch's findings too,
for it is no better than that. Scores: 0 unusable, 50 keep away if there is a choice, 80 and more fit for use.

A switch's word is believed only while it answers OpenFlow: health read from a database that a dead vswitchd filled is
stale. What could not be read is unavailable, not up.

A network that is withdrawn from this host is in maintenance here at best, with the manager's sentence first, and as
healthy as it is: what runs on it goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from hostagent.addresses import interface_of
from hostagent.flow_set import FlowSet, flow_set
from hostagent.model import Bridge, ChangeFlows, Desired, Link, Observed, PathStatus, Step, Unread
from hostagent.names import is_ours, network_key
from hostagent.plan import kept_bridges, plan
from hostagent.qos import qos_problems
from hostagent.resolve import Resolved, SwitchIntent, resolve
from hostagent.underlay.path_fit import peer_names
from hostagent.underlay.peers import peer_findings, peer_statuses
from hostagent.unheard import unheard_sentence
from hostagent.vif_report import vif_statuses
from netmgr.contract.types import (
    HostReport,
    Kind,
    NetworkStatus,
    NetworkType,
    OpaqueNetwork,
    PeerState,
    Pnic,
    Ref,
    Status,
    SwitchStatus,
    Teaming,
    why_withdrawn,
)

__all__ = ["host_report", "measuring", "rejections"]

_SEVERITY = (Status.UP, Status.MAINTENANCE, Status.WARNING, Status.DOWN, Status.UNAVAILABLE)


@dataclass(frozen=True, slots=True)
class _Finding:
    """Something that lowers a health: the least status it means, the score it leaves, and why."""

    status: Status
    health: int
    reason: str


def rejections(*, desired: Desired, observed: Observed) -> tuple[tuple[Ref, str], ...]:
    """All that was pushed and cannot be realized now, each with the sentence for the operator; sorted."""
    return tuple(sorted(set(resolve(desired, observed).rejections)))


def measuring(*, desired: Desired, observed: Observed) -> bool:
    """Whether a network waits for the first word on the paths to its peers: until then it is not accepted."""
    if all(_is_measured(path, desired) for path in observed.paths):
        return False
    return any(found.measuring for found in resolve(desired, observed).fits.values())


def _is_measured(path: PathStatus, desired: Desired) -> bool:
    switch = desired.switches.get(path.key.switch)
    if path.state is not PeerState.UP or switch is None:
        return path.state is not PeerState.NEW
    return path.mtu_refused > 0 or path.mtu_passed >= switch.mtu


def host_report(
    *,
    desired: Desired,
    observed: Observed,
    openflow_alive: Mapping[str, bool],
    steps: Sequence[Step] | None = None,
) -> HostReport:
    """The whole status of the host.

    *openflow_alive* says, by bridge, whether it has answered an echo lately; absent means no. *steps* is the plan for
    the same two values, if the caller has it.
    """
    resolved = resolve(desired, observed)
    todo = plan(desired=desired, observed=observed) if steps is None else tuple(steps)
    unshaped = qos_problems(desired, resolved, observed)
    peers = peer_statuses(desired, observed.paths)
    rejected = _rejected(resolved)
    switches, networks = [], []
    for intent in resolved.switches.values():
        findings = [*_switch_findings(intent, desired, observed, openflow_alive)]
        findings += [_Finding(Status.WARNING, 90, sentence) for sentence in unshaped.get(intent.switch.uuid, ())]
        bridge = _bridge(intent.bridge, observed)
        status, health, reasons = _sum_up(findings)
        switches.append(
            SwitchStatus(
                switch_uuid=intent.switch.uuid,
                status=status,
                health=health,
                reasons=reasons,
                vteps=_vteps(intent, observed),
                pnics=intent.pnics,
                datapath=(bridge.datapath_type or "system") if bridge is not None else desired.datapath,
                peers=peers.get(intent.switch.uuid, ()),
            )
        )
        usable = status in (Status.UP, Status.WARNING)
        inherited = findings if usable else [_Finding(status, health, f"switch {intent.switch.name} is {status}")]
        there = _There.of(intent, bridge, observed, todo)
        for network in intent.networks:
            own = [*_network_findings(network, intent, resolved, there, rejected), *_unheard(network, desired)]
            networks.append(_network_status(network.uuid, inherited + own))
    carried = {network.uuid for intent in resolved.switches.values() for network in intent.networks}
    for network in desired.networks.values():
        if network.uuid not in carried:
            networks.append(_network_status(network.uuid, rejected.get(network.uuid, [])))
    networks = [_as_hidden(one, desired) for one in networks]
    return HostReport(
        pnics=_pnics(desired, observed),
        switches=tuple(sorted(switches, key=lambda one: one.switch_uuid)),
        networks=tuple(
            sorted((one for one in networks if one.status is not Status.UP), key=lambda one: one.network_uuid)
        ),
        vifs=vif_statuses(desired=desired, observed=observed, resolved=resolved),
    )


# --- switches -----------------------------------------------------------------------------------------------------


def _switch_findings(
    intent: SwitchIntent, desired: Desired, observed: Observed, openflow_alive: Mapping[str, bool]
) -> Iterator[_Finding]:
    name = f"switch {intent.switch.name}"
    for sentence in intent.blocked:
        yield _Finding(Status.UNAVAILABLE, 0, sentence)
    if isinstance(observed.bridges, Unread):
        yield _Finding(
            Status.UNAVAILABLE, 0, f"{name}: the Open vSwitch database cannot be read: {observed.bridges.reason}"
        )
        return
    if intent.blocked:
        return
    if _bridge(intent.bridge, observed) is None:
        yield _Finding(Status.DOWN, 0, f"{name}: its bridge {intent.bridge} is not there yet")
        return
    if not openflow_alive.get(intent.bridge, False):
        yield _Finding(
            Status.DOWN, 0, f"{name}: bridge {intent.bridge} does not answer OpenFlow; is ovs-vswitchd running?"
        )
    elif desired.ct_unlimited:
        sentence = f"connections of its ports are not limited, and one guest may take all: {desired.ct_unlimited}"
        yield _Finding(Status.WARNING, 90, f"{name}: {sentence}")
    if isinstance(observed.links, Unread):
        yield _Finding(Status.WARNING, 50, f"{name}: links cannot be read: {observed.links.reason}")
        return
    links = {link.name: link for link in observed.links}
    yield from _link_findings(name, intent, links)
    yield from _lacp_findings(name, intent, links, _bridge(intent.uplink, observed))
    for status, health, sentence in peer_findings(intent.switch, observed.paths, peer_names(desired)):
        yield _Finding(Status(status), health, sentence)
    for sentence in kept_bridges(desired=desired, observed=observed).values():
        yield _Finding(Status.WARNING, 90, sentence)


def _link_findings(name: str, intent: SwitchIntent, links: Mapping[str, Link]) -> Iterator[_Finding]:
    local = links.get(intent.uplink)
    address = interface_of(intent.vtep).ip if intent.vtep else None
    held = [interface_of(one).ip for one in local.addresses] if local is not None else []
    if address is not None and address not in held:
        yield _Finding(Status.DOWN, 0, f"{name}: its VTEP address {address} is not on {intent.uplink} yet")
    elif local is None:
        yield _Finding(Status.DOWN, 0, f"{name}: its uplink bridge {intent.uplink} is not there yet")
    elif not local.admin_up:
        yield _Finding(Status.DOWN, 0, f"{name}: {intent.uplink}{', which carries its VTEP,' * bool(address)} is down")
    elif local.mtu and local.mtu < intent.switch.mtu:
        yield _Finding(
            Status.WARNING, 50, f"{name}: {intent.uplink} has an MTU of {local.mtu}, {intent.switch.mtu} is wanted"
        )
    dead = [pnic for pnic in intent.pnics if pnic not in links or not links[pnic].carrier]
    if len(dead) == len(intent.pnics):
        yield _Finding(Status.DOWN, 0, f"{name}: no link on {', '.join(dead)}; check the cable and the switch port")
    elif dead:
        yield _Finding(Status.WARNING, 70, f"{name}: no link on {', '.join(dead)}; the uplink is not redundant")


def _lacp_findings(
    name: str, intent: SwitchIntent, links: Mapping[str, Link], uplink: Bridge | None
) -> Iterator[_Finding]:
    """PNICs with a link whose partner does not speak LACP; what has no link is told already."""
    if intent.switch.teaming is not Teaming.LACP or len(intent.pnics) < 2 or uplink is None:
        return
    speaking = {one.name for port in uplink.ports for one in port.interfaces if one.lacp_current}
    linked = [pnic for pnic in intent.pnics if pnic in links and links[pnic].carrier]
    silent = [pnic for pnic in linked if pnic not in speaking]
    if not silent:
        return
    instead = "only the others carry traffic" if len(silent) < len(linked) else "one PNIC at a time carries traffic"
    yield _Finding(
        Status.WARNING,
        70,
        f"{name}: LACP is not negotiated on {', '.join(silent)}; {instead}; put these ports of the physical switch in "
        "one LACP channel, or give the switch another teaming",
    )


def _vteps(intent: SwitchIntent, observed: Observed) -> tuple[str, ...]:
    if isinstance(observed.links, Unread) or not intent.vtep:
        return ()
    address = interface_of(intent.vtep).ip
    for link in observed.links:
        if link.name == intent.uplink and any(interface_of(one).ip == address for one in link.addresses):
            return (str(address),)
    return ()


def _bridge(name: str, observed: Observed) -> Bridge | None:
    if isinstance(observed.bridges, Unread):
        return None
    return next((one for one in observed.bridges if one.name == name and is_ours(one.external_ids)), None)


def _pnics(desired: Desired, observed: Observed) -> tuple[Pnic, ...]:
    if isinstance(observed.links, Unread):
        return ()
    links = {link.name: link for link in observed.links}
    return tuple(
        Pnic(name=one.name, mac=one.mac, speed_mbps=one.speed_mbps, link_up=one.carrier, mtu=one.mtu)
        for name in sorted(desired.offered_pnics)
        if (one := links.get(name)) is not None
    )


# --- networks -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _There:
    """What is there of a switch's networks, looked up once for all of them: there may be hundreds."""

    missing: Mapping[NetworkType, str] | None  # the port to leave by, where it has no number yet; None: no bridge
    flows: FlowSet | Unread | None
    outstanding: Mapping[int, int]  # flows of the bridge that are not as wanted, by cookie
    defined: frozenset[UUID] | Unread  # networks of ours that libvirt has, and that are active

    @classmethod
    def of(cls, intent: SwitchIntent, bridge: Bridge | None, observed: Observed, todo: Sequence[Step]) -> _There:
        known = observed.libvirt_networks
        flows = observed.flows.get(intent.bridge)
        numbered = {
            port.name
            for port in (bridge.ports if bridge is not None else ())
            if any((one.ofport or 0) > 0 for one in port.interfaces)
        }
        return cls(
            missing={kind: name for kind, name in intent.exits.items() if name not in numbered}
            if bridge is not None
            else None,
            flows=flows if flows is None or isinstance(flows, Unread) else flow_set(flows),
            outstanding=Counter(
                flow.cookie
                for step in todo
                if isinstance(step, ChangeFlows) and step.bridge == intent.bridge
                for flow in (*step.delete, *step.add)
            ),
            defined=known
            if isinstance(known, Unread)
            else frozenset(one.uuid for one in known if one.ours and one.active),
        )


def _network_findings(
    network: OpaqueNetwork,
    intent: SwitchIntent,
    resolved: Resolved,
    there: _There,
    rejected: Mapping[UUID, list[_Finding]],
) -> Iterator[_Finding]:
    name = f"network {network.name}"
    yield from rejected.get(network.uuid, ())
    fits = resolved.fits.get(network.uuid)
    if fits is not None and fits.warning:
        yield _Finding(Status.WARNING, 60, fits.warning)
    if there.missing is None:
        return
    if way := there.missing.get(network.type):
        yield _Finding(Status.DOWN, 0, f"{name}: its {'tunnel ' * network.type.tunneled}port {way} is not there yet")
    flows = there.flows
    if flows is None or isinstance(flows, Unread):
        why = flows.reason if isinstance(flows, Unread) else "there is no OpenFlow connection yet"
        yield _Finding(Status.WARNING, 50, f"{name}: the flows of {intent.bridge} cannot be read: {why}")
    elif changed := there.outstanding.get(network_key(network.uuid), 0):
        if network_key(network.uuid) in flows.cookies:
            yield _Finding(Status.WARNING, 80, f"{name}: {changed} of its flows on {intent.bridge} are not as wanted")
        else:
            yield _Finding(Status.DOWN, 0, f"{name}: its flows are not in {intent.bridge} yet")
    if isinstance(there.defined, Unread):
        yield _Finding(Status.WARNING, 50, f"{name}: libvirt's networks cannot be read: {there.defined.reason}")
    elif network.uuid not in there.defined and network.uuid not in resolved.undefined:
        yield _Finding(Status.DOWN, 0, f"{name}: libvirt does not have it yet, or it is not active there")


def _unheard(network: OpaqueNetwork, desired: Desired) -> Iterator[_Finding]:
    """Its guests here were lit without anybody saying where the others are."""
    if network.uuid in desired.unheard:
        sentence = unheard_sentence(network, desired.unheard[network.uuid])
        yield _Finding(Status.WARNING, 30 if network.type.tunneled else 90, sentence)


def _rejected(resolved: Resolved) -> dict[UUID, list[_Finding]]:
    """By network: why it is not realized."""
    found: dict[UUID, list[_Finding]] = {}
    for ref, sentence in resolved.rejections:
        if ref.kind is Kind.NETWORK:
            found.setdefault(ref.uuid, []).append(_Finding(Status.UNAVAILABLE, 0, sentence))
    return found


def _network_status(uuid: UUID, findings: list[_Finding]) -> NetworkStatus:
    status, health, reasons = _sum_up(findings)
    return NetworkStatus(network_uuid=uuid, status=status, health=health, reasons=reasons)


def _as_hidden(found: NetworkStatus, desired: Desired) -> NetworkStatus:
    withdrawal = desired.withdrawals.get(found.network_uuid)
    if withdrawal is None or desired.host is None:
        return found
    network = desired.networks[found.network_uuid].name
    worse = found.status in (Status.DOWN, Status.UNAVAILABLE)
    return replace(
        found,
        status=found.status if worse else Status.MAINTENANCE,
        reasons=(why_withdrawn(withdrawal, network=network, host=desired.host.name), *found.reasons),
    )


def _sum_up(findings: Sequence[_Finding]) -> tuple[Status, int, tuple[str, ...]]:
    status = max((one.status for one in findings), key=_SEVERITY.index, default=Status.UP)
    return (
        status,
        min((one.health for one in findings), default=100),
        tuple(dict.fromkeys(one.reason for one in findings)),
    )

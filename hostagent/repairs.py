"""What others changed of ours and the agent puts back: found by comparing plans with the host at rest, and remembered.

Theory of operation. The host is at rest when the plan is empty. A step that is needed afterwards has one of two causes:
something else is wanted, or the host is not what it was. The second is told from the first without planning twice: if
the host at rest already had what the step makes, somebody took it away since. Steps of our own make the host another
one, so after them nothing is put down to anybody until the host is at rest again: a repair that happens just then is
made, but not told. A restart of Open vSwitch looks like somebody who deleted all flows, and is told so.

What is remembered is for people: it is lost with the process, and the log has it too.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from uuid import UUID

import structlog

from hostagent.addresses import interface_of
from hostagent.model import (
    AddAddress,
    Bridge,
    ChangeFlows,
    ChangeMeters,
    DefineNetwork,
    Interface,
    KeepNetwork,
    LibvirtNetwork,
    Link,
    Observed,
    OvsPort,
    PutBridge,
    PutNormal,
    PutPort,
    PutQos,
    SetArpIgnore,
    SetLink,
    Step,
    Unread,
)
from netmgr.contract.types import Repair

__all__ = ["Repairs", "damage"]

log = structlog.get_logger(__name__)

_KEPT = 20


class Repairs:
    """The repairs of one host since the agent began."""

    def __init__(self) -> None:
        self._rested: Observed | None = None
        self._told: set[str] = set()
        self._latest: deque[Repair] = deque(maxlen=_KEPT)
        self.total = 0
        """How many, including those no longer among the latest."""
        self.by_kind: Counter[str] = Counter(dict.fromkeys(_KINDS.values(), 0))
        """The same by what was mended."""

    def latest(self) -> tuple[Repair, ...]:
        """The newest first, 20 at most."""
        return tuple(self._latest)

    def rest(self, observed: Observed) -> None:
        """Nothing is left to do: what differs from *observed* later, others did."""
        self._rested = observed
        self._told.clear()

    def note(self, steps: Sequence[Step], observed: Observed, *, now_unix: float) -> None:
        """*steps* were planned from *observed*, and are about to be carried out."""
        if self._rested is None:
            return
        for step in steps:
            found = damage(step, rested=self._rested, observed=observed)
            if not found:
                self._rested = None  # of our own will: the host is not what it was
                return
            if found not in self._told:
                self._told.add(found)
                self.total += 1
                self.by_kind[_KINDS[type(step)]] += 1
                self._latest.appendleft(Repair(what=found, at_unix=int(now_unix)))
                log.warning("put back what others changed", what=found)


def damage(step: Step, *, rested: Observed, observed: Observed) -> str:
    """What somebody did, that *step* undoes; empty where it does something new.

    *rested* is the host when nothing was left to do, *observed* the reading that made the step necessary.
    """
    describe = _DAMAGES.get(type(step))
    return describe(step, rested, observed) if describe is not None else ""


def _network(step: DefineNetwork | KeepNetwork, rested: Observed, observed: Observed) -> str:
    had, has = _networks(rested).get(step.uuid), _networks(observed).get(step.uuid)
    if had is None or (had.name, had.bridge, had.mtu) != (step.name, step.bridge, step.mtu):
        return ""
    deed = "undefined" if has is None else "edited" if has.active else "stopped"
    return f"libvirt network {step.name} was {deed}"


def _bridge(step: PutBridge, rested: Observed, observed: Observed) -> str:
    had = _bridges(rested).get(step.name)
    if (
        had is None
        or (had.datapath_type or "system", had.fail_mode) != (step.datapath_type, step.fail_mode)
        or any(had.external_ids.get(key) != value for key, value in step.external_ids.items())
    ):
        return ""
    return f"bridge {step.name} was {'changed' if step.name in _bridges(observed) else 'deleted'}"


def _port(step: PutPort, rested: Observed, observed: Observed) -> str:
    had = _ports(rested, step.bridge).get(step.name)
    if had is None or (had.bond_mode, had.lacp) != (step.bond_mode, step.lacp):
        return ""
    if step.tag not in (None, had.tag):
        return ""
    interfaces = {one.name: one for one in had.interfaces}
    if any(not _fits(one, interfaces.get(one.name)) for one in step.interfaces):
        return ""
    there = step.name in _ports(observed, step.bridge)
    return f"port {step.name} of bridge {step.bridge} was {'changed' if there else 'taken out'}"


def _fits(wanted: Interface, had: Interface | None) -> bool:
    return (
        had is not None
        and wanted.type in ("", had.type)
        and all(had.options.get(key) == value for key, value in wanted.options.items())
        and wanted.mtu_request in (None, had.mtu_request)
    )


def _link(step: SetLink, rested: Observed, observed: Observed) -> str:
    had = _links(rested).get(step.name)
    return f"link {step.name} was set down" if had is not None and had.admin_up and step.mtu is None else ""


def _arp(step: SetArpIgnore, rested: Observed, observed: Observed) -> str:
    had = _links(rested).get(step.link)
    return f"link {step.link} was made to answer ARP for others" if had is not None and had.arp_ignore else ""


def _address(step: AddAddress, rested: Observed, observed: Observed) -> str:
    had = _links(rested).get(step.link)
    wanted = interface_of(step.address)
    if had is None or all(interface_of(one) != wanted for one in had.addresses):
        return ""
    return f"address {step.address} was removed from {step.link}"


def _flows(step: ChangeFlows, rested: Observed, observed: Observed) -> str:
    had, has = rested.flows.get(step.bridge), observed.flows.get(step.bridge)
    if isinstance(had, Unread | None) or isinstance(has, Unread | None):
        return ""
    if any(flow not in had for flow in step.add) or any(flow in had for flow in step.delete):
        return ""
    keys = {flow.key() for flow in has}
    changed = sum(flow.key() in keys for flow in step.add)
    parts = ((len(step.add) - changed, "deleted"), (changed, "changed"), (len(step.delete), "added"))
    deeds = [f"{count} {deed}" for count, deed in parts if count]
    return f"flows of bridge {step.bridge}: {', '.join(deeds)}"


def _normal(step: PutNormal, rested: Observed, observed: Observed) -> str:
    had = step.bridge in _bridges(rested) and step.bridge not in rested.silent_uplinks
    return f"flows of bridge {step.bridge}: 1 deleted" if had else ""


def _meters(step: ChangeMeters, rested: Observed, observed: Observed) -> str:
    had = rested.meters.get(step.bridge, frozenset())
    if any(meter not in had for meter in step.put) or any(meter.number in step.remove for meter in had):
        return ""
    parts = ((len(step.put), "deleted or changed"), (len(step.remove), "added"))
    return f"meters of bridge {step.bridge}: {', '.join(f'{count} {deed}' for count, deed in parts if count)}"


def _qos(step: PutQos, rested: Observed, observed: Observed) -> str:
    had = _ports(rested, step.bridge).get(step.name)
    return f"shaping of port {step.name} was changed" if had is not None and had.qos == step.qos else ""


_DAMAGES: dict[type, Callable[..., str]] = {
    DefineNetwork: _network,
    KeepNetwork: _network,
    PutBridge: _bridge,
    PutPort: _port,
    SetLink: _link,
    SetArpIgnore: _arp,
    AddAddress: _address,
    ChangeFlows: _flows,
    PutNormal: _normal,
    ChangeMeters: _meters,
    PutQos: _qos,
}

_KINDS: dict[type, str] = {
    DefineNetwork: "libvirt network",
    KeepNetwork: "libvirt network",
    PutBridge: "bridge",
    PutPort: "port",
    SetLink: "link",
    SetArpIgnore: "link",
    AddAddress: "address",
    ChangeFlows: "flows",
    PutNormal: "flows",
    ChangeMeters: "meters",
    PutQos: "shaping",
}
assert _KINDS.keys() == _DAMAGES.keys()


def _bridges(observed: Observed) -> dict[str, Bridge]:
    return {one.name: one for one in observed.bridges} if isinstance(observed.bridges, tuple) else {}


def _ports(observed: Observed, bridge: str) -> dict[str, OvsPort]:
    found = _bridges(observed).get(bridge)
    return {port.name: port for port in found.ports} if found is not None else {}


def _networks(observed: Observed) -> dict[UUID, LibvirtNetwork]:
    networks = observed.libvirt_networks
    return {one.uuid: one for one in networks if one.ours} if isinstance(networks, tuple) else {}


def _links(observed: Observed) -> dict[str, Link]:
    return {one.name: one for one in observed.links} if isinstance(observed.links, tuple) else {}

"""Traditional switches in one host's libvirt: what it shows, and each step of a plan. Blocking calls, decides nothing.

A network or a domain that goes away between two questions is an answer, not an error; any other `libvirtError` goes
through to the caller.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import libvirt

from vmctl.sentences import libvirt_sentence
from vmctl.switches.model import Rate
from vmctl.switches.nics import FollowGroup, RunningDomain
from vmctl.switches.plan import Autostart, ChangeGroup, Define, Realized, Remove, Restart, Start, Step

__all__ = ["Glance", "Seen", "apply_nics", "apply_steps", "read_glance", "read_seen", "try_network"]

_GONE = (libvirt.VIR_ERR_NO_NETWORK, libvirt.VIR_ERR_NO_DOMAIN)
_CONNECTIONS = re.compile(r" connections=['\"][0-9]+['\"]")  # counts of NICs, which come and go
_COMMANDS = {
    "add": libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST,
    "modify": libvirt.VIR_NETWORK_UPDATE_COMMAND_MODIFY,
    "delete": libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE,
}


Glance = Mapping[UUID, Realized]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All libvirt networks of a host, its running domains, and the ports of the networks asked for."""

    networks: tuple[Realized, ...]
    domains: tuple[RunningDomain, ...]
    ports: frozenset[UUID]

    def glance(self, uuids: Collection[UUID]) -> Glance:
        """What `read_glance` of these networks would have told at that moment."""
        return {network.uuid: _quiet(network) for network in self.networks if network.uuid in uuids}


def read_seen(connection: Any, *, ports_of: Collection[UUID]) -> Seen:
    networks, ports = [], set[UUID]()
    for raw in connection.listAllNetworks():
        try:
            uuid = UUID(raw.UUIDString())
            networks.append(_read_network(raw))
            if uuid in ports_of and raw.isActive():
                ports |= {UUID(port.UUIDString()) for port in raw.listAllPorts()}
        except libvirt.libvirtError as error:
            _absent(error)
    domains = []
    for raw in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
        try:
            domains.append(RunningDomain(uuid=UUID(raw.UUIDString()), name=raw.name(), xml=raw.XMLDesc()))
        except libvirt.libvirtError as error:
            _absent(error)
    return Seen(networks=tuple(networks), domains=tuple(domains), ports=frozenset(ports))


def read_glance(connection: Any, *, uuids: Sequence[UUID]) -> Glance:
    """The networks of these UUIDs that there are, without what changes by itself."""
    found = {}
    for uuid in uuids:
        try:
            found[uuid] = _quiet(_read_network(connection.networkLookupByUUIDString(str(uuid))))
        except libvirt.libvirtError as error:
            _absent(error)
    return found


def apply_steps(connection: Any, steps: Sequence[Step]) -> dict[UUID, str]:
    """Carries the steps out; of those that failed, libvirt's reason by network, whose later steps are left out."""
    failed: dict[UUID, str] = {}
    for step in steps:
        if step.uuid not in failed:
            try:
                _apply_step(connection, step)
            except libvirt.libvirtError as error:
                failed[step.uuid] = libvirt_sentence(str(error))
    return failed


def apply_nics(connection: Any, steps: Sequence[FollowGroup]) -> dict[UUID, str]:
    """Brings NICs up to date; of those that failed, which and libvirt's reason, by network."""
    failed: dict[UUID, str] = {}
    for step in steps:
        try:
            _apply_nic(connection, step)
        except libvirt.libvirtError as error:
            failed[step.network] = f"{step.sentence}; it could not be put back: {libvirt_sentence(str(error))}"
    return failed


def try_network(connection: Any, *, name: str, xml: str) -> str:
    """libvirt's reason why it cannot start the network *xml*, empty when it can; nothing of it stays.

    One that an earlier trial has left makes room.
    """
    _destroy(connection, name)
    try:
        connection.networkCreateXML(xml)
    except libvirt.libvirtError as error:
        return libvirt_sentence(str(error))
    _destroy(connection, name)
    return ""


def _destroy(connection: Any, name: str) -> None:
    try:
        connection.networkLookupByName(name).destroy()
    except libvirt.libvirtError as error:
        _absent(error)


def _apply_step(connection: Any, step: Step) -> None:
    if isinstance(step, Define):
        connection.networkDefineXML(step.xml)
        return
    try:
        network = connection.networkLookupByUUIDString(str(step.uuid))
    except libvirt.libvirtError as error:
        _absent(error)
        if isinstance(step, Remove):
            return
        raise
    match step:
        case Start():
            if not network.isActive():
                network.create()
        case Restart():
            if network.isActive():
                network.destroy()
            network.create()
        case Autostart():
            network.setAutostart(1)
        case ChangeGroup():
            section, flags = libvirt.VIR_NETWORK_SECTION_PORTGROUP, libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE
            network.update(_COMMANDS[step.verb], section, -1, step.xml, flags)
        case Remove():
            _remove(network)


def _apply_nic(connection: Any, step: FollowGroup) -> None:
    try:
        domain = connection.lookupByUUIDString(str(step.domain))
        for xml in step.updates:
            domain.updateDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        if step.tune:
            for inbound, outbound in ((None, None), (step.inbound, step.outbound)):
                limits = _limits("inbound", inbound) | _limits("outbound", outbound)
                domain.setInterfaceParameters(step.device, limits, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    except libvirt.libvirtError as error:
        if error.get_error_code() not in (*_GONE, libvirt.VIR_ERR_OPERATION_INVALID):
            raise  # those: it is off, and its next start takes the port group as it is then


def _read_network(raw: Any) -> Realized:
    return Realized(
        uuid=UUID(raw.UUIDString()),
        name=raw.name(),
        live_xml=raw.XMLDesc() if raw.isActive() else "",
        kept_xml=_kept_xml(raw) if raw.isPersistent() else "",
        autostart=bool(raw.autostart()) if raw.isPersistent() else True,
    )


def _quiet(network: Realized) -> Realized:
    return replace(network, live_xml=_CONNECTIONS.sub("", network.live_xml))


def _kept_xml(network: Any) -> str:
    try:
        return str(network.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE))
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_INVALID_ARG:
            raise
        return str(network.XMLDesc())  # a driver that keeps one definition, not two


def _remove(network: Any) -> None:
    persistent = network.isPersistent()
    if network.isActive():
        network.destroy()
    if persistent:
        network.undefine()


def _limits(direction: str, rate: Rate | None) -> dict[str, int]:
    limits = (rate.average_kib_s, rate.peak_kib_s, rate.burst_kib) if rate is not None else (0, 0, 0)
    return {f"{direction}.{key}": value for key, value in zip(("average", "peak", "burst"), limits, strict=True)}


def _absent(error: libvirt.libvirtError) -> None:
    if error.get_error_code() not in _GONE:
        raise error

"""Why a VIF is, or is not, connected: the facts in the order in which one depends on the other, and what to do. Pure.

The chain is network → port → location → OVS port → flows; the first link that does not hold is why the VIF is
dark. A VIF that is not plugged now is explained by the line that the mapping table has of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from hostagent.model import Desired, Phase
from hostagent.unheard import unheard_sentence
from hostagent.vif_report import full_sentence
from netmgr.contract.groups import why_unmatched
from netmgr.contract.types import Location, LogicalPort, VifState, VifStatus

__all__ = ["explain"]


def explain(
    which: str,
    *,
    desired: Desired,
    statuses: Iterable[VifStatus],
    records: Mapping[UUID, Any],
    missing: Mapping[UUID, str],
    away: tuple[str, ...] = (),
) -> list[dict[str, Any]]:
    """One for each VIF that *which* names: by UUID or its beginning, OVS port, MAC, port or VM. Never empty.

    *records* is the mapping table (`state.VifRecord`), *missing* says why endpoints of this host are not there, *away*
    why there is no manager. Each answer has `vif`, `state` ("lit", "incoming", "dark", "unplugged", "unknown"), `facts`
    and `advice`, the last two lists of sentences.
    """
    wanted = which.strip().lower()
    statuses = tuple(statuses)
    by_vif = {port.vif_uuid: port for port in desired.ports.values() if port.vif_uuid is not None}
    known = {status.vif_uuid for status in statuses} | set(records) | set(by_vif) | set(missing)
    macs = {uuid for uuid, port in by_vif.items() if port.mac == wanted}
    macs |= {uuid for uuid, record in records.items() if record.mac == wanted}
    taps = {status.vif_uuid for status in statuses if status.ovs_port.lower() == wanted}
    ports = {uuid for uuid, port in by_vif.items() if wanted in (port.name.lower(), str(port.uuid))}
    vms = {uuid for uuid, record in records.items() if wanted in (record.vm_name.lower(), str(record.vm_uuid))}
    beginnings = {uuid for uuid in known if str(uuid).startswith(wanted)}
    found = beginnings | macs | taps | ports | vms if wanted else set()
    if not found:
        return [_unknown(which, away)]
    answers = []
    for vif in sorted(found):
        port = by_vif.get(vif)
        plugged = [status for status in statuses if status.vif_uuid == vif]
        for status in plugged:
            answers.append(_plugged(status, port, records.get(vif), missing.get(vif, ""), desired, away))
        if not plugged:
            answers.append(_unplugged(vif, port, records.get(vif), missing.get(vif, ""), desired, away))
    return answers


def _plugged(
    status: VifStatus, port: LogicalPort | None, record: Any, missing: str, desired: Desired, away: tuple[str, ...]
) -> dict[str, Any]:
    vm = (record.vm_name if record is not None else "") or status.vm_uuid
    facts = [f"It is plugged as {status.ovs_port}" + (f" by VM {vm}." if vm else ".")]
    let_in = desired.networks.get(record.network_uuid) if port is None and record is not None else None
    if let_in is not None:
        facts.append(f"libvirt plugged it for network {let_in.name}, with MAC {record.mac}.")
    facts += _port_facts(port, desired)
    facts += [f"It is an endpoint of this host that is not there: {missing}." for _ in [missing] if missing]
    advice: list[str] = []
    if status.state is VifState.DARK:
        facts.append(f"It is dark: {status.reason}.")
        if let_in is not None and record.port_uuid is None:
            words = f"--network {let_in.name} --mac {record.mac} --vif {status.vif_uuid}"
            advice = [f"Make a port for it at the manager: netmgr port create NAME {words}"]
        advice += _advice(status, port, desired)
        if away:
            advice.append(f"No manager can be asked now ({away[0]}); bring one back.")
    elif status.state is VifState.INCOMING:
        facts.append("Its guest is migrating in; it is lit when the guest runs here.")
    else:
        facts.append("The switch has confirmed its flows: it is connected.")
        unheard = [_unheard(port.network_uuid, desired)] if port and port.network_uuid in desired.unheard else []
        facts += unheard
        advice += [f"No manager can be asked now ({why}); bring one back." for why in away if unheard]
    advice += _unmatched_advice(port, desired)
    return {"vif": str(status.vif_uuid), "state": status.state.value, "facts": facts, "advice": advice}


def _unplugged(
    vif: UUID, port: LogicalPort | None, record: Any, missing: str, desired: Desired, away: tuple[str, ...]
) -> dict[str, Any]:
    facts = ["It is not plugged into any opaque switch of this host."]
    advice = []
    if missing:
        facts.append(f"It is an endpoint of this host that is not there: {missing}.")
    if record is not None and record.ovs_port:
        by = f" by VM {record.vm_name or record.vm_uuid}" if record.vm_name or record.vm_uuid else ""
        facts.append(f"It was last plugged as {record.ovs_port}{by}.")
    facts += _port_facts(port, desired)
    location = desired.locations.get(port.uuid) if port is not None else None
    here = desired.host is not None and location is not None and location.holder_host == desired.host.uuid
    if here:
        advice.append("This host is the recorded holder: start the guest here, with or without a manager.")
    elif location is not None and location.holder_host is not None and not location.parked:
        advice.append(f"It runs at {_holder(location, desired)}; look there, or migrate the guest here.")
    elif port is None:
        advice.append("This host knows no port of it; `netmgr port list` on the manager shows whether there is one.")
        advice += [f"No manager can be asked now ({away[0]}); bring one back." for _ in away]
    else:
        advice.append("Start the guest on any host that carries the network.")
    advice += _unmatched_advice(port, desired)
    return {"vif": str(vif), "state": "unplugged", "facts": facts, "advice": advice}


def _unknown(which: str, away: tuple[str, ...]) -> dict[str, Any]:
    advice = [
        "Give a VIF's UUID, its beginning, OVS port, MAC, port or VM; `hostagent vif list` shows what is plugged."
    ]
    advice += [f"What the manager knows can't be asked now ({away[0]})." for _ in away]
    fact = "Nothing here has that name: no VIF plugged, no line of the mapping table, no port pushed to this host."
    return {"vif": which, "state": "unknown", "facts": [fact], "advice": advice}


def _port_facts(port: LogicalPort | None, desired: Desired) -> list[str]:
    if port is None:
        return ["No logical port is known for it on this host."]
    network = desired.networks.get(port.network_uuid)
    on = f"network {network.name}" if network is not None else f"network {port.network_uuid}, not on this host now"
    facts = [f"It belongs to port {port.name} ({port.uuid}) of {on}, MAC {port.mac}."]
    location = desired.locations.get(port.uuid)
    if location is not None:
        facts.append(_where(location, desired))
    facts += _trunk_facts(port, desired)
    facts += _learned_facts(port, desired)
    facts += _group_facts(port, desired)
    facts += _unknown_rules_facts(port, desired)
    phase = desired.phases.get(port.uuid, Phase.STEADY)
    if phase is not Phase.STEADY:
        facts.append(f"Its migration is in phase {phase.value} here.")
    return facts


def _trunk_facts(port: LogicalPort, desired: Desired) -> list[str]:
    """Whose tagged frames it is, or whose are those of its VIF."""
    parent = desired.ports.get(port.parent_port) if port.parent_port is not None else None
    facts = [f"It is a sub-port: the frames of port {parent.name} with VLAN tag {port.tag}."] if parent else []
    below = sorted((one.tag, one) for one in desired.ports.values() if one.parent_port == port.uuid)
    words = [f"tag {tag} is port {one.name} of network {_network_name(one, desired)}" for tag, one in below]
    return facts + ([f"Tagged frames of its VIF are its sub-ports': {'; '.join(words)}."] if words else [])


def _network_name(port: LogicalPort, desired: Desired) -> str:
    network = desired.networks.get(port.network_uuid)
    return network.name if network is not None else str(port.network_uuid)


def _learned_facts(port: LogicalPort, desired: Desired) -> list[str]:
    """What its guest was seen to use, and what of that it does not get."""
    learned = desired.learned.get(port.uuid)
    found = learned.addresses if learned is not None else ()
    macs = learned.macs if learned is not None else ()
    own = [f"{one.address} ({one.mac})" if one.mac else one.address for one in found if not one.refused]
    behind = [", ".join([one.mac, *one.ips]) for one in port.nested]
    facts = [f"MACs defined behind its VIF: {'; '.join(behind)}."] if behind else []
    seen = [one.mac for one in macs if not one.refused]
    facts += [f"MACs learned behind its VIF: {', '.join(seen)}."] if seen else []
    facts += [f"Learned from its guest: {', '.join(own)}."] if own else []
    facts += [
        f"Its guest {'has probed for' if one.probed else 'uses'} {one.address}, which is not its own: {one.refused}."
        for one in found
        if one.refused
    ]
    facts += [f"Its guest uses MAC {one.mac}, which is not its own: {one.refused}." for one in macs if one.refused]
    facts += _rival_facts(port, desired)
    if port.uuid in desired.hushed:
        facts.append("Its guest claims addresses too often, or too many: nothing more is learned of it for a while.")
    return facts


def _rival_facts(port: LogicalPort, desired: Desired) -> list[str]:
    """Guests of other ports that use or want what is this one's; they get nothing of it."""
    own = desired.learned.get(port.uuid)
    mine = {port.mac, *port.ips}.union(*({one.mac, *one.ips} for one in port.nested))
    mine |= {one.mac for one in own.macs if not one.refused} if own is not None else set()
    mine |= {one.address for one in own.addresses if not one.refused} if own is not None else set()
    facts = []
    for uuid, learned in desired.learned.items():
        other = desired.ports.get(uuid)
        if learned.network_uuid == port.network_uuid and uuid != port.uuid and other is not None:
            probed = {one.address for one in learned.addresses if one.refused and one.probed}
            used = {one.address for one in learned.addresses if one.refused} - probed
            used |= {one.mac for one in learned.macs if one.refused}
            facts += [f"The guest of port {other.name} uses its {text} too, and is denied it." for text in used & mine]
            facts += [
                f"The guest of port {other.name} has probed for its {text}, and is denied it." for text in probed & mine
            ]
    return sorted(facts)


def _group_facts(port: LogicalPort, desired: Desired) -> list[str]:
    """What judges it, and where its connections are."""
    if not port.security_groups:
        return []
    groups = [desired.groups.get(uuid) for uuid in port.security_groups]
    names = ", ".join(sorted(group.name if group is not None else "one not sent yet" for group in groups))
    zone = desired.ct_zones.get(port.uuid)
    tracked = f", stateful, in zone {zone} of the connection tracker" if zone is not None else ""
    facts = [f"It may say and hear what its security groups allow: {names}{tracked}."]
    if port.uuid in desired.ct_full:
        facts.append(f"Now {full_sentence(port, desired.ct_full[port.uuid])}.")
    return facts


def _unheard(network: UUID, desired: Desired) -> str:
    sentence = unheard_sentence(desired.networks[network], desired.unheard[network])
    return f"{sentence[0].upper()}{sentence[1:]}."


def _unmatched(port: LogicalPort, desired: Desired) -> dict[UUID, list[str]]:
    """By group of a port without defined addresses, by which groups know their members: the groups that this host knows
    to have rules that name it. It knows those of its own ports only, the manager knows all."""
    if port.ips or any(one.ips for one in port.nested):
        return {}
    naming: dict[UUID, list[str]] = {uuid: [] for uuid in port.security_groups if uuid in desired.groups}
    for group in sorted(desired.groups.values(), key=lambda one: one.name):
        for uuid in naming.keys() & {rule.remote_group for rule in group.rules}:
            naming[uuid].append(group.name)
    return naming


def _unmatched_advice(port: LogicalPort | None, desired: Desired) -> list[str]:
    if port is None:
        return []
    sentences = [
        why_unmatched(
            port=_path(port, desired),
            group=desired.groups[uuid].name,
            rules_of=f"group{'s' * (len(naming) > 1)} {', '.join(naming)}",
            define_on=_path(desired.ports.get(port.shadow_of or port.uuid, port), desired),
        )
        for uuid, naming in _unmatched(port, desired).items()
        if naming
    ]
    return sorted(f"{one[0].upper()}{one[1:]}" for one in sentences)


def _unknown_rules_facts(port: LogicalPort, desired: Desired) -> list[str]:
    names = sorted(desired.groups[uuid].name for uuid, naming in _unmatched(port, desired).items() if not naming)
    return [
        f"It has no defined addresses: no rule that names {', '.join(names)} as the other end matches it; `netmgr port"
        f" show {_path(port, desired)}` says whether there is one."
        for _ in names[:1]
    ]


def _path(port: LogicalPort, desired: Desired) -> str:
    return f"{_network_name(port, desired)}/{port.name}"


def _where(location: Location, desired: Desired) -> str:
    host = desired.host.uuid if desired.host is not None else None
    if location.holder_host is None:
        words = "No host holds the port"
    else:
        who = "this host" if location.holder_host == host else _holder(location, desired)
        words = f"{who[0].upper()}{who[1:]} holds the port" + (
            ", parked: its guest is stopped" if location.parked else ""
        )
    if location.incoming_host is not None:
        words += "; it is coming " + (
            "here" if location.incoming_host == host else f"to {_incoming(location, desired)}"
        )
    return f"{words} (version {location.version})."


def _holder(location: Location, desired: Desired) -> str:
    return _host(location.holder_host, location.holder_vtep, desired)


def _incoming(location: Location, desired: Desired) -> str:
    return _host(location.incoming_host, location.incoming_vtep, desired)


def _host(uuid: UUID | None, vtep: str, desired: Desired) -> str:
    """By its name, where the manager has told this host who is behind the VTEP."""
    peers = desired.host.peers if desired.host is not None else ()
    name = next((peer.host_name for peer in peers if peer.vtep == vtep and peer.host_name), "")
    return f"host {name} ({uuid})" if name else f"host {uuid}"


def _advice(status: VifStatus, port: LogicalPort | None, desired: Desired) -> list[str]:
    if "plugged twice" in status.reason:
        return ["Give one of the two interfaces a VIF UUID of its own, or unplug it."]
    if port is None and "no logical port is known" not in status.reason:
        return ["That is the manager's answer; the agent asks again by itself, at once when something changes there."]
    if port is None:
        return [f"Attach the VIF to a port at the manager: netmgr port attach PORT --vif {status.vif_uuid}"]
    if port.shadow_of is not None:
        return [f"Nothing; failover lights it: netmgr port failover {port.name}"]
    if not port.admin_up:
        return [f"Set the port up at the manager: netmgr port set {port.name} --up"]
    location = desired.locations.get(port.uuid)
    host = desired.host.uuid if desired.host is not None else None
    if port.network_uuid not in desired.networks:
        return ["Add the host to the network's transport zone: netmgr host set HOST --zone …"]
    if location is None or location.holder_host is None:
        return ["The agent asks the manager for it again and again; if it stays dark, see the reason above."]
    if location.holder_host != host:
        return [
            f"Stop the guest at {_holder(location, desired)}, or migrate it here; one VIF can be in one place only. If"
            " they are two guests, give one a VIF UUID of its own."
        ]
    if location.parked:
        return ["The agent asks the manager to unpark it as soon as the guest is seen to run."]
    return [
        "`hostagent show` tells what keeps the switch from being as wanted; `ovs-vsctl show` what Open vSwitch says."
    ]

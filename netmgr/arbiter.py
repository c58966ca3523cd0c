"""Who may hold a port: the one place where locations are decided, as pure functions of `World`.

Theory of operation. A port is *unbound*, *held* by one host (whose guest is running, or *parked*: stopped there) and,
while a guest migrates, *incoming* at one other. A host asks before the tap exists:

    found                                  start         migrate-in    why
    unbound, or its holder is gone         holder        holder        nobody to ask
    held by the claimant                   holder        holder        an agent that restarts asks again; unparks
      and incoming at another              holder        incoming      it comes straight back: it runs at the other
    incoming at the claimant               as it is      as it is      asked twice; holder if the source has parked it
    parked elsewhere                       holder        holder        a stopped guest starts where it likes
    held elsewhere                         refused       incoming      only its own migration may take a running VIF
    incoming at a third host               refused       refused       one migration at a time

A network that is *withdrawn* from the claimant takes nothing new there: what would make it holder, holder again after
the guest had stopped, or incoming is refused. What it holds for a running guest and what is coming already goes on.

A *sub-port* is claimed by nobody: it is where its parent is, in the same transaction. So a host gets a parent only if
the networks of all its sub-ports are there too, and not withdrawn from it.

A VIF's UUID is what entitles to its port. A guest whose definition names no VIF gets a new one from libvirt at each
start, and can show nothing but its MAC, which whoever defines a guest chooses. So the MAC alone takes nothing. A claim
to start with the MAC of a *parked* port takes that port over, with all that belongs to it, where there is evidence that
it is the same guest: a claim made the port, it was last granted to the VM that asks, and it asks from the host that
holds the port or from the one that made it, where libvirt keeps a VM's UUID from being used twice. Likewise a running
VIF is taken along by the VM that it was granted to, and by no other that claims to migrate in with its MAC.

The VIF of a guest that nobody made a port for, on a network that takes only ports made for it, is refused as *dark*: it
may be plugged, carries nothing, and is asked for again once its port is attached.

Later the destination says that the guest runs there (*activation*: it becomes holder), or one side gives up
(*release*).

A location's version only grows. Releases and activations name the version that the host acted on: if the location has
changed since, what the host says is about something that is over, and it is ignored, with two exceptions. Parking by
the holder changes nothing for the incoming host, which may still activate. And a grant to another changes nothing for
the holder, whose guest may still stop. Both say only what the host itself knows best.

A version is the larger of its predecessor plus one and `now_ms`. The clock decides nothing between two versions of one
port; it makes whatever is decided after a backup of the store was restored newer than anything decided before, so that
hosts, which keep the highest version they have seen, believe it. A host that names a version newer than the
store's (but older than the clock) has seen decisions that the restored store lost: what the holder or the incoming host
says of its own guest then counts, everybody else's word does not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from uuid import UUID

from netmgr.contract.types import (
    AttachMode,
    Claim,
    ClaimIntent,
    Kind,
    Location,
    LogicalPort,
    OpaqueNetwork,
    ReleaseReason,
    why_withdrawn,
)
from netmgr.model import HostRecord, PortHistory, World, location_mac
from netmgr.rules.trunks import subports_of

__all__ = ["Grant", "Refusal", "decide_activation", "decide_claim", "decide_release"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """The claimant may plug. `created`: the port is new. The three rows may equal those in the world."""

    port: LogicalPort
    location: Location
    history: PortHistory
    created: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """What is not done, and why, in one sentence. `dark`: the VIF may be plugged all the same, it carries nothing."""

    sentence: str
    dark: bool = False


def decide_claim(world: World, *, host: UUID, claim: Claim, new_port_uuid: UUID, now_ms: int = 0) -> Grant | Refusal:
    """May *host* plug this VIF? Same claim, same answer: repeating it changes nothing.

    *new_port_uuid* names the port that the claim of an unknown VIF creates on a network that attaches by itself.
    """
    record = world.hosts.get(host)
    if record is None:
        return Refusal(f"host {host} is not enrolled; join it again")
    port = _port_of_vif(world, claim.vif_uuid) or _left_behind(world, record, claim)
    if port is not None and port.parent_port is not None:
        return _no_party(world, port)
    network_uuid = port.network_uuid if port else claim.network_uuid
    if network_uuid is None:
        return Refusal(
            f"VIF {claim.vif_uuid} is attached to no port, and the claim names no network to create one on; "
            "attach it to a port"
        )
    network = world.networks.get(network_uuid)
    if network is None:
        return Refusal(f"network {network_uuid} does not exist; VIF {claim.vif_uuid} can't be plugged into it")
    out_of_reach = _out_of_reach(world, record, network)
    if out_of_reach:
        return out_of_reach
    if port is None:
        return _withdrawn(world, record, network) or _create(world, record, network, claim, new_port_uuid, now_ms)
    mismatch = _mismatch(world, port, network, claim) or _stranger(world, port, claim)
    if mismatch:
        return mismatch
    decided = _arbitrate(world, record, network, port, claim, now_ms)
    if isinstance(decided, Refusal):
        return decided
    found = world.locations.get(port.uuid)
    takes_it = decided != found and (found is None or found.incoming_host != host)
    for carried in (network, *(world.networks[one.network_uuid] for one in subports_of(world, port))):
        refusal = _out_of_reach(world, record, carried) or (_withdrawn(world, record, carried) if takes_it else None)
        if refusal:
            return refusal
    history = world.port_histories.get(port.uuid) or PortHistory(port_uuid=port.uuid)
    if claim.vm_uuid is not None:
        history = replace(history, vm_uuid=claim.vm_uuid)
    return Grant(port=port, location=decided, history=history, created=False)


def decide_activation(
    world: World, *, host: UUID, port_uuid: UUID, version: int, now_ms: int = 0
) -> Location | Refusal | None:
    """The guest runs on *host*, which acted on *version*: the new location, None if it is so already, or why not."""
    port = world.ports.get(port_uuid)
    if port is not None and port.parent_port is not None:
        return _no_party(world, port)
    found = _location(world, host, port_uuid, version, now_ms)
    if not isinstance(found, Location):
        return found
    if found.holder_host == host:
        if not found.parked:
            return None
        return _stale(world, found, host, version) or _changed(found, now_ms, parked=False)
    if found.incoming_host != host:
        return Refusal(
            f"{_port_words(world, port_uuid)} is {_whereabouts(world, found)}, not coming to host "
            f"{_host_name(world, host)}: the guest there stays dark"
        )
    if not found.parked:  # parking by the source leaves the grant as it was
        stale = _stale(world, found, host, version)
        if stale:
            return stale
    return _changed(
        found,
        now_ms,
        holder_host=host,
        holder_vtep=found.incoming_vtep,
        incoming_host=None,
        incoming_vtep="",
        parked=False,
    )


def decide_release(
    world: World, *, host: UUID, port_uuid: UUID, version: int, why: ReleaseReason, now_ms: int = 0
) -> Location | Refusal | None:
    """The VIF left *host*, or did not come, or stayed: the new location, None if it is so already, or why not."""
    port = world.ports.get(port_uuid)
    if port is not None and port.parent_port is not None:
        return _no_party(world, port)
    found = _location(world, host, port_uuid, version, now_ms)
    if not isinstance(found, Location):
        return found
    moving = found.incoming_host is not None
    if found.incoming_host == host and why is not ReleaseReason.RESUMED:
        # A grant whose source has parked since is still the grant that the host gives back.
        stale = None if found.parked else _stale(world, found, host, version)
        return stale or _changed(found, now_ms, incoming_host=None, incoming_vtep="")
    if found.holder_host != host:
        return None
    if why is ReleaseReason.STOPPED:
        if found.parked:
            return None
        stale = None if moving else _stale(world, found, host, version)
        return stale or _changed(found, now_ms, parked=True)
    if moving:  # the source runs on, or calls the move off
        return _stale(world, found, host, version) or _changed(found, now_ms, incoming_host=None, incoming_vtep="")
    if why is ReleaseReason.ABORTED and not found.parked:  # a start that failed
        return _stale(world, found, host, version) or _changed(found, now_ms, parked=True)
    return None


def _arbitrate(
    world: World, record: HostRecord, network: OpaqueNetwork, port: LogicalPort, claim: Claim, now_ms: int
) -> Location | Refusal:
    host = record.uuid
    found = world.locations.get(port.uuid) or Location(
        port_uuid=port.uuid, network_uuid=network.uuid, mac=location_mac(port)
    )
    holder = found.holder_host if found.holder_host in world.hosts else None
    incoming = found.incoming_host if found.incoming_host in world.hosts else None
    as_holder = {
        "network_uuid": network.uuid,
        "mac": location_mac(port),
        "holder_host": host,
        "holder_vtep": _vtep(record, network),
        "incoming_host": None,
        "incoming_vtep": "",
        "parked": False,
    }
    if holder == host:
        if incoming is not None and claim.intent is ClaimIntent.MIGRATE_IN:
            # What migrates to the recorded holder has left it: the other's activation is still on its way.
            return _changed(
                found,
                now_ms,
                holder_host=incoming,
                holder_vtep=found.incoming_vtep,
                incoming_host=host,
                incoming_vtep=_vtep(record, network),
                parked=False,
            )
        if found.parked:
            return _changed(found, now_ms, **as_holder)
        return found
    if incoming == host:
        if holder is None or (found.parked and claim.intent is ClaimIntent.START):
            return _changed(found, now_ms, **as_holder)
        return found
    if incoming is not None:
        return Refusal(
            f"{_port_words(world, port.uuid)} is {_whereabouts(world, found)}: a migration to host "
            f"{_host_name(world, incoming)} is under way; wait for its end"
        )
    if holder is None or found.parked:
        return _changed(found, now_ms, **as_holder)
    if claim.intent is ClaimIntent.MIGRATE_IN:
        return _changed(found, now_ms, incoming_host=host, incoming_vtep=_vtep(record, network))
    return Refusal(
        f"{_port_words(world, port.uuid)} is held by host {_host_name(world, holder)}, where its guest runs; "
        f"stop it there or migrate it, before it can start on host {record.name}"
    )


def _create(
    world: World, record: HostRecord, network: OpaqueNetwork, claim: Claim, new_port_uuid: UUID, now_ms: int
) -> Grant | Refusal:
    if network.attach_mode is AttachMode.MANUAL:
        return Refusal(
            f"VIF {claim.vif_uuid} is attached to no port, and network {network.name} takes only ports made for it "
            f"(attach mode manual); make one and attach the VIF: netmgr port create, netmgr port attach",
            dark=True,
        )
    mac = claim.mac.lower()
    if not _UNICAST_MAC.fullmatch(mac):
        return Refusal(
            f"VIF {claim.vif_uuid} on network {network.name} needs a unicast MAC like 52:54:00:12:34:56, "
            f"got {claim.mac!r}"
        )
    other = world.unique.get(("mac", network.uuid, mac))
    if other is not None:
        return Refusal(
            f"MAC {mac} on network {network.name} belongs to {_port_words(world, other)}, VIF "
            f"{world.ports[other].vif_uuid or 'none'}{_last_guest(world, other)}, not to VIF {claim.vif_uuid} of VM "
            f"{claim.vm_uuid or 'unknown'} on host {record.name}; {_mac_advice(world, other, claim)}"
        )
    port = LogicalPort(
        uuid=new_port_uuid,
        name=_free_name(world, network, claim),
        network_uuid=network.uuid,
        vif_uuid=claim.vif_uuid,
        mac=mac,
    )
    location = Location(
        port_uuid=port.uuid,
        network_uuid=network.uuid,
        mac=mac,
        holder_host=record.uuid,
        holder_vtep=_vtep(record, network),
        version=max(1, now_ms),
    )
    history = PortHistory(port_uuid=port.uuid, made_by=record.uuid, vm_uuid=claim.vm_uuid)
    return Grant(port=port, location=location, history=history, created=True)


_UNICAST_MAC = re.compile(r"(?!00:00:00:00:00:00)[0-9a-f][02468ace](:[0-9a-f]{2}){5}")
_NAME_LENGTH_MAX = 63


def _free_name(world: World, network: OpaqueNetwork, claim: Claim) -> str:
    """The VM's name, made fit to be a port's, with as much of the VIF's UUID as it takes to be unique."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", claim.vm_name).strip("._-")
    vif = str(claim.vif_uuid)
    tries = [stem[:_NAME_LENGTH_MAX], f"{stem[: _NAME_LENGTH_MAX - 9]}-{vif[:8]}"] if stem else []
    for name in tries:
        if ("name", Kind.PORT, network.uuid, name) not in world.unique:
            return name
    return vif


def _no_party(world: World, port: LogicalPort) -> Refusal:
    """Nobody but its parent takes a sub-port anywhere."""
    assert port.parent_port is not None
    return Refusal(
        f"{_port_words(world, port.uuid)} is a sub-port (tag {port.tag}) of {_port_words(world, port.parent_port)}, "
        "and is where that is; a VIF of its own can't have it: give the interface another UUID"
    )


def _out_of_reach(world: World, record: HostRecord, network: OpaqueNetwork) -> Refusal | None:
    zone = world.zones.get(network.zone_uuid)
    zone_name = zone.name if zone else str(network.zone_uuid)
    if network.zone_uuid not in record.zone_uuids:
        return Refusal(
            f"network {network.name} ({network.uuid}) spans transport zone {zone_name}, which host {record.name} is "
            f"not in; use a host of zone {zone_name}, or add the host to it"
        )
    if network.type.tunneled and not _vtep(record, network):
        return Refusal(
            f"host {record.name} has no VTEP address on the switch of network {network.name} "
            f"(zone {zone_name}); enlarge the switch's VTEP pool"
        )
    return None


def _withdrawn(world: World, record: HostRecord, network: OpaqueNetwork) -> Refusal | None:
    withdrawal = world.withdrawal_from(network.uuid, record.uuid)
    if withdrawal is None:
        return None
    one_host = f" --host {record.name}" if withdrawal.host_uuid else ""
    elsewhere = "" if withdrawal.host_uuid is None else ", or choose another host"
    return Refusal(
        f"{why_withdrawn(withdrawal, network=network.name, host=record.name)}; no VM is started or moved there "
        f"until it is restored (netmgr network restore {network.name}{one_host}){elsewhere}"
    )


def _mismatch(world: World, port: LogicalPort, network: OpaqueNetwork, claim: Claim) -> Refusal | None:
    if claim.network_uuid is not None and claim.network_uuid != port.network_uuid:
        asked = world.networks.get(claim.network_uuid)
        return Refusal(
            f"VIF {claim.vif_uuid} is attached to {_port_words(world, port.uuid)}, not to network "
            f"{asked.name if asked else claim.network_uuid}; connect the guest to {network.name}, or detach the VIF"
        )
    if claim.mac and claim.mac.lower() != port.mac:
        return Refusal(
            f"{_port_words(world, port.uuid)} has MAC {port.mac}, but VIF {claim.vif_uuid} comes with {claim.mac}; "
            "make the two equal"
        )
    return None


def _location(world: World, host: UUID, port_uuid: UUID, version: int, now_ms: int) -> Location | Refusal | None:
    """The location of the port, if what *host* says of it can have a meaning."""
    found = world.locations.get(port_uuid)
    if found is None:
        return None  # gone since; the removal is on its way to the host
    if version > found.version and (version >= now_ms or host not in (found.holder_host, found.incoming_host)):
        return Refusal(
            f"host {_host_name(world, host)} acted on version {version} of the location of "
            f"{_port_words(world, port_uuid)}, but the store knows only {found.version}: was a backup restored?"
        )
    return found


def _stale(world: World, found: Location, host: UUID, version: int) -> Refusal | None:
    if version >= found.version:
        return None
    return Refusal(
        f"host {_host_name(world, host)} acted on version {version} of the location of "
        f"{_port_words(world, found.port_uuid)}, which is {_whereabouts(world, found)} since version {found.version}"
    )


def _changed(found: Location, now_ms: int, **changes: object) -> Location:
    return replace(found, version=max(found.version + 1, now_ms), **changes)  # type: ignore[arg-type]


def _vtep(record: HostRecord, network: OpaqueNetwork) -> str:
    """VTEP address of the host on the network's switch, without prefix length; empty without one."""
    return next((v.address.split("/")[0] for v in record.vteps if v.switch_uuid == network.switch_uuid), "")


def _port_of_vif(world: World, vif_uuid: UUID) -> LogicalPort | None:
    port_uuid = world.port_by_vif.get(vif_uuid)
    return None if port_uuid is None else world.ports[port_uuid]


def _left_behind(world: World, record: HostRecord, claim: Claim) -> LogicalPort | None:
    """The parked port that this very guest left, with the claim's VIF in place of its own; None when there is none."""
    network = world.networks.get(claim.network_uuid) if claim.network_uuid is not None else None
    if network is None or network.attach_mode is not AttachMode.AUTO or claim.intent is not ClaimIntent.START:
        return None
    uuid = world.unique.get(("mac", network.uuid, claim.mac.lower()))
    if uuid is not None and world.ports[uuid].mac != claim.mac.lower():
        return None  # a MAC behind its VIF is no title to it
    location = world.locations.get(uuid) if uuid is not None else None
    if uuid is None or location is None or not location.parked or location.incoming_host is not None:
        return None
    history = world.port_histories.get(uuid)
    if history is None or history.made_by is None or history.vm_uuid is None or history.vm_uuid != claim.vm_uuid:
        return None
    if record.uuid not in (location.holder_host, history.made_by):
        return None
    return replace(world.ports[uuid], vif_uuid=claim.vif_uuid)


def _stranger(world: World, port: LogicalPort, claim: Claim) -> Refusal | None:
    """A VM that says it migrates in with the VIF of another one that runs."""
    location, history = world.locations.get(port.uuid), world.port_histories.get(port.uuid)
    if claim.intent is not ClaimIntent.MIGRATE_IN or location is None or location.parked or history is None:
        return None
    if location.holder_host not in world.hosts or None in (claim.vm_uuid, history.vm_uuid):
        return None
    if claim.vm_uuid == history.vm_uuid:
        return None
    return Refusal(
        f"{_port_words(world, port.uuid)} is {_whereabouts(world, location)} for VM {history.vm_uuid}, and VM "
        f"{claim.vm_uuid} migrates in with its VIF {claim.vif_uuid}; give that VM's interface a VIF UUID and a MAC of "
        "its own"
    )


def _last_guest(world: World, port_uuid: UUID) -> str:
    """Whom a port was last granted to, and where it is, as part of a sentence."""
    history, location = world.port_histories.get(port_uuid), world.locations.get(port_uuid)
    vm = f", last granted to VM {history.vm_uuid}" if history is not None and history.vm_uuid is not None else ""
    return vm + (f", {_whereabouts(world, location)}" if location is not None else "")


def _mac_advice(world: World, port_uuid: UUID, claim: Claim) -> str:
    """What to do about a MAC that has a port already: the same guest's, of another start, or another's."""
    history, location = world.port_histories.get(port_uuid), world.locations.get(port_uuid)
    known = history is not None and history.vm_uuid is not None and history.vm_uuid == claim.vm_uuid
    words = "give the guest's interface that interfaceid, or another MAC, or delete the port if its guest is gone "
    words += "(netmgr port delete)"
    if not known or location is None or location.holder_host not in world.hosts:
        return words
    if not location.parked:
        return "this VM runs there: stop it there, or migrate it"
    return f"start the VM at host {_host_name(world, location.holder_host)}, where it stopped, or {words}"


def _host_name(world: World, uuid: UUID) -> str:
    host = world.hosts.get(uuid)
    return host.name if host else str(uuid)


def _port_words(world: World, uuid: UUID) -> str:
    port = world.ports.get(uuid)
    if port is None:
        return f"port {uuid}"
    network = world.networks.get(port.network_uuid)
    return f"port {port.name} of network {network.name if network else port.network_uuid}"


def _whereabouts(world: World, found: Location) -> str:
    if found.holder_host is None:
        return "unbound"
    words = f"{'parked at' if found.parked else 'held by'} host {_host_name(world, found.holder_host)}"
    if found.incoming_host is not None:
        words += f" and incoming at host {_host_name(world, found.incoming_host)}"
    return words

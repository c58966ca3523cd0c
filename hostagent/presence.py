"""VIFs on this host: which are seen, and what the manager must be asked or told about each.

Theory of operation. A VIF is an interface on one of our bridges whose external_ids carry `iface-id` (see `vifs`); its
UUID leads over the mapping table to the port, and the port's location says whether this host holds it. From that, and
from when each was last seen, two things follow, compared whole each time and never remembered as deeds:

- *claims*: a VIF is plugged here whose port this host does not hold, or holds parked;
- *releases*: a port is held here, or coming here, whose VIF has been gone for a while. A granted claim gives the tap
  time to appear; a vswitchd that is away or restarting is no sign of absence.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from uuid import UUID

from hostagent.flow import Flow
from hostagent.indexed import Overlaid, held_here
from hostagent.model import Bridge, Desired, Interface, Unread
from hostagent.names import SUBPORT_KEY, is_switch_bridge
from hostagent.vifs import lit_ofports, taps_of, uuid_of, vif_of
from netmgr.contract.types import Location, ReleaseReason

__all__ = [
    "ABSENT_S",
    "LINGER_S",
    "NETWORK_KEY",
    "SeenVif",
    "Subscriptions",
    "due_claims",
    "due_releases",
    "seen_vif",
    "seen_vifs",
    "unpark",
    "wanted_networks",
]

NETWORK_KEY = "opaque-network"
"""external_ids key by which whoever plugs an endpoint without libvirt may say for which network it is."""

ABSENT_S = 1.0
"""A VIF is gone when it has not been seen for so long."""

LINGER_S = 60.0
"""A network stays subscribed to for so long after its last VIF here has gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenVif:
    """An interface with a VIF's UUID on one of our bridges. `plugged` is False while the datapath has no port for it;
    `awaited` is True until the switch has said whether it will.

    `twin_of` names the OVS port that has this UUID already; only that one may be lit.
    """

    vif_uuid: UUID
    ovs_port: str
    bridge: str
    mac: str
    vm_uuid: UUID | None
    network_uuid: UUID | None
    plugged: bool
    awaited: bool = False  # the switch has not looked at it yet
    ofport: int = 0
    lit: bool = False  # the switch lets its frames in
    twin_of: str = ""
    external_ids: Mapping[str, str]


def seen_vifs(bridges: Sequence[Bridge], flows: Mapping[str, Set[Flow] | Unread]) -> tuple[SeenVif, ...]:
    """VIFs on our bridges, sorted by UUID; *flows* say which of two with one UUID is lit already."""
    found = []
    for bridge in bridges:
        if not is_switch_bridge(bridge.external_ids):
            continue
        has = flows.get(bridge.name)
        taps = taps_of(bridge, has if isinstance(has, Set) else frozenset())
        lit = lit_ofports(has) if isinstance(has, Set) else frozenset()
        found += [seen_vif(bridge.name, interface, vif, lit) for vif, interface in taps.by_vif.items()]
        for interface in taps.doubles:
            vif = vif_of(interface)
            assert vif is not None
            found.append(replace(seen_vif(bridge.name, interface, vif, lit), twin_of=taps.by_vif[vif].name))
    return tuple(sorted(found, key=lambda vif: (vif.vif_uuid, bool(vif.twin_of), vif.ovs_port)))


def seen_vif(bridge: str, interface: Interface, vif: UUID, lit: Collection[int | None] = ()) -> SeenVif:
    """The *interface* of *vif* on *bridge*, which lets frames of the ports *lit* in."""
    ids = interface.external_ids
    return SeenVif(
        vif_uuid=vif,
        ovs_port=interface.name,
        bridge=bridge,
        mac=ids.get("attached-mac", "").lower(),
        vm_uuid=uuid_of(ids.get("vm-id", "")),
        network_uuid=uuid_of(ids.get(NETWORK_KEY, "")),
        plugged=interface.ofport is not None and interface.ofport > 0,
        awaited=interface.ofport is None and not interface.error,
        ofport=interface.ofport or 0,
        lit=interface.ofport in lit,
        external_ids=ids,
    )


def unpark(
    locations: Mapping[UUID, Location],
    *,
    vifs: Sequence[SeenVif],
    host: UUID,
    ports: Mapping[UUID, UUID],
    hidden: Collection[UUID] = (),
) -> Mapping[UUID, Location]:
    """*locations* where a port that this host holds counts as not parked while its VIF is plugged here.

    The manager may be away: the recorded holder's guest was started then, and it shall not stay dark until the manager
    has heard of it. No other host can get the port without the manager, whose word ends this. *ports* is by VIF. On
    *hidden* networks nothing new is lit, and what is lit stays so.
    """
    here = {}
    for vif in vifs:
        location = locations.get(ports[vif.vif_uuid]) if vif.plugged and vif.vif_uuid in ports else None
        if location is not None and location.parked and location.holder_host == host:
            if location.network_uuid in hidden and not vif.lit:
                continue
            here[location.port_uuid] = replace(location, parked=False)
    return Overlaid(locations, here) if here else locations


def due_claims(
    *,
    locations: Mapping[UUID, Location],
    vifs: Sequence[SeenVif],
    host: UUID,
    ports: Mapping[UUID, UUID],
    arriving: Collection[UUID] = (),
) -> tuple[SeenVif, ...]:
    """VIFs that are plugged here, or just being plugged (*arriving*), without this host being their port's holder or
    incoming host. *ports* is by VIF."""
    due = []
    for vif in vifs:
        if vif.twin_of or SUBPORT_KEY in vif.external_ids or not (vif.plugged or vif.vif_uuid in arriving):
            continue  # a sub-port is where its parent is: nobody claims it
        location = locations.get(ports[vif.vif_uuid]) if vif.vif_uuid in ports else None
        mine = location is not None and location.holder_host == host and not location.parked
        coming = location is not None and location.incoming_host == host
        if not (mine or coming):
            due.append(vif)
    return tuple(due)


def due_releases(
    *,
    desired: Desired,
    host: UUID,
    absent_since: Mapping[UUID, float],
    granted_until: Mapping[UUID, float],
    now: float,
) -> tuple[tuple[Location, ReleaseReason], ...]:
    """Ports whose VIF has gone from here: to be parked by their holder, or given up by the incoming host.

    *absent_since* is by VIF: when it was first found absent; *granted_until* is by VIF too: until when a granted claim
    waits for its tap. Both in the seconds of *now*.
    """
    due = []
    for location in held_here(desired.locations, host).values():
        port = desired.ports.get(location.port_uuid)
        if port is None or port.vif_uuid is None or port.parent_port is not None:
            continue
        since = absent_since.get(port.vif_uuid)
        if since is None or now - since < ABSENT_S or granted_until.get(port.vif_uuid, 0.0) > now:
            continue
        if location.incoming_host == host:
            due.append((location, ReleaseReason.ABORTED))
        elif not location.parked and location.incoming_host is None:
            due.append((location, ReleaseReason.STOPPED))
    return tuple(due)


def wanted_networks(
    *, desired: Desired, vifs: Sequence[SeenVif], ports: Mapping[UUID, UUID], claimed: Sequence[UUID]
) -> frozenset[UUID]:
    """Networks whose ports and locations this host needs: those with a VIF here, those of ports it holds or that are
    coming or just went, and those being claimed. *ports* is by VIF."""
    wanted = set(claimed)
    for vif in vifs:
        port = desired.ports.get(ports[vif.vif_uuid]) if vif.vif_uuid in ports else None
        if port is not None:
            wanted.add(port.network_uuid)
        elif vif.network_uuid is not None:
            wanted.add(vif.network_uuid)
    wanted.update(desired.locations[uuid].network_uuid for uuid in desired.phases if uuid in desired.locations)
    if desired.host is not None:
        own = held_here(desired.locations, desired.host.uuid)
        wanted.update(location.network_uuid for location in own.values() if not location.parked)
    return frozenset(wanted)


class Subscriptions:
    """Networks that this host subscribes to: widened at once, narrowed lazily. A guest that stops and starts, or a move
    that comes straight back, does not have all that is known of its network taken away and sent again."""

    def __init__(self) -> None:
        self._until: dict[UUID, float] = {}

    def follow(self, wanted: Collection[UUID], *, now: float) -> frozenset[UUID]:
        """Those to be subscribed to at *now*, in seconds of one clock, when *wanted* are needed."""
        self._until = {network: until for network, until in self._until.items() if until > now}
        self._until |= dict.fromkeys(wanted, now + LINGER_S)
        return frozenset(self._until)

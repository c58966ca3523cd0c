"""What a shadow port is: a port for a standby VIF that mirrors another one, its *primary*, and takes its place.

A shadow has its primary's network, MAC, addresses, security groups, allowances, nested MACs, limits and admin state,
and follows their changes; name and VIF are its own. It has a location like any port, is realized on its holder, and
stays dark. At *failover* the two change roles in one transaction: the shadow is lit where it is held, and what was the
primary is the shadow now. A shadow has no shadows.
"""

from __future__ import annotations

from typing import Any

from netmgr.contract.types import LogicalPort
from netmgr.model import NetmgrError, World
from netmgr.rules.usage import named

__all__ = ["MIRRORED", "check_failover", "check_shadow", "failover_pair", "mirrored"]

MIRRORED = ("mac", "ips", "admin_up", "security_groups", "allow", "nested", "egress_kbps", "ingress_kbps")
"""What a shadow has of its primary: all that its guest or its peers can notice."""


def mirrored(primary: LogicalPort) -> dict[str, Any]:
    """The fields of *primary* that its shadows have too."""
    return {name: getattr(primary, name) for name in MIRRORED}


def check_shadow(world: World, port: LogicalPort) -> None:
    """A shadow is one of an ordinary port of its network, and the same as that port in all that peers see."""
    if port.shadow_of is None:
        return
    network = world.networks[port.network_uuid]
    what = f"port {port.name} of network {network.name}"
    primary = world.ports[port.shadow_of]
    if primary.uuid == port.uuid:
        raise NetmgrError(f"{what}: can't be its own shadow; name another port")
    if primary.shadow_of is not None:
        raise NetmgrError(
            f"{what}: port {primary.name} is a shadow itself, of port {world.ports[primary.shadow_of].name}; make it a "
            "shadow of that one",
            status=409,
        )
    if primary.network_uuid != port.network_uuid:
        raise NetmgrError(
            f"{what}: port {primary.name} is of network {world.networks[primary.network_uuid].name}, and a shadow "
            "is of the same network as its primary",
            status=409,
        )
    if world.shadows_of.get(port.uuid):
        shadows = named(world.ports[uuid].name for uuid in world.shadows_of[port.uuid])
        raise NetmgrError(f"{what}: has shadows ({shadows}), so it can't become one; delete them first", status=409)
    for field, wanted in mirrored(primary).items():
        if getattr(port, field) != wanted:
            if field == "security_groups":
                wanted = tuple(sorted(world.groups[uuid].name for uuid in wanted))
            if field == "nested":
                wanted = tuple(one.mac for one in wanted)
            shown = (", ".join(wanted) or "empty") if isinstance(wanted, tuple) else wanted
            raise NetmgrError(
                f"{what}: mirrors port {primary.name}, whose {field} is {shown}; leave {field} out, or set it there "
                "and it follows",
                status=409,
            )


def failover_pair(world: World, port: LogicalPort) -> tuple[LogicalPort, LogicalPort]:
    """The primary and the shadow that takes its place. *port* is the shadow, or a primary with one shadow only."""
    network = world.networks[port.network_uuid].name
    if port.shadow_of is not None:
        primary, shadow = world.ports[port.shadow_of], port
        return primary, shadow
    shadows = [world.ports[uuid] for uuid in world.shadows_of.get(port.uuid, ())]
    if len(shadows) != 1:
        found = (
            f"has several ({named(one.name for one in shadows)}); name the one that shall take its place"
            if shadows
            else f"has none; make one first: netmgr port create NAME --shadow-of {network}/{port.name}"
        )
        raise NetmgrError(f"port {port.name} of network {network}: failover needs a shadow, and it {found}", status=409)
    return port, shadows[0]


def check_failover(world: World, primary: LogicalPort, shadow: LogicalPort) -> None:
    """A host holds *shadow* for a VIF that is plugged: else the network would lose the VM to nowhere."""
    network = world.networks[primary.network_uuid].name
    location = world.locations.get(shadow.uuid)
    if location is None or location.holder_host is None or location.parked:
        where = "is parked" if location is not None and location.parked else "is held by no host"
        raise NetmgrError(
            f"port {shadow.name} of network {network}, the shadow of {primary.name}, {where}: nobody would answer "
            "after a failover; start its standby VM first, or repeat with force",
            status=409,
        )

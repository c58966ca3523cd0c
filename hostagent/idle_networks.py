"""Networks that come or go and leave a host at rest: told from what is known of it, without a plan. Pure.

Theory of operation. A host at rest has nothing left to do. Mostly what comes or goes next is a network of which it
knows no port, and such a network has no flows (`flows`): it needs the port by which its type leaves the switch, which
is there if another network of the type is, and nothing else. What is to be found out is whether one that comes must be
rejected, and whether one that goes was the last of its type. That costs a twentieth of a plan, and all hosts of a zone
are asked at the same time, by somebody who waits.

`at_rest_with` says yes where `plan` would say that there is nothing to do, `resolve` that nothing is rejected, and
nothing is being measured; in whatever is not plain it says no, and the loop looks at the whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from uuid import UUID

from hostagent.indexed import rows_of
from hostagent.model import Desired, Observed, Unread
from hostagent.resolve import SwitchIntent, claims_of, definition_problems, resolve
from hostagent.underlay.path_fit import Fit, by_tunnel, fit, peer_names
from netmgr.contract.types import OpaqueNetwork

__all__ = ["at_rest_with"]


def at_rest_with(
    changed: Collection[UUID], *, networks: Mapping[UUID, OpaqueNetwork], rested: Desired, observed: Observed
) -> bool:
    """Whether the host stays at rest, and accepts what came, when nothing is new but that networks, *changed*, came
    or went.

    *networks* are all that are wanted now. *rested* and *observed* are the host at rest; its tables of ports and
    locations are those of now.
    """
    if not isinstance(observed.libvirt_networks, Unread):
        return False  # libvirt is to be told of it
    coming = [networks[uuid] for uuid in changed if uuid in networks]
    if any(network.uuid in rested.networks for network in coming):
        return False  # some are others than they were
    resolved = resolve(rested, observed)
    if resolved.rejections:
        return False  # the reason may be theirs too, or may go with them
    going = [rested.networks[uuid] for uuid in changed if uuid in rested.networks]
    intents = resolved.switches
    return all(_leaves_nothing(network, networks.values(), rested) for network in going) and all(
        _asks_nothing(network, networks.values(), intents.get(network.switch_uuid), rested, observed)
        for network in coming
    )


def _leaves_nothing(network: OpaqueNetwork, networks: Iterable[OpaqueNetwork], rested: Desired) -> bool:
    """Nothing was made for it that others do not need."""
    way = (network.switch_uuid, network.type)
    return (
        network.type.tunneled  # a VLAN is to be taken off the trunk
        and _has_no_ports(network, rested)
        and any((other.switch_uuid, other.type) == way for other in networks)
    )


def _asks_nothing(
    network: OpaqueNetwork,
    networks: Iterable[OpaqueNetwork],
    intent: SwitchIntent | None,
    rested: Desired,
    observed: Observed,
) -> bool:
    if intent is None or intent.blocked or network.type not in intent.types:
        return False  # a VLAN is among no types: the trunk must let it through
    return (
        _has_no_ports(network, rested)
        and not any(definition_problems(network, intent.switch, intent.vtep, {}))
        and _fits(network, rested, observed)
        and not _contends(network, networks)
    )


def _has_no_ports(network: OpaqueNetwork, rested: Desired) -> bool:
    return not rows_of(rested.ports, network.uuid) and not rows_of(rested.locations, network.uuid)


def _fits(network: OpaqueNetwork, rested: Desired, observed: Observed) -> bool:
    """Nothing is to be said of the paths to its peers."""
    paths = by_tunnel(observed.paths).get((network.switch_uuid, network.type))
    return paths is None or fit(network, paths, peer_names(rested)) == Fit()


def _contends(network: OpaqueNetwork, networks: Iterable[OpaqueNetwork]) -> bool:
    """Whether another of *networks* wants what one at a time can have. It is tunneled, so no uplink is in question."""
    claims = set(claims_of(network, {}))
    return any(other is not network and not claims.isdisjoint(claims_of(other, {})) for other in networks)

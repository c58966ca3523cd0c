"""Networks that come to a host at rest and leave it at rest: told from what is known of it, without a plan. Pure.

Theory of operation. A host at rest has nothing left to do. Mostly what comes next is a network of which it knows no
port, and such a network has no flows (`flows`): it needs the port by which its type leaves the switch, which is there
if another network of the type is, and nothing else. What is to be found out is only whether it must be rejected. That
costs a twentieth of a plan, and all hosts of a zone are asked at the same time, by somebody who waits.

`at_rest_with` says yes where `plan` would say that there is nothing to do, `resolve` that nothing new is rejected, and
nothing is being measured; in whatever is not plain it says no, and the loop looks at the whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from uuid import UUID

from hostagent.indexed import rows_of
from hostagent.model import Desired, Observed, Unread
from hostagent.resolve import SwitchIntent, claims_of, definition_problems, resolve
from hostagent.underlay.path_fit import Fit, by_tunnel, fit, peer_names
from netmgr.contract.types import OpaqueNetwork

__all__ = ["at_rest_with"]


def at_rest_with(
    coming: Collection[UUID], *, networks: Iterable[OpaqueNetwork], rested: Desired, observed: Observed
) -> bool:
    """Whether the host stays at rest when nothing is new but the networks *coming*, and accepts them.

    *networks* are all that are wanted now. *rested* and *observed* are the host at rest; its tables of ports and
    locations are those of now.
    """
    if not isinstance(observed.libvirt_networks, Unread):
        return False  # libvirt is to be told of it
    all_now = list(networks)
    new = [network for network in all_now if network.uuid in coming]
    if len(new) < len(coming) or any(network.uuid in rested.networks for network in new):
        return False  # some were removed, or are others than they were
    resolved = resolve(rested, observed)
    if resolved.rejections:
        return False  # the reason may be theirs too
    intents = resolved.switches
    return all(_is_plain(network, all_now, intents.get(network.switch_uuid), rested, observed) for network in new)


def _is_plain(
    network: OpaqueNetwork,
    networks: Iterable[OpaqueNetwork],
    intent: SwitchIntent | None,
    rested: Desired,
    observed: Observed,
) -> bool:
    if intent is None or intent.blocked or network.type not in intent.types:
        return False  # a VLAN is among no types: the trunk must let it through
    return (
        not rows_of(rested.ports, network.uuid)
        and not rows_of(rested.locations, network.uuid)
        and not any(definition_problems(network, intent.switch, intent.vtep, {}))
        and _fits(network, rested, observed)
        and not _contends(network, networks)
    )


def _fits(network: OpaqueNetwork, rested: Desired, observed: Observed) -> bool:
    """Nothing is to be said of the paths to its peers."""
    paths = by_tunnel(observed.paths).get((network.switch_uuid, network.type))
    return paths is None or fit(network, paths, peer_names(rested)) == Fit()


def _contends(network: OpaqueNetwork, networks: Iterable[OpaqueNetwork]) -> bool:
    """Whether another of *networks* wants what one at a time can have. It is tunneled, so no uplink is in question."""
    claims = set(claims_of(network, {}))
    return any(other is not network and not claims.isdisjoint(claims_of(other, {})) for other in networks)

"""Is the destination's network ready for this VM, and does it stay so? Pure.

Beyond `vmctl.eligibility`, a move wants the MTU of each network to be the same on both ends: a guest does not learn of
another one, and its full frames would vanish. While memory is copied the destination's view is watched: a network that
disappears from it, or turns maintenance, unavailable or down, has been withdrawn, and the move is stopped before the
guest is switched over. A view that cannot be read meanwhile withdraws nothing: unread is not absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from netmgr.contract.types import Status
from vmctl.model import Candidate, Code, HostView, NetworkView, Refusal, VifView, Vm

__all__ = ["CAN_WAIT", "all_lit", "mtu_refusals", "withdrawn"]

# what a destination mends by itself within moments, so that a move may wait for it
CAN_WAIT = frozenset({Code.NOT_IN_SYNC})
_WITHDRAWN = (Status.MAINTENANCE, Status.UNAVAILABLE, Status.DOWN)


def mtu_refusals(vm: Vm, *, source: Candidate, destination: Candidate) -> tuple[Refusal, ...]:
    """A refusal for each network of *vm* whose MTU is known on both ends and is not the same."""
    found = []
    for uuid in _networks(vm):
        here, there = _network(source, uuid), _network(destination, uuid)
        if here is not None and there is not None and here.mtu and there.mtu and here.mtu != there.mtu:
            sentence = (
                f"network {there.name} ({uuid}) has MTU {here.mtu} on {source.host} and {there.mtu} on "
                f"{destination.host}, and {vm.name} would not notice; wait until both have realized the same "
                f"(`hostagent show`), or choose another host"
            )
            found.append(Refusal(host=destination.host, code=Code.MTU_DIFFERS, sentence=sentence, network_uuid=uuid))
    return tuple(found)


def withdrawn(vm: Vm, destination: Candidate) -> str:
    """Why *vm* must not be switched over to *destination* any more, empty when it may."""
    if not isinstance(destination, HostView):
        return ""
    names = {vif.network_uuid: vif.network_name for vif in vm.vifs}
    for uuid in _networks(vm):
        network = destination.network(uuid)
        if network is None:
            return f"network {names[uuid]} ({uuid}) was withdrawn from {destination.host} while memory was copied"
        if network.status in _WITHDRAWN:
            because = f": {'; '.join(network.reasons)}" if network.reasons else ""
            return (
                f"network {network.name} ({uuid}) turned {network.status} on {destination.host} while memory was "
                f"copied{because}"
            )
    return ""


def all_lit(vm: Vm, destination: Candidate) -> bool:
    """True when *destination* says that every opaque VIF of *vm* is lit there."""
    if not isinstance(destination, HostView):
        return False
    wanted = {vif.uuid for vif in vm.vifs if vif.opaque and vif.uuid}
    return bool(wanted) and wanted <= {vif.uuid for vif in _lit(destination.vifs)}


def _lit(vifs: Sequence[VifView]) -> list[VifView]:
    return [vif for vif in vifs if vif.state.value == "lit"]


def _networks(vm: Vm) -> tuple[UUID, ...]:
    return tuple(dict.fromkeys(vif.network_uuid for vif in vm.vifs if vif.opaque and vif.network_uuid))


def _network(view: Candidate, uuid: UUID) -> NetworkView | None:
    return view.network(uuid) if isinstance(view, HostView) else None

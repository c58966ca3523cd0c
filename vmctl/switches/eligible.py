"""May this VM go to that host, as far as traditional switches are concerned? Pure.

`vmctl.eligibility` asks for opaque networks; a NIC on a traditional switch wants that switch realized on the host. On
an isolated switch a VM would find other neighbours on every host, so a running one does not move.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from vmctl.model import Code, Refusal, Vm
from vmctl.switches.model import HostState, HostSwitch, Switch, Uplink

__all__ = ["switch_refusals"]


def switch_refusals(
    vm: Vm, host: str, *, switches: Sequence[Switch], states: Mapping[UUID, HostSwitch], move: bool
) -> tuple[Refusal, ...]:
    """Why *host* may not have *vm*, one refusal a switch; *states* is how each switch fares there.

    *move* is False for a power-on.
    """
    by_uuid = {switch.uuid: switch for switch in switches}
    used = {
        by_uuid[vif.network_uuid]: vif
        for vif in vm.vifs
        if not vif.opaque and vif.network_uuid is not None and vif.network_uuid in by_uuid
    }
    found = []
    for switch, vif in used.items():
        label = f"switch {switch.name}" + (f" (port group {vif.portgroup})" if vif.portgroup else "")
        others = [h.host for h in switch.hosts if h.host not in (host, vm.host)] or [h.host for h in switch.hosts]
        state = states.get(switch.uuid)
        if switch.host(host) is None:
            names = ",".join([*(h.host for h in switch.hosts), host])
            sentence = (
                f"{label}, which {vm.name} has a NIC on, is not on {host}; put it there "
                f"(vmctl switch set {switch.name} --hosts {names}) or choose one of {', '.join(others)}"
            )
            code = Code.SWITCH_ABSENT
        elif state is None or state.state is not HostState.REALIZED:
            why = state.sentence if state is not None and state.sentence else "vmctl has not looked there yet"
            sentence = f"{label}, which {vm.name} has a NIC on, is not realized on {host}: {why}"
            code = Code.SWITCH_ABSENT
        elif move and switch.uplink is Uplink.ISOLATED:
            sentence = (
                f"{label}, which {vm.name} has a NIC on, is isolated, on {host} a network of its own: {vm.name} would "
                "lose its neighbours; shut it down and start it there, or use a switch with an uplink"
            )
            code = Code.SWITCH_ISOLATED
        else:
            continue
        found.append(Refusal(host=host, code=code, sentence=sentence, network_uuid=switch.uuid))
    return tuple(found)

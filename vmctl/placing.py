"""Placement as verbs: where a VM would go, a home for a new one, rules by the names of their VMs. Wiring.

What the arrays say and what vmctl's own switches say of a host is one answer here, for `place`, `why-not` and the
check before every move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from uuid import UUID

from vmctl.model import Code, HostView, Refusal, Vif, VifSpec, Vm, VmctlError
from vmctl.placement.choice import ordered
from vmctl.placement.model import Choice, Needs, Request, RuleKind
from vmctl.placement_store import Rule
from vmctl.placer import Placer
from vmctl.views import Views

__all__ = ["agreed", "choices", "fitting_rules", "vifs_of"]

SwitchWord = Callable[[Vm, str], Sequence[Refusal]]
PlainNetwork = Callable[[str], UUID]  # of a libvirt network that is not opaque, by its name
PortGroupNic = Callable[[str], Vif]  # of SWITCH/PORTGROUP


async def choices(placer: Placer, request: Request, *, switches: SwitchWord) -> tuple[Choice, ...]:
    """Every host with its score or its refusals, best first."""
    found: list[Choice] = []
    async for some in placer.explain(request):
        found += [_with_switches(request, choice, switches) for choice in some] if request.port_groups() else some
    return ordered(found)


def _with_switches(request: Request, choice: Choice, switches: SwitchWord) -> Choice:
    why = agreed(request, choice.refusals, switches(request.vm, choice.host))
    return replace(choice, refusals=why, score=None if why else choice.score)


def agreed(request: Request, mine: Sequence[Refusal], switches: Sequence[Refusal]) -> tuple[Refusal, ...]:
    """Both accounts of one host; where the switches' service speaks of a NIC, it speaks for placement too."""
    if any(refusal.code is Code.ALREADY_THERE for refusal in mine):
        return tuple(mine)
    spoken = {refusal.network_uuid for refusal in switches}
    if {v.network_uuid for v in request.vm.vifs if v.network_name in request.port_groups()} <= spoken:
        mine = [r for r in mine if r.code not in (Code.PORT_GROUP_ABSENT, Code.SWITCH_ISOLATED)]
    return (*mine, *switches)


def vifs_of(
    specs: Iterable[VifSpec], *, named: Iterable[str], views: Views, plain: PlainNetwork, portgroup: PortGroupNic
) -> tuple[Vif, ...]:
    """NICs of a VM that is not defined yet, as placement needs them; *named* are libvirt networks in its own XML.

    Raises:
        VmctlError: nobody tells of a network or a port group, or two networks share the name.
    """
    told = [n for view in views.fleet() if isinstance(view, HostView) for n in view.networks]
    opaque = {n.libvirt_network: n.uuid for n in told}
    found = [
        Vif(network_name=name, network_uuid=opaque[name], opaque=True)
        if name in opaque
        else Vif(network_name=name, network_uuid=plain(name))
        for name in named
    ]
    for spec in specs:
        if spec.portgroup:
            found.append(portgroup(spec.portgroup))
            continue
        uuids = {n.uuid: n.name for n in told if spec.network in (n.name, str(n.uuid))}
        if not uuids:
            raise VmctlError(
                f"no host that answers carries network {spec.network}; see `vmctl network list`", status=409
            )
        if len(uuids) > 1:
            each = ", ".join(str(uuid) for uuid in sorted(uuids))
            raise VmctlError(f"several networks are called {spec.network}: {each}; name the one you mean by its UUID")
        (uuid,) = uuids
        found.append(Vif(network_name=uuids[uuid], network_uuid=uuid, opaque=True))
    return tuple(found)


async def fitting_rules(placer: Placer, needs: Needs) -> tuple[Rule, ...]:
    """The rules that *needs* names and that are not there yet.

    Raises:
        VmctlError: one of them is of the other kind.
    """
    known = {rule.name: rule for rule in await placer.rules()}
    missing = []
    for kind, names in ((RuleKind.AFFINITY, needs.affinity), (RuleKind.ANTI_AFFINITY, needs.anti_affinity)):
        for name in sorted(names):
            if name not in known:
                known[name] = Rule(name=name, kind=kind)
                missing.append(known[name])
            elif known[name].kind is not kind:
                raise VmctlError(
                    f"rule {name} is one of {known[name].kind}, not of {kind}; choose another name (vmctl rule list)",
                    status=409,
                )
    return tuple(missing)

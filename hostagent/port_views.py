"""What the pipeline must know of each port of one network: from what is wanted and plugged here to `PortView`s.

`Inputs` is all that they depend on. Ports that the host has no part in are mostly not among them (see
`pipeline.remote`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple
from uuid import UUID

from hostagent.flow import mac_to_int
from hostagent.model import Phase
from hostagent.pipeline.answer import single_addresses
from hostagent.pipeline.network import PortView, Trunk, Wire
from hostagent.pipeline.policy import Policy, group_key
from hostagent.pipeline.remote import Elsewhere, addresses_of, takes_part
from hostagent.vifs import standing
from netmgr.contract.types import (
    Allowance,
    Learned,
    Location,
    LogicalPort,
    OpaqueNetwork,
    Ticket,
    VifState,
)

__all__ = ["Inputs", "keys_of", "port_views"]


class Inputs(NamedTuple):
    """All that the flows of one network depend on, but for those of its remote ports. Equal inputs, equal flows.

    Values are frozen, and what did not change is the same object as before: to compare is to compare addresses.
    """

    host: UUID | None
    datapath: str
    network: OpaqueNetwork
    wire: Wire | Trunk | None
    elsewhere: Elsewhere  # of its remote ports; these are not among the following
    uuids: tuple[UUID, ...]  # of the ports, sorted
    ports: tuple[LogicalPort | None, ...]
    locations: tuple[Location | None, ...]
    alone: bool  # and it matters: a port is parked
    learned: tuple[tuple[UUID, Learned], ...]  # by port
    hushed: tuple[UUID, ...]  # ports, or the network itself
    ofports: tuple[tuple[UUID, int], ...]  # by VIF, of this network's taps
    metered: frozenset[UUID]  # VIFs of these whose meter is there
    phases: tuple[tuple[UUID, Phase], ...]  # by port
    relay_vteps: tuple[tuple[UUID, str], ...]  # by port
    policies: tuple[tuple[UUID, tuple[UUID, ...], int], ...]  # port, groups, zone; of taps whose groups are enforced
    tickets: tuple[tuple[UUID, tuple[Ticket, ...]], ...]  # by port
    barred: tuple[UUID, ...]  # ports whose groups can't be enforced yet; sub-ports whose parent is dark
    trunks: tuple[tuple[UUID, tuple[tuple[int, int], ...]], ...]  # by port: tags of its sub-ports, where they go


def port_views(inputs: Inputs) -> Iterator[PortView]:
    """Of each MAC once. The ports' own go first, then what is defined behind them, then what is learned there."""
    if inputs.host is None:
        return
    found = dict(_own_views(inputs))
    yield from found.values()
    with_others = [
        port for port in inputs.ports if port is not None and (port.nested or Allowance.NESTED in port.allow)
    ]
    if not with_others:
        return
    seen = {view.mac for view in found.values()}
    learned = dict(inputs.learned)
    for nested in [*map(_defined_behind, with_others), *(_learned_behind(port, learned) for port in with_others)]:
        for port, text, ips in nested:
            own, mac = found.get(port.uuid), mac_to_int(text)
            if own is not None and mac not in seen:
                seen.add(mac)
                known = addresses_of(learned.get(port.uuid), text, ips=ips)
                yield own._replace(mac=mac, mac_text=text, ips=ips, learned=known, open=False)


def keys_of(views: tuple[PortView, ...]) -> frozenset[int | tuple[int, int]]:
    """The MACs and single addresses that *views* have, defined and learned."""
    addresses = (address for view in views for address in (*single_addresses(view.ips), *view.learned))
    return frozenset((*(view.mac for view in views), *addresses))


def _defined_behind(port: LogicalPort) -> list[tuple[LogicalPort, str, tuple[str, ...]]]:
    return [(port, one.mac, one.ips) for one in port.nested]


def _learned_behind(
    port: LogicalPort, learned: Mapping[UUID, Learned]
) -> list[tuple[LogicalPort, str, tuple[str, ...]]]:
    row = learned.get(port.uuid) if Allowance.NESTED in port.allow else None
    return [(port, one.mac, ()) for one in (row.macs if row is not None else ()) if not one.refused]


def _own_views(inputs: Inputs) -> Iterator[tuple[UUID, PortView]]:
    """By port: its view as one with a single MAC."""
    assert inputs.host is not None
    ofports, phases, relays = dict(inputs.ofports), dict(inputs.phases), dict(inputs.relay_vteps)
    learned = dict(inputs.learned)
    tickets, trunks = dict(inputs.tickets), dict(inputs.trunks)
    policies = {port: Policy(tuple(map(group_key, groups)), zone) for port, groups, zone in inputs.policies}
    seen: set[int] = set()
    for uuid, port, location in zip(inputs.uuids, inputs.ports, inputs.locations, strict=True):
        if port is not None and port.shadow_of is not None:
            continue  # the MAC is its primary's, here and everywhere
        text = port.mac if port is not None else location.mac if location is not None else ""
        if not text:
            continue
        mac = mac_to_int(text)
        if mac in seen:  # of two ports with one MAC the first has it
            continue
        seen.add(mac)
        if location is None:
            yield uuid, PortView(mac=mac, mac_text=text)
            continue
        known = addresses_of(learned.get(uuid), ips=port.ips if port is not None else ())
        if location.holder_host != inputs.host != location.incoming_host and uuid not in phases:
            yield uuid, _remote(port, location, mac, text)._replace(learned=known)
        else:
            phase, relay = phases.get(uuid, Phase.STEADY), relays.get(uuid, "")
            ofport = ofports.get(port.vif_uuid, 0) if port is not None and port.vif_uuid is not None else 0
            metered = port is not None and port.vif_uuid in inputs.metered
            view = _view(inputs.host, port, location, mac, text, ofport, metered, phase, relay, uuid in inputs.barred)
            others = port is not None and Allowance.NESTED in port.allow
            view = view._replace(
                learned=known,
                hushed=uuid in inputs.hushed,
                policy=policies.get(uuid),
                tickets=tickets.get(uuid, ()),
                subports=trunks.get(uuid, ()),
                several=others or (port is not None and bool(port.nested)),
                open=others,
            )
            yield uuid, view


def _remote(port: LogicalPort | None, location: Location, mac: int, text: str) -> PortView:
    """A port that this host has no part in: most are."""
    live = location.holder_host is not None and takes_part(port, location)
    return PortView(
        mac=mac,
        mac_text=text,
        ips=port.ips if port is not None else (),
        allow=port.allow if port is not None else (),
        holder_vtep=location.holder_vtep if location.holder_host is not None else "",
        incoming_vtep=location.incoming_vtep if location.incoming_host is not None else "",
        live=live,
        bound=live and port is not None,
    )


def _view(
    host: UUID,
    port: LogicalPort | None,
    location: Location,
    mac: int,
    text: str,
    ofport: int,
    metered: bool,
    phase: Phase,
    relay: str,
    barred: bool,
) -> PortView:
    here = location.holder_host == host
    state = VifState.DARK
    if port is not None:
        obstacle = "its groups can't be enforced" if barred else ""
        state, _ = standing(port=port, location=location, phase=phase, host=host, obstacle=obstacle)
    if state is VifState.INCOMING:
        phase = Phase.INCOMING  # its machine may not have heard yet
    elsewhere = location.holder_host is not None and not here
    live = elsewhere and takes_part(port, location)
    return PortView(
        mac=mac,
        mac_text=text,
        ips=port.ips if port is not None else (),
        allow=port.allow if port is not None else (),
        here=here,
        state=state,
        phase=phase,
        ofport=ofport if port is not None else 0,
        metered=metered,
        holder_vtep=location.holder_vtep if elsewhere else "",
        incoming_vtep=location.incoming_vtep if location.incoming_host not in (None, host) else "",
        relay_vtep=_relay_vtep(location, phase, host, relay),
        live=live,
        bound=(live and port is not None) or (state is VifState.LIT and ofport > 0),
    )


def _relay_vtep(location: Location, phase: Phase, host: UUID, remembered: str) -> str:
    """The location's word where it has one, else what the port's machine remembers."""
    if phase is Phase.REDIRECTING:
        return location.incoming_vtep
    if location.holder_host != host and phase in (Phase.RELAYING, Phase.INCOMING, Phase.ACTIVATED):
        return location.holder_vtep
    return remembered

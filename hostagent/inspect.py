"""The host beside its definition, read independently of the running agent: for `hostagent plan` and `verify`.

Six things only the agent can know, and is asked for if it runs: which ports are in motion (a migration's phases),
which connections came with them, what is hushed because it claims too much, what probes tell of the ways to peers,
whether it has long been without a manager, and at which port it was told to serve its view.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

from hostagent.control import RequestError, ask
from hostagent.definition import desired_of
from hostagent.health import rejections
from hostagent.host import NO_LIBVIRT, Events, Host, HostPaths
from hostagent.identity import IdentityError, load_identity
from hostagent.model import Observed, PathKey, PathStatus, Phase, Unread
from hostagent.plan import plan
from hostagent.presence import seen_vifs, unpark
from hostagent.qos import control_ports
from hostagent.state import State
from hostagent.steps import describe
from netmgr.contract.types import NetworkType, PeerState, Ticket

__all__ = ["InspectError", "inspect_host"]

_PATIENCE_S = 6.0


class InspectError(Exception):
    """Nothing can be compared; the sentence says why."""


def inspect_host(state_dir: Path, *, socket: Path, ovs_rundir: Path, libvirt_uri: str) -> dict[str, Any]:
    """What is wanted against what is there: `steps` between them, `rejected` sentences, `unread` parts.

    Raises:
        InspectError: the host has not joined, or its memory can't be read.
    """
    try:
        identity = load_identity(state_dir)
    except IdentityError as error:
        raise InspectError(str(error)) from None
    try:
        state = State(state_dir / "state.db", read_only=True)
    except (sqlite3.Error, ValueError) as error:
        raise InspectError(f"{state_dir / 'state.db'} can't be read ({error}); has the agent run yet?") from None
    try:
        desired = desired_of(state, identity)
        if desired.host is None or state.revision == 0:
            raise InspectError("the network manager has not yet told this host what it is to carry")
        paths = HostPaths(ovs_rundir=ovs_rundir, libvirt_uri=libvirt_uri)
        libvirt = not paths.libvirt_absent
        observed = asyncio.run(_observe(paths if libvirt else replace(paths, libvirt_uri=NO_LIBVIRT)))
        host = desired.host.uuid
        if not isinstance(observed.bridges, Unread):
            vifs = seen_vifs(observed.bridges, observed.flows)
            locations = unpark(
                state.locations, vifs=vifs, host=host, ports=state.port_by_vif, hidden=desired.withdrawals.keys()
            )
            told = _ask(socket)
            phases, vteps = _motion(told)
            observed = replace(observed, paths=_paths(told))
            motion: dict[str, dict[UUID, Any]] = {"phases": phases, "relay_vteps": vteps, "tickets": _tickets(told)}
            desired = desired_of(state, identity, locations=locations, **motion)
            desired = replace(desired, hushed=_hushed(told), alone=told.get("alone") is True)
            ports = _control_ports(told) or control_ports(identity.managers, identity.view_port)
            desired = replace(desired, control_ports=ports)
        steps = plan(desired=desired, observed=observed)
        return {
            "switches": len(desired.switches),
            "networks": len(desired.networks),
            "steps": [describe(step) for step in steps],
            "rejected": [sentence for _, sentence in rejections(desired=desired, observed=observed)],
            "unread": _unread(observed, libvirt=libvirt),
            "libvirt": libvirt,
        }
    finally:
        state.close()


def _ask(socket: Path) -> dict[str, Any]:
    try:
        return ask(socket, "show")
    except (OSError, RequestError):
        return {}  # no agent runs: nothing is in motion that anybody would know of, and nobody asks the peers


def _motion(told: dict[str, Any]) -> tuple[dict[UUID, Phase], dict[UUID, str]]:
    try:
        motion = told.get("motion", {})
        phases = {UUID(port): Phase(item["phase"]) for port, item in motion.items()}
        return phases, {UUID(port): item["vtep"] for port, item in motion.items() if item["vtep"]}
    except (KeyError, TypeError, ValueError):
        return {}, {}  # an agent of another version


def _tickets(told: dict[str, Any]) -> dict[UUID, tuple[Ticket, ...]]:
    try:
        found = told.get("tickets", {}).items()
        return {UUID(port): tuple(Ticket(**one) for one in tickets) for port, tickets in found}
    except (AttributeError, TypeError, ValueError):
        return {}  # an agent of another version


def _hushed(told: dict[str, Any]) -> frozenset[UUID]:
    try:
        return frozenset(map(UUID, told.get("hushed", ())))
    except (AttributeError, TypeError, ValueError):
        return frozenset()  # an agent of another version


def _control_ports(told: dict[str, Any]) -> tuple[int, ...]:
    try:
        return tuple(map(int, told.get("host", {}).get("control_ports", ())))
    except (AttributeError, TypeError, ValueError):
        return ()  # an agent of another version


def _paths(told: dict[str, Any]) -> tuple[PathStatus, ...]:
    try:
        return tuple(
            PathStatus(
                key=PathKey(UUID(peer["switch_uuid"]), NetworkType(peer["type"]), peer["vtep"]),
                state=PeerState(peer["state"]),
                shared=peer["shared"],
                cut=peer["cut"],
                mtu_passed=peer["mtu_passed"],
                mtu_refused=peer["mtu_refused"],
            )
            for peer in told.get("peers", ())
        )
    except (KeyError, TypeError, ValueError):
        return ()


async def _observe(paths: HostPaths) -> Observed:
    changed = asyncio.Event()
    events = Events(
        dirty=lambda _part: changed.set(),
        packet_in=lambda *_: None,
        domain=lambda _event: None,
        libvirt=changed.set,
    )
    host = Host(paths, events)
    host.start()
    deadline = time.monotonic() + _PATIENCE_S
    try:
        while True:
            changed.clear()
            observed = await host.observe()
            left = deadline - time.monotonic()
            if left <= 0 or not (host.reading_networks or _unread(observed, libvirt=host.libvirt is not None)):
                return await host.ask_uplinks()
            try:
                await asyncio.wait_for(changed.wait(), min(left, 1.0))
            except TimeoutError:
                continue
    finally:
        await host.close()


def _unread(observed: Observed, *, libvirt: bool) -> list[str]:
    parts: list[Any] = [observed.bridges, observed.links, *observed.flows.values()]
    if libvirt:
        parts.append(observed.libvirt_networks)
    return [part.reason for part in parts if isinstance(part, Unread)]

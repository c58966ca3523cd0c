"""Endpoints: VIFs without a virtual machine, made by this host and kept as long as they are wanted.

Theory of operation. `attach` finds or asks for the port, writes the record, makes the device and plugs it into the
network's bridge with its VIF UUID; from then on it is a VIF like any other. What is recorded is compared
with what is there in each turn of the loop (`look`), and mended: after a reboot an interface of the host itself comes
back with its addresses, one whose port was taken out of the bridge is plugged again. A network namespace is somebody
else's: while it is missing that is reported, and once it exists the interface is made in it. `detach` takes the device
away and then the record. A port that a claim made for the endpoint goes with it (`retirement`); one that was made for
it at the manager stays there, parked at this host.

The VIF UUID of an endpoint on a network that attaches by itself follows from network, namespace or name, and interface:
attaching it again finds the port it had.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import UUID

import structlog

from hostagent.claims import Claims
from hostagent.control import HookRequest
from hostagent.endpoints.request import (
    EndpointRefused,
    canonical,
    check_place,
    has_own_vif,
    place,
    resolve_request,
)
from hostagent.endpoints.retirement import Retirements
from hostagent.host import Host
from hostagent.lookup import Lookup
from hostagent.model import Interface, Link, Observed, PutPort, RemovePort, Unread
from hostagent.names import IFACE_ID, is_ours, switch_bridge
from hostagent.presence import NETWORK_KEY
from hostagent.realize.endpoint_links import has_link, has_netns, make_veth, remove_link, set_up
from hostagent.realize.errors import RealizeError
from hostagent.records import Endpoint, EndpointKind
from hostagent.state import State
from netmgr.contract.types import LogicalPort, OpaqueNetwork

__all__ = ["Endpoints"]

log = structlog.get_logger(__name__)

_AGAIN_S, _RETRY_S = 1.0, 5.0  # after mending, and after failing to
_MARK = {"opaque-endpoint": "hostagent"}


class Endpoints:
    """The endpoints of one host."""

    def __init__(
        self,
        *,
        state: State,
        host: Host,
        claims: Claims,
        lookup: Lookup,
        retirements: Retirements,
        host_uuid: UUID,
        netdev: bool,
    ) -> None:
        self._state = state
        self._host = host
        self._claims = claims
        self._lookup = lookup
        self._retirements = retirements
        self._host_uuid = host_uuid
        self._netdev = netdev
        self._retry_at: dict[UUID, float] = {}
        self._mending: asyncio.Task[None] | None = None
        self._busy: set[UUID] = set()  # being attached or detached
        self.missing: dict[UUID, str] = {}
        """By VIF: why an endpoint that is wanted is not there."""

    # --- requests --------------------------------------------------------------------------------------------------

    async def attach(self, words: Mapping[str, str]) -> dict[str, Any]:
        """Make an endpoint; the answer for the command. Asking again for one that is there changes nothing."""
        try:
            network, port, wanted = await resolve_request(
                words, state=self._state, lookup=self._lookup, host_uuid=self._host_uuid
            )
            known = self._state.records.endpoints.get(wanted.vif_uuid)
            if known is not None and (known.netns, known.ifname) != (wanted.netns, wanted.ifname):
                raise EndpointRefused(
                    f"VIF {wanted.vif_uuid} is attached here already, {place(known)}; detach it first"
                )
            other = self._at_place(wanted)
            if other is not None and other.vif_uuid != wanted.vif_uuid:
                raise EndpointRefused(
                    f"{place(other)} is attached already, to VIF {other.vif_uuid}; detach it first"
                    f" (`hostagent port detach {other.ifname}`)"
                )
            if known is None:
                links = await self._host.read_links()
                by_name = {} if isinstance(links, Unread) else {link.name: link for link in links}
                check_place(wanted, by_name, self._bridge_of(wanted.device))
            self._busy.add(wanted.vif_uuid)
            try:
                return await self._make(network, port, wanted)
            finally:
                self._busy.discard(wanted.vif_uuid)
        except EndpointRefused as error:
            log.warning("endpoint refused", sentence=str(error))
            return {"ok": False, "sentence": str(error)}

    async def detach(self, which: str) -> dict[str, Any]:
        """Take an endpoint away, named by its VIF, port, interface, device or name."""
        found = [endpoint for endpoint in self._state.records.endpoints.values() if which in self._names(endpoint)]
        if len(found) != 1:
            problem = "names several of them; use the VIF's UUID" if found else "is none of them"
            return {
                "ok": False,
                "sentence": f"{which!r} {problem}; `hostagent port list` shows the endpoints of this host",
            }
        endpoint = found[0]
        described = self.describe(endpoint)
        self._busy.add(endpoint.vif_uuid)
        try:
            await self._unplug(endpoint)
            await self._drop(endpoint)
        except RealizeError as error:
            return {"ok": False, "sentence": error.sentence}
        finally:
            self._busy.discard(endpoint.vif_uuid)
        log.info("endpoint detached", vif=str(endpoint.vif_uuid), device=endpoint.device)
        return {"ok": True, **described}

    def list(self) -> list[dict[str, Any]]:
        """All endpoints of this host, by device."""
        endpoints = sorted(self._state.records.endpoints.values(), key=lambda one: one.device)
        return [self.describe(endpoint) for endpoint in endpoints]

    def describe(self, endpoint: Endpoint) -> dict[str, Any]:
        port = self._state.ports.get(endpoint.port_uuid)
        network = self._state.networks.get(endpoint.network_uuid)
        return {
            "vif": str(endpoint.vif_uuid),
            "port": port.name if port is not None else str(endpoint.port_uuid),
            "network": network.name if network is not None else str(endpoint.network_uuid),
            "kind": endpoint.kind.value,
            "name": endpoint.name,
            "netns": endpoint.netns,
            "ifname": endpoint.ifname,
            "device": endpoint.device,
            "mac": endpoint.mac,
            "addresses": [*endpoint.addresses],
            "mtu": network.mtu if network is not None else 0,
            "missing": self.missing.get(endpoint.vif_uuid, ""),
        }

    # --- the loop --------------------------------------------------------------------------------------------------

    def look(self, observed: Observed) -> None:
        """Compare what is recorded with what is there, and begin to mend what is not."""
        if isinstance(observed.bridges, Unread) or isinstance(observed.links, Unread) or self._mending is not None:
            return
        links = {link.name: link for link in observed.links}
        plugged = {
            interface.external_ids.get(IFACE_ID)
            for bridge in observed.bridges
            if is_ours(bridge.external_ids)
            for port in bridge.ports
            for interface in port.interfaces
        }
        now, due = time.monotonic(), []
        for endpoint in self._state.records.endpoints.values():
            whole = str(endpoint.vif_uuid) in plugged and _is_up(endpoint, links.get(endpoint.device))
            if whole:
                self.missing.pop(endpoint.vif_uuid, None)
            elif endpoint.vif_uuid not in self._busy and self._retry_at.get(endpoint.vif_uuid, 0.0) <= now:
                due.append(endpoint)
        if due:
            self._mending = asyncio.create_task(self._mend(due), name="endpoints")

    async def close(self) -> None:
        if self._mending is not None:
            self._mending.cancel()
            await asyncio.gather(self._mending, return_exceptions=True)

    async def _mend(self, due: Iterable[Endpoint]) -> None:
        try:
            for endpoint in due:
                try:
                    await self._plug(endpoint)
                    if self.missing.pop(endpoint.vif_uuid, None) is not None:
                        log.info("endpoint is back", vif=str(endpoint.vif_uuid), place=place(endpoint))
                except RealizeError as error:
                    if self.missing.get(endpoint.vif_uuid) != error.sentence:
                        log.warning("endpoint is missing", vif=str(endpoint.vif_uuid), reason=error.sentence)
                    self.missing[endpoint.vif_uuid] = error.sentence
                pause = _RETRY_S if endpoint.vif_uuid in self.missing else _AGAIN_S
                self._retry_at[endpoint.vif_uuid] = time.monotonic() + pause
        finally:
            self._mending = None

    # --- inside ----------------------------------------------------------------------------------------------------

    def _bridge_of(self, name: str) -> str:
        bridges = self._host.cached().bridges
        if isinstance(bridges, Unread):
            return ""
        return next((bridge.name for bridge in bridges if any(port.name == name for port in bridge.ports)), "")

    async def _make(self, network: OpaqueNetwork, port: LogicalPort | None, wanted: Endpoint) -> dict[str, Any]:
        known = wanted.vif_uuid in self._state.records.endpoints
        await self._retirements.take_back(self._state.port_by_vif.get(wanted.vif_uuid, wanted.vif_uuid))
        request = HookRequest(
            verb="port-created",
            network_uuid=network.uuid,
            vif_uuid=wanted.vif_uuid,
            mac=wanted.mac,
            vm_name=wanted.name or (port.name if port is not None else wanted.ifname),
        )
        if not (known and self._bridge_of(wanted.device)):
            sentence = await self._claims.port_created(request)
            if sentence:
                raise EndpointRefused(sentence)
        port_uuid = self._state.port_by_vif.get(wanted.vif_uuid)
        granted = self._state.ports.get(port_uuid) if port_uuid is not None else None
        if granted is None:
            raise EndpointRefused(f"the port of VIF {wanted.vif_uuid} was removed meanwhile; try again")
        endpoint = replace(wanted, port_uuid=granted.uuid, mac=granted.mac)
        self._state.records.put_endpoint(endpoint)
        try:
            await self._plug(endpoint)
        except RealizeError as error:
            if not known:
                await self._unplug(endpoint)
                await self._drop(endpoint)
            raise EndpointRefused(error.sentence) from None
        log.info("endpoint attached", vif=str(endpoint.vif_uuid), device=endpoint.device, place=place(endpoint))
        return {"ok": True, **self.describe(endpoint)}

    async def _plug(self, endpoint: Endpoint) -> None:
        """Make and plug what is not there yet.

        Raises:
            RealizeError: what is missing, and what to do.
        """
        network = self._state.networks.get(endpoint.network_uuid)
        if network is None:
            raise RealizeError(
                f"{place(endpoint)}: its network {endpoint.network_uuid} is not on this host any more; detach it, or"
                " add the host to the network's transport zone"
            )
        if endpoint.kind is EndpointKind.NETNS:
            if not has_netns(endpoint.netns):
                raise RealizeError(
                    f"{place(endpoint)}: the network namespace does not exist; it is plugged again once it does, or"
                    f" detach it with `hostagent port detach {endpoint.vif_uuid}`"
                )
            await self._wire(endpoint, mtu=network.mtu)
        elif endpoint.kind is EndpointKind.PNIC and not has_link(endpoint.device):
            raise RealizeError(f"{place(endpoint)}: this host has no such interface now")
        ids = {IFACE_ID: str(endpoint.vif_uuid), "attached-mac": endpoint.mac, NETWORK_KEY: str(network.uuid), **_MARK}
        kind = "internal" if endpoint.kind is EndpointKind.INTERNAL else ""
        interface = Interface(name=endpoint.device, type=kind, external_ids=ids)
        step = PutPort(
            bridge=switch_bridge(network.switch_uuid), name=endpoint.device, interfaces=(interface,), external_ids=_MARK
        )
        for _, sentence in await self._host.apply([step]):
            raise RealizeError(sentence)
        if endpoint.kind is not EndpointKind.NETNS:
            await set_up(endpoint, mtu=network.mtu, offload=True)

    async def _wire(self, endpoint: Endpoint, *, mtu: int) -> None:
        """A whole pair, up at both ends; one that an agent was killed over is made anew."""
        if has_link(endpoint.device):
            with suppress(RealizeError):
                await set_up(endpoint, mtu=mtu, offload=not self._netdev)
                return
            await remove_link(endpoint.device)
        await make_veth(endpoint, mtu=mtu)
        await set_up(endpoint, mtu=mtu, offload=not self._netdev)

    async def _unplug(self, endpoint: Endpoint) -> None:
        bridge = self._bridge_of(endpoint.device)
        if bridge:
            for _, sentence in await self._host.apply([RemovePort(bridge=bridge, name=endpoint.device)]):
                raise RealizeError(sentence)
        if endpoint.kind is EndpointKind.NETNS:
            await remove_link(endpoint.device)

    async def _drop(self, endpoint: Endpoint) -> None:
        """Nothing of the endpoint is wanted any more."""
        self._state.records.drop_endpoint(endpoint.vif_uuid)
        self._claims.let_go(endpoint.vif_uuid)
        self.missing.pop(endpoint.vif_uuid, None)
        if has_own_vif(endpoint, self._host_uuid):
            await self._retirements.retire(endpoint.port_uuid)

    def _at_place(self, wanted: Endpoint) -> Endpoint | None:
        place = (wanted.netns, wanted.ifname)
        return next((one for one in self._state.records.endpoints.values() if (one.netns, one.ifname) == place), None)

    def _names(self, endpoint: Endpoint) -> set[str]:
        port = self._state.ports.get(endpoint.port_uuid)
        names = {str(endpoint.vif_uuid), str(endpoint.port_uuid), endpoint.ifname, endpoint.device, endpoint.name}
        names |= {endpoint.netns, endpoint.netns.rpartition("/")[2], port.name if port is not None else ""}
        return names - {""}


def _is_up(endpoint: Endpoint, link: Link | None) -> bool:
    if link is None or not link.admin_up:
        return False
    if endpoint.kind is not EndpointKind.INTERNAL:
        return True
    has = {canonical(address) for address in link.addresses}
    return link.mac == endpoint.mac and {canonical(address) for address in endpoint.addresses} <= has

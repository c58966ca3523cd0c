"""Ports found by something else than their VIF: by MAC for a guest that migrates in, by name for who asks by name.

The host knows the ports of the networks it subscribes to. A look-up makes it want the network for a while, and waits a
bounded time for the port to be pushed; what follows, a claim most often, finds the network still wanted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from uuid import UUID

from hostagent.state import State
from netmgr.contract.types import LogicalPort, OpaqueNetwork

__all__ = ["Lookup"]

_WANTED_S = 30.0
_STEP_S = 0.02


class Lookup:
    """Looks into what the manager pushed; `changed` is called when other networks are wanted than before."""

    def __init__(self, *, state: State, changed: Callable[[], None]) -> None:
        self._state = state
        self._changed = changed
        self._wanted_until: dict[UUID, float] = {}

    def networks(self) -> tuple[UUID, ...]:
        """Networks that were looked into a moment ago."""
        now = time.monotonic()
        self._wanted_until = {network: until for network, until in self._wanted_until.items() if until > now}
        return tuple(self._wanted_until)

    def network(self, which: str) -> OpaqueNetwork | None:
        """The opaque network of this host with that name or UUID."""
        return next((n for n in self._state.networks.values() if which in (n.name, str(n.uuid))), None)

    async def vif_of_mac(self, network_name: str, mac: str, *, deadline_s: float = 2.0) -> UUID | None:
        """VIF of the port that has *mac* on the network; None when it is not known in time, or no such network."""
        network = self.network(network_name)
        if network is None:
            return None
        port = await self.port(network.uuid, lambda port: _owns(port, mac), deadline_s=deadline_s)
        return port.vif_uuid if port is not None else None

    async def port(
        self, network_uuid: UUID, fits: Callable[[LogicalPort], bool], *, deadline_s: float
    ) -> LogicalPort | None:
        """The first port of the network that *fits*; waits for it to be pushed."""
        deadline = time.monotonic() + deadline_s
        self._wanted_until[network_uuid] = time.monotonic() + _WANTED_S
        self._changed()
        while True:
            for port in self._state.ports.values():
                if port.network_uuid == network_uuid and fits(port):
                    return port
            if time.monotonic() >= deadline:
                return None
            await asyncio.sleep(_STEP_S)


def _owns(port: LogicalPort, mac: str) -> bool:
    """A shadow has the MAC of its primary, and is not it; a sub-port has no VIF to plug, and often its parent's MAC."""
    ordinary = port.shadow_of is None and port.parent_port is None
    return port.mac == mac and port.vif_uuid is not None and ordinary

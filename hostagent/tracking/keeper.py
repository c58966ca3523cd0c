"""The connection tracker's zones of this host's ports: assigned, flushed before use, remembered.

`look` is called in each turn of the agent's loop, before it plans. A port's zone becomes known to the plan only when
ovs-vswitchd has emptied it; until then the port is dark. What is assigned is on disk before a flow uses it, so an agent
that is restarted finds the zones, and the connections in them, as they were.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from uuid import UUID

import structlog

from hostagent.host import Host
from hostagent.model import Desired
from hostagent.names import switch_bridge
from hostagent.realize.errors import RealizeError
from hostagent.records import Records
from hostagent.tracking.limiting import Limiting
from hostagent.tracking.zones import assign, tracked_ports

__all__ = ["Tracking"]

log = structlog.get_logger(__name__)


class Tracking:
    """Zones by port; *limit* is how many connections each may hold."""

    def __init__(self, *, records: Records, host: Host, limit: int) -> None:
        self._records = records
        self._host = host
        self.limiting = Limiting(host=host, zones=records.ct_zones, limit=limit)
        self._last = max(records.ct_zones.values(), default=0)
        self._why = ""

    @property
    def zones(self) -> Mapping[UUID, int]:
        """Zone of each port that has one, empty of what others left; always the same mapping."""
        return self._records.ct_zones

    @property
    def retry_s(self) -> float | None:
        """Seconds after which to `look` again by itself; None when all is done."""
        return _RETRY_S if self._why else None

    async def look(self, desired: Desired) -> None:
        """Bring the zones in line with *desired*."""
        wanted = tracked_ports(desired)
        held = self._records.ct_zones
        why = ""
        try:
            for port in held.keys() - wanted:
                self._records.drop_ct_zone(port)
            for port, zone in assign(wanted - held.keys(), held=held, last=self._last).items():
                network = desired.networks.get(desired.ports[port].network_uuid)
                if network is not None:
                    await self._host.switches.flush_zone(switch_bridge(network.switch_uuid), zone)
                    self._last = zone
                    self._records.put_ct_zone(port, zone)
        except (RealizeError, sqlite3.Error) as error:
            why = str(error)
            if why != self._why:
                log.warning("tracking: a port with security groups stays dark for want of a zone", reason=why)
        self._why = why
        await self.limiting.look()


_RETRY_S = 0.5

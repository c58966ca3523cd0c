"""What may be hidden from whom, and shown again. Silence, or `NetmgrError` with the sentence."""

from __future__ import annotations

from netmgr.contract.types import OpaqueNetwork, Withdrawal, why_withdrawn
from netmgr.model import HostRecord, NetmgrError, World

__all__ = ["REASON_LENGTH_MAX", "check_restoration", "check_withdrawal"]

REASON_LENGTH_MAX = 500


def check_withdrawal(world: World, withdrawal: Withdrawal) -> None:
    """A withdrawal has a reason, in one line, and its host is in the network's zone."""
    network = world.networks[withdrawal.network_uuid]
    reason = withdrawal.reason
    if not reason.strip():
        raise NetmgrError(f"network {network.name}: a withdrawal needs a reason: people will ask why")
    if len(reason) > REASON_LENGTH_MAX or not reason.isprintable():
        raise NetmgrError(
            f"network {network.name}: the reason must be one line of at most {REASON_LENGTH_MAX} characters, "
            f"got {len(reason)}"
        )
    host = world.hosts[withdrawal.host_uuid] if withdrawal.host_uuid is not None else None
    if host is not None and network.zone_uuid not in host.zone_uuids:
        raise NetmgrError(
            f"network {network.name}: host {host.name} is not in its zone {world.zones[network.zone_uuid].name}, so it "
            "does not carry the network; name one that does",
            status=409,
        )


def check_restoration(world: World, network: OpaqueNetwork, host: HostRecord | None) -> list[Withdrawal]:
    """What ends when *network* is restored on *host*, or, without one, everywhere; there must be something."""
    found = world.withdrawals_of(network.uuid)
    if host is None:
        if not found:
            raise NetmgrError(f"network {network.name}: is not withdrawn from any host", status=409)
        return found
    of_host = [withdrawal for withdrawal in found if withdrawal.host_uuid == host.uuid]
    if of_host:
        return of_host
    of_all = next((withdrawal for withdrawal in found if withdrawal.host_uuid is None), None)
    if of_all is not None:
        raise NetmgrError(
            f"{why_withdrawn(of_all, network=network.name)}; restore it on all of them "
            f"(netmgr network restore {network.name}), then withdraw it from single hosts",
            status=409,
        )
    raise NetmgrError(f"network {network.name}: is not withdrawn from host {host.name}", status=409)

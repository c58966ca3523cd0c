"""Hiding networks from hosts, and showing them again: edits of one transaction.

One withdrawal a network and host, and one for all hosts; both may be there, and ending one leaves the other.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

from netmgr import rules
from netmgr.contract.types import Kind, OpaqueNetwork, Withdrawal
from netmgr.model import HostRecord
from netmgr.store import Transaction

__all__ = ["restore", "withdraw"]


def withdraw(tx: Transaction, network: OpaqueNetwork, host: HostRecord | None, *, reason: str, by: str) -> Withdrawal:
    """Hide *network* from *host*, or from all. What is hidden already keeps its beginning and gets the new reason."""
    host_uuid = host.uuid if host is not None else None
    found = next((w for w in tx.world.withdrawals_of(network.uuid) if w.host_uuid == host_uuid), None)
    if found is not None:
        wanted = replace(found, reason=reason, by=by)
    else:
        since = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        wanted = Withdrawal(
            uuid=uuid4(), network_uuid=network.uuid, host_uuid=host_uuid, reason=reason, by=by, since=since
        )
    rules.check_withdrawal(tx.world, wanted)
    tx.put(wanted)
    return wanted


def restore(tx: Transaction, network: OpaqueNetwork, host: HostRecord | None) -> None:
    """Show *network* on *host* again, or, without one, everywhere."""
    for withdrawal in rules.check_restoration(tx.world, network, host):
        tx.delete(Kind.WITHDRAWAL, withdrawal.uuid)

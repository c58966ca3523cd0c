"""Failover: a shadow and its primary change roles, in one transaction.

Both keep name, VIF and holder. The MAC goes over with the role: the location of the port that is lit now tells it to
peers, the other's does no more, and both get a new version. So every host learns of it in one update and changes its
flows in one bundle: frames for the MAC go to the new holder, and the old one may no longer speak for it.
"""

from __future__ import annotations

from dataclasses import replace

from netmgr import rules
from netmgr.contract.types import LogicalPort
from netmgr.service.edits import tell_mac
from netmgr.store import Transaction

__all__ = ["failover_port"]


def failover_port(tx: Transaction, port: LogicalPort, *, force: bool = False) -> LogicalPort:
    """The port that is lit now. *port* is the shadow, or a primary with one shadow. *force*: even if not held."""
    primary, shadow = rules.failover_pair(tx.world, port)
    if not force:
        rules.check_failover(tx.world, primary, shadow)
    others = tx.world.shadows_of[primary.uuid] - {shadow.uuid}
    was, now = replace(primary, shadow_of=shadow.uuid), replace(shadow, shadow_of=None)
    tx.put(was)  # first: it gives up the MAC and the addresses
    tx.put(now)
    for uuid in others:
        tx.put(replace(tx.world.ports[uuid], shadow_of=shadow.uuid))
    tell_mac(tx, was)
    tell_mac(tx, now)
    return now

"""What manager and hosts both must know of the MACs behind a port's VIF. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from netmgr.contract.types import Allowance, LearnedMac, LogicalPort

__all__ = ["learning_macs"]


def learning_macs(port: LogicalPort, learned: Iterable[LearnedMac] = ()) -> tuple[str, ...]:
    """Of the MACs behind *port*'s VIF, those whose addresses are learned: without defined ones. "" is the port's own.

    *learned* are MACs that were seen; they count where the port is allowed them, unless they are refused.
    """
    if port.shadow_of is not None:
        return ()
    own = () if port.ips else ("",)
    seen = learned if Allowance.NESTED in port.allow else ()
    defined = (one.mac for one in port.nested if not one.ips)
    return (*own, *defined, *(one.mac for one in seen if not one.refused))

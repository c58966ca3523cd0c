"""The rules of the desired state, as pure functions of `World`.

`desired` says what may be created and set, `usage` what may be removed and used again, `encapsulation` what a tunnel
leaves of a packet, `shadows` what a shadow port is, `trunks` what a sub-port is, `withdrawals` what may be hidden from
whom, `groups` what security groups may say. A rule is silent, or raises `NetmgrError` with the
sentence for the user.
"""

from netmgr.rules.desired import check_host, check_network, check_port, check_switch, check_zone
from netmgr.rules.groups import check_group, check_group_removal, check_port_groups
from netmgr.rules.learned import evicted_rows, kept_row, learned_rows, rivals_of
from netmgr.rules.shadows import check_failover, check_shadow, failover_pair, mirrored
from netmgr.rules.trunks import check_subport, following, subports_of
from netmgr.rules.usage import (
    check_host_removal,
    check_network_removal,
    check_port_release,
    check_port_removal,
    check_port_retirement,
    check_switch_removal,
    check_zone_removal,
    freed_segments_to_release,
)
from netmgr.rules.withdrawals import check_restoration, check_withdrawal

__all__ = [
    "check_failover",
    "check_group",
    "check_group_removal",
    "check_host",
    "check_host_removal",
    "check_network",
    "check_network_removal",
    "check_port",
    "check_port_groups",
    "check_port_release",
    "check_port_removal",
    "check_port_retirement",
    "check_restoration",
    "check_shadow",
    "check_subport",
    "check_switch",
    "check_switch_removal",
    "check_withdrawal",
    "check_zone",
    "check_zone_removal",
    "evicted_rows",
    "failover_pair",
    "following",
    "freed_segments_to_release",
    "kept_row",
    "learned_rows",
    "mirrored",
    "rivals_of",
    "subports_of",
]

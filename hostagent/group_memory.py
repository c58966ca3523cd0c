"""The flows of the security groups that a host enforces, compiled once for each version of a group.

Flows of groups belong to no network. A group with ten thousand members must not be compiled again because something
else changed, nor at a guest's pause; so what was compiled is remembered, by the group's value. That memory changes no
answer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from uuid import UUID

from hostagent.flow import Flow
from hostagent.pipeline.policy import group_flows, member_flows
from netmgr.contract.types import SecurityGroup

__all__ = ["enforced_flows"]

_GROUPS_MAX = 4096


def enforced_flows(groups: Mapping[UUID, SecurityGroup], enforced: Collection[UUID]) -> set[Flow]:
    """The rules of the groups *enforced*, and the members of those that these rules speak of.

    A group that *groups* does not have is not known yet: it has no rules, and no members.
    """
    flows: set[Flow] = set()
    spoken_of: set[UUID] = set()
    for uuid in enforced:
        if uuid in groups:
            flows |= _remembered(_rules, groups[uuid], group_flows)
            spoken_of.update(rule.remote_group for rule in groups[uuid].rules if rule.remote_group is not None)
    for uuid in spoken_of:
        if uuid in groups:
            flows |= _remembered(_members, groups[uuid], member_flows)
    return flows


_Memory = OrderedDict[UUID, tuple[SecurityGroup, frozenset[Flow]]]
_rules: _Memory = OrderedDict()
_members: _Memory = OrderedDict()


def _remembered(
    memory: _Memory, group: SecurityGroup, compile_: Callable[[SecurityGroup], Iterator[Flow]]
) -> frozenset[Flow]:
    known = memory.get(group.uuid)
    if known is not None and known[0] == group:  # mostly the very same object, which is seen at once
        return known[1]
    flows = frozenset(compile_(group))
    memory[group.uuid] = (group, flows)
    memory.move_to_end(group.uuid)
    while len(memory) > _GROUPS_MAX:
        memory.popitem(last=False)
    return flows

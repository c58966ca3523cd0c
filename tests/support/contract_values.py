"""Hypothesis' strategies for the contract's values."""

from __future__ import annotations

from dataclasses import fields
from typing import get_type_hints

from hypothesis import strategies as st

from netmgr.contract import types as t
from netmgr.contract.codec import MESSAGES

__all__ = ["bodies", "u64", "values"]

text = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
u32 = st.integers(0, 2**32 - 1)
i32 = st.integers(-(2**31), 2**31 - 1)
u64 = st.integers(0, 2**64 - 1)
st.register_type_strategy(str, text)

# Integers have no width in Python; each field's is that of its message.
WIDTHS = {"version": u64, "request_id": u64, "icmp_type": i32, "icmp_code": i32}


def values(kind: type) -> st.SearchStrategy[object]:
    """Any value of a type of the contract, each number as wide as its message's."""
    hints = get_type_hints(kind)
    chosen = {
        f.name: WIDTHS.get(f.name, u32) if hints[f.name] is int else st.from_type(hints[f.name]) for f in fields(kind)
    }
    return st.builds(kind, **chosen)


for _kind in MESSAGES:
    st.register_type_strategy(_kind, values(_kind))

bodies = st.one_of(
    *(
        values(k)
        for k in (
            t.TransportZone,
            t.OpaqueSwitch,
            t.OpaqueNetwork,
            t.Withdrawal,
            t.SecurityGroup,
            t.LogicalPort,
            t.Location,
            t.Learned,
            t.HostConfig,
        )
    )
)

"""What a host can read of objects is said in words, and every object can be said in them."""

from typing import get_args
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netmgr.contract import types as t
from netmgr.contract.reading import SINCE_HELLO, WORDS, unreadable, words_of
from tests.unit.contract.test_codec import values

objects = st.one_of(*(values(kind) for kind in get_args(t.Constructs)))


@given(objects)
def test_this_version_has_a_word_for_all_that_it_pushes(body: object) -> None:
    assert words_of(body) <= WORDS


NETWORK = t.OpaqueNetwork(uuid=uuid4(), name="blue", zone_uuid=uuid4(), switch_uuid=uuid4(), segment_id=5000)
PORT = t.LogicalPort(uuid=uuid4(), name="web1", network_uuid=NETWORK.uuid, mac="02:00:00:00:00:01")


def test_an_object_needs_no_word_for_what_it_does_not_use() -> None:
    assert words_of(NETWORK) == {"OpaqueNetwork"}
    assert words_of(PORT) == {"LogicalPort"}


@pytest.mark.parametrize(
    ("body", "needs"),
    [
        (t.OpaqueNetwork(**{**_fields, "type": t.NetworkType.VLAN}), "NetworkType.vlan")
        for _fields in [{name: getattr(NETWORK, name) for name in t.OpaqueNetwork.__slots__}]
    ]
    + [
        (t.LogicalPort(**{**_fields, **more}), needs)
        for _fields in [{name: getattr(PORT, name) for name in t.LogicalPort.__slots__}]
        for more, needs in [
            ({"allow": (t.Allowance.NESTED,)}, "Allowance.nested"),
            ({"nested": (t.NestedMac(mac="02:00:00:00:00:02"),)}, "LogicalPort.nested"),
            ({"security_groups": (uuid4(),)}, "LogicalPort.security_groups"),
        ]
    ],
)
def test_what_it_uses_has_a_word(body: object, needs: str) -> None:
    assert needs in words_of(body)


def test_a_host_that_says_nothing_is_older_than_some_values_and_one_that_says_all_reads_all() -> None:
    assert unreadable(()) == SINCE_HELLO
    assert SINCE_HELLO <= WORDS
    assert unreadable(WORDS) == frozenset()
    assert unreadable({*WORDS, "OpaqueNetwork.from_the_future"}) == frozenset()
    assert unreadable(WORDS - {"Learned"}) == {"Learned"}

"""Tests are dealt to workers by file, the long ones first; what has a lab for each parameter is dealt by parameter."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import dealing

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("nodeid", "unit"),
    [
        ("tests/lab/test_vlan.py::test_a[x-ipv4]", "tests/lab/test_vlan.py"),
        ("tests/lab/test_underlay.py::test_a[ipv4]", "tests/lab/test_underlay.py[ipv4]"),
        ("tests/lab/test_underlay.py::test_a[one-ipv6]", "tests/lab/test_underlay.py[ipv6]"),
        ("tests/lab/test_underlay.py::test_a", "tests/lab/test_underlay.py"),
    ],
)
def test_a_test_goes_with_its_file_or_with_its_part_of_it(nodeid: str, unit: str) -> None:
    assert dealing.unit_of(nodeid) == unit


def test_long_files_come_first_then_those_on_real_daemons() -> None:
    last, longest = "tests/unit/hostagent/test_plan.py", dealing._LONGEST[0]
    files = [last, "tests/lab/test_vlan.py", "tests/e2e/test_guest.py", longest]
    assert dealing.longest_first(files) == [longest, "tests/e2e/test_guest.py", "tests/lab/test_vlan.py", last]


def test_files_that_are_named_exist() -> None:
    assert [file for file in (*dealing._LONGEST, *dealing._PARTS) if not (ROOT / file).is_file()] == []

"""Golden cases of `plan`, each a folder in tests/cases/plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostagent.plan import plan
from tests.support.hostagent_cases import read_case, text_of
from tests.support.hostagent_worlds import settled

CASES = sorted(Path(__file__).resolve().parents[2].joinpath("cases", "plan").iterdir())


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: folder.name)
def test_case(folder):
    desired, observed, steps = read_case(folder)
    assert [text_of(step) for step in plan(desired=desired, observed=observed)] == (steps or [])


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: folder.name)
def test_case_ends_with_nothing_to_do(folder):
    desired, observed, _ = read_case(folder)
    assert plan(desired=desired, observed=settled(desired, observed)) == ()


def test_there_are_cases():
    assert len(CASES) >= 6

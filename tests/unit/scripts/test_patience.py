"""Deadlines on a machine that is known to be slow."""

from __future__ import annotations

import pytest

from scripts.labkit.patience import patient


@pytest.mark.parametrize(("said", "deadline_s"), [(None, 5), ("", 5), ("4", 20), ("0.5", 5)])
def test_a_deadline_is_as_many_times_longer_as_was_said_and_never_shorter(said: str | None, deadline_s: float) -> None:
    assert patient(5, environment={} if said is None else {"OPLAB_PATIENCE": said}) == deadline_s

"""The bench of placement measures what it says."""

import random

from tests.bench.placement import build, document, measure
from vmctl.placement.balance import plan_balance


def test_document_holds_every_figure_with_what_it_was_measured_on() -> None:
    found = document(hosts=120, vms=1200, samples=40)
    assert (found["hosts"], found["vms"], found["decision_ms"]["samples"]) == (120, 1200, 40)
    assert 0 < found["decision_ms"]["median"] <= found["decision_ms"]["p99"]
    assert all(found[key] > 0 for key in ("explain_ms", "balance_pass_s", "consolidate_pass_s"))
    assert {"python", "numpy", "cpus", "load_1min"} <= found["environment"].keys()


def test_pass_that_is_measured_has_moves_to_find() -> None:
    assert plan_balance(build(120, 1200, chance=random.Random(5)), now_s=0.0, departures={}).moves


def test_decision_on_ten_thousand_hosts_takes_less_than_five_milliseconds() -> None:
    chance = random.Random(5)
    found = measure(build(10_000, 20_000, chance=chance), samples=200, chance=chance)
    assert found["decision_ms"]["median"] < 5.0

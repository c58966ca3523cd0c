import json
from collections.abc import Mapping

import pytest

from scripts.benchkit.figures import POSITIONS, SUBJECTS, Move, Seen, document, p95, table
from scripts.benchkit.rig import parse_downtime, parse_event_times
from scripts.labkit import LabError

STOP, RESUME = 1000.0, 1000.2


def seen(gap_ms: float, *, lost: int = 0, duplicates: int = 0, gap_at: float = STOP - 0.003) -> Seen:
    return Seen(gap_ms=gap_ms, gap_at=gap_at, lost=lost, duplicates=duplicates, sent=700)


def move(gap_ms: float, *, pause_ms: float = 200.0, lost: int = 0, duplicates: int = 0, **times: float | None) -> Move:
    at_all = dict.fromkeys(POSITIONS, seen(gap_ms, lost=lost, duplicates=duplicates))
    when: Mapping[str, float | None] = {"stopped_at": STOP, "resumed_at": RESUME, **times}
    return Move(source="h1", destination="h2", pause_ms=pause_ms, copy_s=1.5, seen=at_all, **when)


def judged(ours: list[Move], **others: list[Move]) -> dict[str, object]:
    doc = document({"ours": ours, **others}, failures={}, environment={})
    return dict(doc["reach"].get("third", {}))


def test_95th_percentile_is_a_sample_that_at_most_one_of_twenty_exceeds() -> None:
    assert p95(list(range(1, 21))) == 19
    assert p95([7]) == 7
    assert p95([3, 1, 2]) == 3


def test_pause_is_taken_from_the_gap_of_the_same_move() -> None:
    doc = document({"ours": [move(250, pause_ms=200), move(190, pause_ms=100)]}, failures={}, environment={})
    metrics = doc["ours"]["positions"]["source"]
    assert metrics["gap_minus_pause_ms"]["samples"] == [50, 90]
    assert metrics["gap_minus_pause_ms"]["median"] == 70


def test_all_positions_together_hold_the_samples_of_each() -> None:
    at = {"source": seen(210), "destination": seen(220), "third": seen(230)}
    one = Move(source="h1", destination="h2", pause_ms=200.0, copy_s=1.0, seen=at)
    figures = document({"ovn": [one]}, failures={}, environment={})["ovn"]
    assert [figures["positions"][position]["gap_ms"]["samples"] for position in POSITIONS] == [[210], [220], [230]]
    assert figures["gap_ms"]["samples"] == [210, 220, 230]


def test_rest_of_the_gap_is_split_at_qemus_stop_and_resume() -> None:
    metrics = document({"ours": [move(240)]}, failures={}, environment={})["ours"]["positions"]["third"]
    assert metrics["before_pause_ms"]["median"] == pytest.approx(3, abs=0.1)
    assert metrics["after_resume_ms"]["median"] == pytest.approx(37, abs=0.1)


@pytest.mark.parametrize("times", [{"stopped_at": None}, {"resumed_at": None}, {"stopped_at": STOP - 1}])
def test_a_gap_that_does_not_span_the_pause_is_not_split(times: dict[str, float | None]) -> None:
    metrics = document({"ours": [move(240, **times)]}, failures={}, environment={})["ours"]["positions"]["third"]
    assert metrics["before_pause_ms"] == {"median": None, "p95": None, "samples": []}


def test_ours_is_judged_by_its_distance_to_the_floor_and_to_the_best() -> None:
    verdict = judged([move(255)], floor=[move(240)], ovn=[move(230)])
    assert (verdict["above_floor_ms"], verdict["within_20_ms_of_floor"]) == (15, True)
    assert verdict["above_best_other_ms"] == 25
    assert judged([move(261)], floor=[move(240)])["within_20_ms_of_floor"] is False


def test_losses_are_judged_by_median_and_95th_percentile() -> None:
    few = [move(240, lost=1)] * 19 + [move(240, lost=3)]
    assert judged(few, floor=[move(240)])["lost_p95_at_most_2"] is True
    many = [move(240, lost=1)] * 18 + [move(240, lost=3)] * 2
    verdict = judged(many, floor=[move(240)])
    assert (verdict["lost_median_at_most_1"], verdict["lost_p95_at_most_2"]) == (True, False)


def test_one_duplicate_in_all_moves_misses_the_reach() -> None:
    assert judged([move(240)] * 19, floor=[move(240)])["no_duplicate"] is True
    assert judged([move(240)] * 19 + [move(240, duplicates=1)], floor=[move(240)])["no_duplicate"] is False


def test_without_floor_nothing_is_judged() -> None:
    doc = document({"ours": [move(240)]}, failures={}, environment={})
    assert doc["reach"] == {}
    assert "not judged" in table(doc)


def test_a_subject_without_a_single_move_is_left_out_with_its_reason() -> None:
    doc = document(
        {"ours": [move(240)], "ovn": []}, failures={"ours": [], "ovn": ["move 1: no answer"]}, environment={}
    )
    assert [subject for subject in SUBJECTS if subject in doc] == ["ours"]
    assert doc["failures"] == {"ovn": ["move 1: no answer"]}
    assert "ovn" in table(doc)


def test_document_is_json_and_table_names_what_was_missed() -> None:
    doc = document({"ours": [move(300, lost=2)], "floor": [move(240)]}, failures={}, environment={"cores": 2})
    assert json.loads(json.dumps(doc))["ours"] == doc["ours"]
    (line,) = (line for line in table(doc).splitlines() if line.startswith("Reach, third"))
    assert "+60 ms" in line
    assert "missed: within 20 ms of floor, lost median at most 1" in line
    assert "met: lost p95 at most 2, no duplicate" in line


def test_qemus_times_are_read_from_virsh() -> None:
    text = (
        'event MIGRATION at 1637.100000 for domain \'web\': {"status":"active"}\n'
        "event STOP at 1637.250001 for domain 'web': <null>\n"
        "event RESUME at 1637.450001 for domain 'web': <null>\nevents received: 3\n"
    )
    assert parse_event_times(text) == {"STOP": 1637.250001, "RESUME": 1637.450001}
    assert parse_event_times("") == {}


@pytest.mark.parametrize(("line", "ms"), [("Total downtime:   215          ms", 215), ("Total downtime: 1.2 s", 1200)])
def test_downtime_is_read_in_ms(line: str, ms: float) -> None:
    assert parse_downtime(f"Job type:         Completed   \n{line}\nDowntime w/o network: 210          ms\n") == ms


def test_a_job_without_downtime_is_an_error_that_quotes_it() -> None:
    with pytest.raises(LabError, match="says no downtime: 'Job type:         None'"):
        parse_downtime("Job type:         None\n")

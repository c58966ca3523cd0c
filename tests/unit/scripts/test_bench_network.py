import json
import socket
import threading
from pathlib import Path

import pytest

from scripts.benchkit.inside import rpc
from scripts.benchkit.network_figures import BARE, MEASURES, OURS, THEIRS, Reach, document, table
from scripts.labkit import LabError


def test_ratio_is_that_of_the_medians() -> None:
    doc = document({"network_create": {OURS: [10, 90, 20], THEIRS: [40, 50, 30]}}, failures={}, environment={})
    found = doc["network_create"]
    assert (found["ours"], found["theirs"], found["ratio"]) == (20, 40, 0.5)
    assert found["spread"][OURS] == {"min": 10, "p95": 90, "max": 90}
    assert found["samples"] == {OURS: 3, THEIRS: 3}
    assert found["reach"]["met"] is True


def test_what_one_side_alone_was_measured_for_is_not_judged() -> None:
    doc = document({"vif_first_frame": {OURS: [10]}}, failures={}, environment={})
    assert doc["vif_first_frame"]["ratio"] is None
    assert doc["vif_first_frame"]["reach"]["met"] is None
    assert "not judged" in table(doc)


def test_a_measure_without_samples_is_left_out_and_its_failures_are_told() -> None:
    doc = document({"attach_500": {OURS: []}}, failures={"attach_500": ["theirs, sample 1: no"]}, environment={})
    assert "attach_500" not in doc
    assert "attach_500: theirs, sample 1: no" in table(doc)


@pytest.mark.parametrize(("ours", "met"), [(981, True), (979, False)])
def test_throughput_is_judged_by_the_bare_bridge_and_more_is_better(ours: float, met: bool) -> None:
    doc = document({"throughput": {OURS: [ours], THEIRS: [10], BARE: [1000]}}, failures={}, environment={})
    assert doc["throughput"]["reach"]["met"] is met
    assert doc["throughput"]["ratio_to_bare_bridge"] == ours / 1000


def test_a_reach_without_a_rival_is_in_the_measures_unit() -> None:
    assert Reach(limit=1000, to="").met({OURS: 999}) is True
    assert Reach(limit=1000, to="").met({OURS: 1001}) is False


def test_every_measure_of_the_document_has_a_row_in_the_table() -> None:
    doc = document({key: {OURS: [1.0], THEIRS: [2.0]} for key in MEASURES}, failures={}, environment={})
    assert [line.split()[0] for line in table(doc).splitlines()[2:]] == list(MEASURES)


def answering(path: Path, *chunks: bytes) -> None:
    """A server of one connection that answers with *chunks*, one after the other."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(str(path))
    server.listen(1)

    def serve() -> None:
        with server, server.accept()[0] as connection:
            connection.recv(4096)
            for chunk in chunks:
                connection.sendall(chunk)

    threading.Thread(target=serve, daemon=True).start()


def test_an_answer_that_comes_in_pieces_is_read_whole(tmp_path: Path) -> None:
    text = json.dumps({"id": 0, "error": None, "result": {"rows": [{"a": 1}, {"b": 2}]}}).encode()
    at = text.index(b"},") + 1  # a piece that ends with a brace is not the end
    answering(tmp_path / "s", text[:at], text[at:])
    assert rpc(tmp_path / "s", "transact") == {"rows": [{"a": 1}, {"b": 2}]}


def test_a_refusal_and_silence_are_sentences_that_name_the_socket(tmp_path: Path) -> None:
    answering(tmp_path / "s", b'{"id": 0, "result": null, "error": "no such database"}')
    with pytest.raises(LabError, match=r"s: transact .* was refused: no such database"):
        rpc(tmp_path / "s", "transact")
    with pytest.raises(LabError, match=r"absent: no answer to .*run"):
        rpc(tmp_path / "absent", "run")

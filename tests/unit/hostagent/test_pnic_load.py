"""Traffic of the PNICs from the kernel's counters."""

from pathlib import Path

import pytest

from hostagent.pnic_load import PnicLoad, busy_mbps

TEXT = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier comp
  lo: 10 1 0 0 0 0 0 0 10 1 0 0 0 0 0 0
 eth0:{received} 9 0 0 0 0 0 0 {sent} 9 0 0 0 0 0 0
"""


def test_busier_direction_counts_and_time_is_taken_into_account() -> None:
    assert busy_mbps(before={"a": (0, 0)}, after={"a": (1_000_000, 25_000_000)}, seconds=2.0) == {"a": 100}


def test_counters_that_began_anew_are_no_load_and_new_interfaces_none_yet() -> None:
    assert busy_mbps(before={"a": (500, 500)}, after={"a": (1, 2), "b": (9, 9)}, seconds=1.0) == {"a": 0}


def test_nothing_is_told_before_the_second_reading(tmp_path: Path) -> None:
    file = tmp_path / "dev"
    file.write_text(TEXT.format(received=0, sent=0))
    load = PnicLoad(counters=file)
    load.sample(now_s=10.0)
    assert load.mbps == {}
    file.write_text(TEXT.format(received=375_000_000, sent=5))
    load.sample(now_s=13.0)
    assert load.mbps == {"lo": 0, "eth0": 1000}


def test_real_counters_of_this_machine_are_read() -> None:
    load = PnicLoad()
    load.sample(now_s=1.0)
    load.sample(now_s=2.0)
    assert load.mbps["lo"] == pytest.approx(0, abs=10**6)

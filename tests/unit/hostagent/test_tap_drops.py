"""What the kernel refused at taps, from its text."""

from __future__ import annotations

from hostagent.tap_drops import read_refused, refused

TEXT = """Inter-|   Receive                                             |  Transmit
 face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed
    lo:  900       9    0    0    0     0          0         0   900       9    0    0    0     0       0          0
vnet12: 3122       4    0    7    0     0          0         0    90       1    0    5    0     0       0          0
tapc2:99999999 123456 1   2    0     0          0         0    90       1    0    0    0     0       0          0
"""


def test_dropped_ones_of_those_received_are_counted_by_interface() -> None:
    assert refused(TEXT) == {"lo": 0, "vnet12": 7, "tapc2": 2}


def test_the_kernel_of_this_machine_is_read() -> None:
    assert "lo" in read_refused()

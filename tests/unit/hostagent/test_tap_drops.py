"""What the kernel dropped at taps, from what it says."""

from __future__ import annotations

from hostagent.realize.rtnetlink import htb_drops
from hostagent.tap_drops import read_overflowed, read_refused, refused

TEXT = """Inter-|   Receive                                             |  Transmit
 face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed
    lo:  900       9    0    0    0     0          0         0   900       9    0    0    0     0       0          0
vnet12: 3122       4    0    7    0     0          0         0    90       1    0    5    0     0       0          0
tapc2:99999999 123456 1   2    0     0          0         0    90       1    0    0    0     0       0          0
"""

# Of a link that has no queue, of an HTB that has dropped four frames, and of the queue in which it did.
DISCIPLINES = (
    "000000000200000000000000ffffffff02000000 0c0001006e6f717565756500 05000c0000000000 3000070014000100"
    "00000000000000000000000000000000 18000300 0000000000000000000000000000000000000000"
    "2c000300 00000000000000000000000000000000000000000000000000000000000000000000000000000000",
    "000000000300000000000100ffffffff03000000 0800010068746200"
    "2400020018000200110003000a00000001000000000000000000000008000500e8030000 05000c0000000000"
    "3000070014000100a2100000000000000500000000000000 18000300 0100000012040000 04000000 0000000003000000"
    "2c000300 a2100000000000000500000004000000030000000000000000000000010000001204000000000000",
    "00000000030000000000716f0100010001000000 0a000100626669666f000000 08000200b80b0000 05000c0000000000"
    "3000070014000100a2100000000000000500000000000000 18000300 0100000012040000 04000000 0000000000000000"
    "2c000300 a2100000000000000500000004000000000000000000000000000000010000001204000000000000",
)


def test_dropped_ones_of_those_received_are_counted_by_interface() -> None:
    assert refused(TEXT) == {"lo": 0, "vnet12": 7, "tapc2": 2}


def test_the_kernel_of_this_machine_is_read() -> None:
    assert "lo" in read_refused()


def test_of_queueing_disciplines_only_the_shapers_own_count_is_taken() -> None:
    assert htb_drops(map(bytes.fromhex, DISCIPLINES)) == {3: 4}
    assert htb_drops([bytes.fromhex(DISCIPLINES[0])]) == {}


def test_the_queues_of_this_machine_are_read() -> None:
    assert all(packets >= 0 for packets in read_overflowed().values())

"""The message that opens the floor's path, written to a real switch: what a frame does before and after."""

from __future__ import annotations

import socket
import time

import pytest

from scripts.benchkit.gate import HELLO, flood_to
from scripts.labkit.dummy_switch import DummySwitch

pytestmark = pytest.mark.lab

GUEST, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:02"


def frame(to: str) -> bytes:
    return bytes.fromhex(f"{to}{OTHER}".replace(":", "")) + b"\x88\xb5" + bytes(46)


def test_opened_gate_floods_what_is_for_the_guest_and_nothing_else() -> None:
    with DummySwitch() as switch:
        switch.add_bridge("br")
        for port in ("tunnel", "tap", "quiet"):
            switch.add_port("br", port)
        switch.ofctl("mod-port", "br", "quiet", "no-flood", "-OOpenFlow10")  # later versions do not know it
        switch.ofctl("add-flow", "br", "table=0,actions=resubmit(,1)")
        switch.receive("tunnel", frame(GUEST))
        assert switch.sent("tap") == []
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(f"{switch.rundir}/br.mgmt")
            connection.sendall(HELLO)
            assert connection.recv(4096)
            connection.sendall(flood_to(GUEST, table=1, priority=10))
            deadline = time.monotonic() + 5
            while GUEST not in switch.ofctl("dump-flows", "br", "table=1"):
                assert time.monotonic() < deadline
        switch.receive("tunnel", frame(GUEST), frame(OTHER))
        assert switch.sent("tap") == [frame(GUEST)]
        assert switch.sent("quiet") == []

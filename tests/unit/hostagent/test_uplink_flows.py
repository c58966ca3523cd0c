"""What vswitchd says of an uplink bridge's flows. The texts are of Open vSwitch 3.1."""

import pytest

from hostagent.uplink_flows import switches_all

HIDDEN = "table_id=254, duration=9s, n_packets=0, n_bytes=0, priority=2,recirc_id=0,actions=drop\n"
OWN = "duration=9s, n_packets=3, n_bytes=210, priority=0,actions=NORMAL\n"


@pytest.mark.parametrize(
    ("dump", "switches"),
    [
        (OWN + HIDDEN, True),
        (HIDDEN + "duration=1s, n_packets=0, n_bytes=0, priority=9,in_port=1,actions=drop\n" + OWN, True),
        ("duration=1s, n_packets=0, n_bytes=0, ,actions=NORMAL\n", True),
        (HIDDEN, False),
        ("", False),
        ("duration=9s, n_packets=3, n_bytes=210, priority=0,actions=drop\n" + HIDDEN, False),
        ("duration=9s, n_packets=3, n_bytes=210, priority=0,in_port=1,actions=NORMAL\n", False),
        ("table_id=7, duration=9s, n_packets=3, n_bytes=210, priority=0,actions=NORMAL\n", False),
    ],
)
def test_a_bridge_switches_what_no_flow_takes_by_a_flow_for_any_frame(dump: str, switches: bool) -> None:
    assert switches_all(dump) is switches

"""Flows in the pipeline's words, compiled by the pipeline itself."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from hostagent.flow import Flow, RawMatch, match
from hostagent.flow_words import Names, flow_views
from hostagent.group_memory import enforced_flows
from hostagent.pipeline.drops import Counted
from hostagent.pipeline.network import NetworkPorts, PortView, Wire, network_flows
from hostagent.pipeline.policy import Policy, policy_flows, port_policy_flows
from hostagent.pipeline.tables import Table, family_of, switch_flows
from netmgr.contract.types import Direction, SecurityGroup, SecurityRule, VifState

KEY, OTHER = 0xA1, 0xB2
WEB1, WEB2 = "02:00:00:00:00:01", "02:00:00:00:00:02"


def views(*, vtep: str = "10.200.0.1", remote: str = "10.200.0.2", table: str = "") -> list[tuple[str, str, str]]:
    """Table, match and actions of web1 here, web2 there, and what else the bridge has, as words."""
    web1 = PortView(mac=1, mac_text=WEB1, ips=("10.0.0.1",), here=True, state=VifState.LIT, ofport=3, bound=True)
    web1 = web1._replace(mac=0x020000000001)
    web2 = PortView(mac=0x020000000002, mac_text=WEB2, ips=("10.0.0.2",), holder_vtep=remote, live=True, bound=True)
    ports = NetworkPorts(key=KEY, wire=Wire(vtep=vtep, tunnel=1, tun_id=5000), ports=(web1, web2))
    strange = Flow(table=0, priority=1, cookie=OTHER, match=(RawMatch(header=0x1234, value=b"\1"),))
    flows = [*network_flows(ports), *switch_flows(family_of(vtep)), strange]
    names = Names(
        networks={KEY: "blue"},
        ofports={1: "vxlan-1", 3: "tap3(web1)"},
        macs={WEB1: "web1", WEB2: "web2"},
        addresses={"10.200.0.2": "h2", "fd00::2": "h2", "10.0.0.2": "web2"},
    )
    found = flow_views([Counted(flow, 7, 700) for flow in flows], names, key=KEY, table=table)
    assert all(one["packets"] == 7 and one["bytes"] == 700 for one in found)
    return [(one["table"], " ".join(one["match"]), ", ".join(one["actions"])) for one in found]


def test_tables_come_in_the_order_of_the_pipeline_and_hold_the_network_s_flows_only() -> None:
    tables = [Table[name] for name, _, _ in views()]
    assert tables == sorted(tables)
    assert {Table.CLASSIFY, Table.LOCATE, Table.BINDING, Table.SEND} <= set(tables)
    assert Table.CANARY not in tables


@pytest.mark.parametrize(
    "line",
    [
        ("CLASSIFY", "in_port=tap3(web1)", "network:=blue, origin:=VIF, goto GUARD"),
        ("CLASSIFY", "in_port=vxlan-1 tun_id=0x1388", "network:=blue, mac:=eth_src, ask LOCATE, goto TUNNEL"),
        ("FORWARD", f"network=blue eth_dst={WEB1}(web1)", "output tap3(web1)"),
        ("LOCATE", f"network=blue mac={WEB2}(web2)", "holder:=10.200.0.2(h2)"),
        ("BINDING", "network=blue address=10.0.0.2(web2)", f"owner:={WEB2}(web2)"),
        ("SEND", "network=blue origin=VIF", "tun_id:=0x1388, output vxlan-1"),
        ("DROPPED", "in_port=tap3(web1) reason=SOURCE", "drop (IP source is not the port's)"),
    ],
)
def test_flow_says_who_and_what_it_is_about(line: tuple[str, str, str]) -> None:
    assert line in views()


@pytest.mark.parametrize(
    "line",
    [
        ("EGRESS", "in_port=tap3(web1) eth_type=0x800", "track in zone 40960, goto EGRESS_TRACKED"),
        (
            "EGRESS_TRACKED",
            "in_port=tap3(web1)",
            "stateful:=yes, direction:=egress, allowed:=no, group:=web, ask GROUP, goto EGRESS_VERDICT",
        ),
        ("INGRESS", "tap=tap3(web1)", "reason:=INGRESS, goto DROPPED"),
        ("DELIVER", "network=blue tap=tap3(web1)", "output tap3(web1)"),
        ("GROUP", "direction=ingress group=web eth_type=0x800", "address:=nw_src, remote:=db, ask MEMBER"),
        ("MEMBER", "address=10.0.0.2(web2) remote=db eth_type=0x800", "ask RULE"),
        ("RULE", "direction=ingress group=web remote=db eth_type=0x800 nw_proto=6 tcp_dst=80", "allowed:=yes"),
    ],
)
def test_security_groups_that_judge_a_port_of_the_network_are_among_its_flows(line: tuple[str, str, str]) -> None:
    web, db, idle = (UUID(int=number << 64) for number in (1, 2, 3))
    rule = SecurityRule(direction=Direction.INGRESS, protocol="tcp", port_min=80, port_max=80, remote_group=db)
    groups = {
        web: SecurityGroup(uuid=web, name="web", rules=(rule,)),
        db: SecurityGroup(uuid=db, name="db", members=("10.0.0.2",)),
        idle: SecurityGroup(uuid=idle, name="idle", rules=(replace(rule, remote_group=None),)),
    }
    flows = port_policy_flows(ofport=3, policy=Policy((1,), 40960), network=KEY) | enforced_flows(groups, groups)
    names = Names(
        networks={KEY: "blue"},
        groups={1: "web", 2: "db", 3: "idle"},
        ofports={3: "tap3(web1)"},
        addresses={"10.0.0.2": "web2"},
    )
    found = flow_views([Counted(flow, 0, 0) for flow in flows | policy_flows()], names, key=KEY)
    assert line in [(one["table"], " ".join(one["match"]), ", ".join(one["actions"])) for one in found]
    assert not any("idle" in word for one in found for word in one["match"])


def test_underlay_of_ipv6_reads_the_same() -> None:
    assert ("LOCATE", f"network=blue mac={WEB2}(web2)", "holder:=fd00::2(h2)") in views(
        vtep="fd00::1", remote="fd00::2"
    )


@pytest.mark.parametrize("table", ["LOCATE", "locate", "200"])
def test_one_table_is_picked_by_name_or_number(table: str) -> None:
    assert {name for name, _, _ in views(table=table)} == {"LOCATE"}


def test_flow_of_somebody_else_is_not_the_network_s_unless_it_matches_on_it() -> None:
    on_it = Flow(table=0, priority=1, cookie=OTHER, match=match(metadata=KEY))
    beside = Flow(table=0, priority=2, cookie=OTHER, match=match(metadata=OTHER))
    found = flow_views([Counted(flow, 0, 0) for flow in (on_it, beside)], Names(), key=KEY)
    assert [one["priority"] for one in found] == [1]

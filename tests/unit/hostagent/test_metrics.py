"""Metrics of a host: values of the agent → text that Prometheus reads; drops in sums that only grow; the command."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from click.testing import CliRunner, Result
from prometheus_client.parser import text_string_to_metric_families

from hostagent import verbs
from hostagent.agent import Agent
from hostagent.cli import cli
from hostagent.cli.output import Failure
from hostagent.control import ControlServer, HookRequest
from hostagent.drop_totals import DropTotals, with_ports
from hostagent.metrics import metrics_text
from hostagent.realize.errors import RealizeError
from hostagent.show import counts_of
from netmgr.contract.types import Learned, LearnedAddress, LearnedMac, LearnedSource
from tests.support.hostagent_worlds import desired, location, network, port

SWITCH, BLUE, RED, PORT = "5a" * 4, "b1" * 4, "4e" * 4, "9c" * 4
WEB = {"ovs_port": "vnet0", "port": "web", "port_uuid": PORT, "network": "blue", "state": "lit"}
VALUES: dict[str, Any] = {
    "ok": True,
    "sync": {"connected": False, "age_s": 12.5, "in_sync": True, "revision": 41},
    "switches": [{"uuid": SWITCH, "name": "sw-a", "health": 70}],
    "networks": [{"uuid": BLUE, "status": "up"}, {"uuid": RED, "status": "warning"}],
    "vifs": [WEB, {**WEB, "ovs_port": "vnet1", "port": "", "port_uuid": "", "state": "dark"}],
    "peers": [
        {"switch": "sw-a", "state": "up"},
        {"switch": "sw-a", "state": "up"},
        {"switch": "sw-a", "state": "down"},
    ],
    "failures": ["bridge osw-1: no answer"],
    "hushed": [SWITCH, RED, PORT],
    "connections": {PORT: {"limit": 65536, "connections": 65536}},
    "repairs_by_kind": {"flows": 2, "bridge": 0},
    "learned_addresses": {"arp": 3, "nd": 1, "dhcp": 0},
    "learned_macs": 4,
    "address_conflicts": 1,
    "dropped": [
        {
            "bridge": "osw-1",
            "ovs_port": "vnet0",
            "port": 'web "1" \\ x',
            "port_uuid": PORT,
            "network": "blue",
            "reason": "source MAC is not the port's",
            "packets": 7,
        },
        {
            "bridge": "osw-1",
            "ovs_port": "",
            "port": "",
            "port_uuid": "",
            "network": "blue",
            "reason": "nobody to flood to",
            "packets": 2,
        },
    ],
    "drops_unread": "",
}
GOLDEN = f"""
hostagent_in_sync 1.0
hostagent_manager_connected 0.0
hostagent_manager_away_seconds 12.5
hostagent_revision 41.0
hostagent_failed_steps 1.0
hostagent_switch_health{{switch="sw-a"}} 70.0
hostagent_networks{{status="up"}} 1.0
hostagent_networks{{status="warning"}} 1.0
hostagent_networks{{status="down"}} 0.0
hostagent_networks{{status="maintenance"}} 0.0
hostagent_networks{{status="unavailable"}} 0.0
hostagent_vifs{{state="lit"}} 1.0
hostagent_vifs{{state="dark"}} 1.0
hostagent_vifs{{state="incoming"}} 0.0
hostagent_peers{{state="new",switch="sw-a"}} 0.0
hostagent_peers{{state="unheard",switch="sw-a"}} 0.0
hostagent_peers{{state="up",switch="sw-a"}} 2.0
hostagent_peers{{state="down",switch="sw-a"}} 1.0
hostagent_drops_read 1.0
hostagent_dropped_frames_total{{bridge="osw-1",network="blue",ovs_port="",port="",port_uuid="",reason="nobody to flood to"}} 2.0
hostagent_dropped_frames_total{{bridge="osw-1",network="blue",ovs_port="vnet0",port="web \\"1\\" \\\\ x",port_uuid="{PORT}",reason="source MAC is not the port's"}} 7.0
hostagent_hushed{{kind="port"}} 1.0
hostagent_hushed{{kind="network"}} 1.0
hostagent_hushed{{kind="switch"}} 1.0
hostagent_learned_addresses{{source="arp"}} 3.0
hostagent_learned_addresses{{source="nd"}} 1.0
hostagent_learned_addresses{{source="dhcp"}} 0.0
hostagent_learned_macs 4.0
hostagent_address_conflicts 1.0
hostagent_tracked_connections{{network="blue",port="web",port_uuid="{PORT}"}} 65536.0
hostagent_tracked_connections_max{{network="blue",port="web",port_uuid="{PORT}"}} 65536.0
hostagent_ports_full 1.0
hostagent_repairs_total{{kind="flows"}} 2.0
hostagent_repairs_total{{kind="bridge"}} 0.0
"""  # noqa: E501


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    found = [one for family in text_string_to_metric_families(text) for one in family.samples]
    by_name = {(one.name, frozenset(one.labels.items())): one.value for one in found}
    assert len(by_name) == len(found), "each sample is there once"
    return by_name


def test_what_the_agent_says_is_said_in_the_words_of_prometheus() -> None:
    text = metrics_text(VALUES)
    assert [line for line in text.splitlines() if not line.startswith("#")] == GOLDEN.strip().splitlines()
    assert samples(text) == samples(GOLDEN)


def test_each_metric_has_a_name_by_the_rules_a_type_and_a_help() -> None:
    for family in text_string_to_metric_families(metrics_text(VALUES)):
        assert family.name.startswith("hostagent_")
        assert family.documentation
        assert family.type in ("counter", "gauge")
        assert all(one.name.endswith("_total") == (family.type == "counter") for one in family.samples)


def test_an_agent_that_carries_nothing_yet_has_metrics() -> None:
    nothing = {"switches": [], "networks": [], "vifs": [], "peers": [], "hushed": [], "connections": {}, "dropped": []}
    found = samples(metrics_text({**VALUES, **nothing}))
    assert found["hostagent_vifs", frozenset({("state", "lit")})] == 0
    assert found["hostagent_drops_read", frozenset()] == 1


def test_drops_that_could_not_be_read_are_left_out_and_not_told_as_none() -> None:
    text = metrics_text({**VALUES, "dropped": [], "drops_unread": "bridge osw-1: no answer"})
    assert "hostagent_drops_read 0.0" in text
    assert "hostagent_dropped_frames" not in text
    assert "hostagent_in_sync 1.0" in text


# --- sums that only grow ------------------------------------------------------------------------------------------


def row(packets: int, **more: str) -> dict[str, Any]:
    name = {"bridge": "osw-1", "ovs_port": "vnet0", "port": "web", "port_uuid": PORT, "network": "blue"}
    return {**name, "reason": "VLAN tag", "packets": packets, **more}


@pytest.mark.parametrize(
    ("counted", "totals"),
    [
        ([5, 9], [5, 9]),
        ([1000, 950, 960], [1000, 1000, 1010]),  # one flow of many was removed
        ([1000, 3, 10], [1000, 1000, 1007]),  # all were replaced
        ([5, 5], [5, 5]),
    ],
)
def test_a_total_grows_by_what_was_counted_since_and_never_shrinks(counted: list[int], totals: list[int]) -> None:
    kept = DropTotals()
    assert [kept.look([row(packets)])[0]["packets"] for packets in counted] == totals


def test_a_total_ends_with_what_it_was_of() -> None:
    kept = DropTotals()
    kept.look([row(1000)])
    assert kept.look([]) == []
    assert kept.look([row(4)]) == [row(4)]


def test_a_tap_that_got_anothers_name_does_not_take_over_its_total() -> None:
    kept = DropTotals()
    kept.look([row(1000)])
    assert kept.look([row(4, port="db", port_uuid=BLUE)]) == [row(4, port="db", port_uuid=BLUE)]


def test_rows_that_prometheus_could_not_tell_apart_are_one() -> None:
    """Two networks that have gone while their flows had not, for example."""
    assert DropTotals().look([row(3, network=""), row(4, network="")]) == [row(7, network="")]


def test_a_drop_has_the_logical_port_of_its_tap_and_none_where_ports_are_not_told_apart() -> None:
    drops = [{**row(1), "port": "vnet0"}, {**row(2), "port": ""}, {**row(3), "port": "tap9"}]
    for drop in drops:
        del drop["ovs_port"], drop["port_uuid"]
    named = with_ports(drops, [WEB, {**WEB, "ovs_port": "", "port": "parked"}])
    assert [(one["ovs_port"], one["port"], one["port_uuid"]) for one in named] == [
        ("vnet0", "web", PORT),
        ("", "", ""),
        ("tap9", "", ""),
    ]


# --- the agent's side ---------------------------------------------------------------------------------------------


def test_what_the_manager_has_said_of_ports_held_here_is_counted_by_what_showed_it() -> None:
    mine, gone = port("mine", 1), port("gone", 2)
    addresses = (
        LearnedAddress(address="10.0.0.5", source=LearnedSource.DHCP),
        LearnedAddress(address="10.0.0.6", source=LearnedSource.ARP, refused="port db had it before"),
    )
    macs = (LearnedMac(mac="02:00:00:00:00:07"), LearnedMac(mac="02:00:00:00:00:08", refused="it is another's"))
    rows = {
        one.uuid: Learned(port_uuid=one.uuid, network_uuid=one.network_uuid, addresses=addresses, macs=macs)
        for one in (mine, gone)
    }
    wanted = desired(networks=[network()], ports=[mine, gone], locations=[location(mine, "h1"), location(gone, "h2")])
    agent = SimpleNamespace(desired=lambda: replace(wanted, learned=rows), repairs_by_kind={"flows": 1})
    assert counts_of(cast(Agent, agent)) == {
        "repairs_by_kind": {"flows": 1},
        "learned_addresses": {"arp": 0, "nd": 0, "dhcp": 1},
        "learned_macs": 1,
        "address_conflicts": 2,
    }


@pytest.mark.parametrize("fails", [RealizeError("bridge osw-1: no answer"), None], ids=["refused", "silent"])
def test_a_switch_that_says_nothing_costs_its_drops_alone(
    monkeypatch: pytest.MonkeyPatch, fails: RealizeError | None
) -> None:
    async def drops(_agent: Agent) -> list[dict[str, Any]]:
        if fails is not None:
            raise fails
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(verbs, "drops_of", drops)
    monkeypatch.setattr(verbs, "show_of", lambda *_: {"vifs": [WEB]})
    monkeypatch.setattr(verbs, "unread_of", lambda _: "")
    monkeypatch.setattr(verbs, "counts_of", lambda _: {"learned_macs": 4})
    monkeypatch.setattr(verbs, "_DROPS_S", 0.01)

    async def asked() -> Mapping[str, Any]:
        return await verbs.Verbs(cast(Any, None), cast(Any, None), cast(Any, None))(HookRequest(verb="metrics"))

    answer = asyncio.run(asked())
    assert (answer["ok"], answer["vifs"], answer["learned_macs"], answer["dropped"]) == (True, [WEB], 4, [])
    assert answer["drops_unread"]


# --- the command --------------------------------------------------------------------------------------------------


def command(path: Path, *words: str, answer: Mapping[str, Any] | None) -> Result:
    """`hostagent metrics` beside an agent that gives *answer*, or none."""

    async def said(request: HookRequest) -> Mapping[str, Any]:
        assert request.verb == "metrics"
        assert answer is not None
        return answer

    def run() -> Result:
        return CliRunner().invoke(cli, ["--socket", str(path / "agent.sock"), "metrics", *words])

    return _beside(path / "agent.sock", said, run) if answer is not None else run()


def _beside(path: Path, said: Any, run: Callable[[], Result]) -> Result:
    async def main() -> Result:
        server = ControlServer(path, said)
        await server.start()
        try:
            return await asyncio.to_thread(run)
        finally:
            await server.close()

    return asyncio.run(main())


def test_the_command_prints_them(tmp_path: Path) -> None:
    result = command(tmp_path, answer=VALUES)
    assert (result.exit_code, result.stdout) == (0, metrics_text(VALUES))


def test_a_textfile_is_whole_readable_by_others_and_alone(tmp_path: Path) -> None:
    directory = tmp_path / "textfile"
    directory.mkdir()
    into = directory / "hostagent.prom"
    into.write_text("old")
    result = command(tmp_path, "--textfile", str(into), answer=VALUES)
    assert (result.exit_code, result.stdout) == (0, "")
    assert into.read_text() == metrics_text(VALUES)
    assert stat.S_IMODE(into.stat().st_mode) == 0o644
    assert list(directory.iterdir()) == [into]


def test_without_an_agent_there_is_a_sentence_status_2_and_no_textfile_of_before(tmp_path: Path) -> None:
    into = tmp_path / "hostagent.prom"
    into.write_text("hostagent_in_sync 1.0\n")
    result = command(tmp_path, "--textfile", str(into), answer=None)
    assert isinstance(result.exception, Failure)
    assert result.exception.status == 2
    assert "the agent does not answer on" in result.exception.sentence
    assert not into.exists()


def test_a_textfile_that_can_t_be_written_is_a_sentence(tmp_path: Path) -> None:
    result = command(tmp_path, "--textfile", str(tmp_path / "none" / "hostagent.prom"), answer=VALUES)
    assert isinstance(result.exception, Failure)
    assert "hostagent.prom can't be written: No such file" in result.exception.sentence

"""Ports, withdrawals and the span of networks over REST and on the command line."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import pytest

from netmgr.api.ports import Role
from netmgr.contract.types import HostReport, VifState, VifStatus
from netmgr.model import HostRecord
from tests.support.netmgr_api import Api
from tests.support.netmgr_cli import Cli

VIF = str(uuid4())


@pytest.fixture
def netmgr(api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command line over a manager with network blue of zone a and hosts h1 and h2."""
    cli = Cli(api, monkeypatch, capsys)
    cli.ok("zone", "create", "a")
    cli.ok("switch", "create", "s", "--zone", "a", "--vtep-pool", "10.200.0.0/24", "--pnic", "pnic*", "--mtu", "1650")
    for name in ("h1", "h2"):
        api.enrol(name, "a")
    cli.ok("network", "create", "blue", "--zone", "a", "--subnet", "10.10.0.0/24")
    return cli


def host(netmgr: Cli, name: str) -> HostRecord:
    with netmgr.api.store.read() as world:
        return next(record for record in world.hosts.values() if record.name == name)


def reports(netmgr: Cli, name: str, *vifs: VifStatus) -> None:
    """The host connects, confirms everything and says what is plugged."""
    record = host(netmgr, name)
    netmgr.api.acknowledge(record.uuid)
    netmgr.api.in_loop(lambda: netmgr.api.fleet.report(record.uuid, HostReport(vifs=vifs)))


def holds(netmgr: Cli, port: str, name: str) -> None:
    """What the arbiter does when the host claims the port."""
    from dataclasses import replace

    record = host(netmgr, name)
    with netmgr.api.store.transaction() as tx:
        found = next(p for p in tx.world.ports.values() if p.name == port)
        location = tx.world.locations[found.uuid]
        vtep = record.vteps[0].address.split("/")[0]
        tx.put(replace(location, holder_host=record.uuid, holder_vtep=vtep, version=location.version + 1))


def show(netmgr: Cli, *words: str) -> Any:
    return netmgr.ok(*words, "-o", "json").json()


def vif(state: VifState, *, reason: str = "", port: str | None = None, tap: str = "tap0", mac: str = "") -> VifStatus:
    return VifStatus(
        vif_uuid=UUID(VIF), port_uuid=UUID(port) if port else None, state=state, reason=reason, ovs_port=tap, mac=mac
    )


def test_port_show_tells_where_it_is_and_how_its_vif_fares(netmgr: Cli) -> None:
    made = show(netmgr, "port", "create", "web1", "--network", "blue", "--vif", VIF, "--ip", "10.10.0.5")
    assert (made["location"], made["host"], made["vif_state"], made["conflicts"]) == ("unbound", None, None, [])
    reports(netmgr, "h1", vif(VifState.DARK, reason="not yet granted"))
    found = show(netmgr, "port", "show", "web1")
    assert (found["plugged_on"], found["vif_state"], found["vif_reason"]) == (["h1"], "dark", "not yet granted")
    assert found["conflicts"] == []
    holds(netmgr, "web1", "h1")
    reports(netmgr, "h1", vif(VifState.LIT, port=made["uuid"]))
    found = show(netmgr, "port", "show", "blue/web1")
    assert (found["location"], found["host"], found["vtep"]) == ("held", "h1", "10.200.0.1")
    assert (found["vif_state"], found["ovs_port"]) == ("lit", "tap0")
    assert found["location_version"] == made["location_version"] + 1


def test_vif_that_is_plugged_twice_is_reported_with_every_wrong_place(netmgr: Cli) -> None:
    made = show(netmgr, "port", "create", "web1", "--network", "blue", "--vif", VIF)
    holds(netmgr, "web1", "h1")
    lit, twice = vif(VifState.LIT, port=made["uuid"]), vif(VifState.DARK, reason="plugged twice", tap="tap9")
    reports(netmgr, "h1", twice, lit)
    reports(netmgr, "h2", vif(VifState.DARK, reason="held by host h1", tap="tap3"))
    found = show(netmgr, "port", "show", "web1")
    assert found["vif_state"] == "lit"
    assert found["plugged_on"] == ["h1", "h2"]
    assert sorted((one["host"], one["ovs_port"], one["state"], one["reason"]) for one in found["conflicts"]) == [
        ("h1", "tap9", "dark", "plugged twice"),
        ("h2", "tap3", "dark", "held by host h1"),
    ]
    wide = netmgr.ok("port", "list", "-o", "wide").out
    assert "held by host h1" in wide
    assert "held by host h1" not in netmgr.ok("port", "list").out
    header, row = wide.splitlines()[:2]
    for column in ("location", "location_version", "vtep", "shadow_of", "vif_reason", "conflicts"):
        assert column in header
    assert "web1" in row
    reports(netmgr, "h2")
    assert [one["host"] for one in show(netmgr, "port", "show", "web1")["conflicts"]] == ["h1"]


def test_vif_that_is_plugged_on_two_hosts_and_held_by_none_is_a_conflict_of_both(netmgr: Cli) -> None:
    netmgr.ok("port", "create", "web1", "--network", "blue", "--vif", VIF)
    for name in ("h1", "h2"):
        reports(netmgr, name, vif(VifState.DARK))
    assert [one["host"] for one in show(netmgr, "port", "show", "web1")["conflicts"]] == ["h1", "h2"]


def test_two_ports_with_one_mac_or_address_are_refused_at_definition(netmgr: Cli) -> None:
    netmgr.ok("port", "create", "web1", "--network", "blue", "--mac", "02:00:00:00:00:01", "--ip", "10.10.0.5")
    for option, value in (("--mac", "02:00:00:00:00:01"), ("--ip", "10.10.0.5")):
        refused = netmgr("port", "create", "web2", "--network", "blue", option, value)
        assert (refused.code, "is that of port web1" in refused.err) == (2, True)
    assert len(show(netmgr, "port", "list")) == 1


def test_a_vif_that_is_plugged_with_the_mac_of_another_port_is_a_conflict_of_both(netmgr: Cli) -> None:
    mac1, mac2 = "02:00:00:00:00:01", "02:00:00:00:00:02"
    netmgr.ok("port", "create", "web1", "--network", "blue", "--mac", mac1)
    reports(netmgr, "h2", vif(VifState.DARK, reason="it belongs to port web1", tap="tap3", mac=mac1))
    told = f"{mac1}: VIF {VIF}, which has no port, is plugged as tap3 on host h2 with it, dark"
    assert show(netmgr, "port", "show", "web1")["address_conflicts"] == [told]
    netmgr.ok("port", "create", "web2", "--network", "blue", "--mac", mac2, "--vif", VIF)
    assert show(netmgr, "port", "show", "web1")["address_conflicts"] == [
        f"{mac1}: the VIF of port web2 is plugged as tap3 on host h2 with it, dark"
    ]
    assert show(netmgr, "port", "show", "web2")["address_conflicts"] == [
        f"{mac1}: it is defined for port web1, and this port's VIF is plugged with it as tap3 on host h2"
    ]
    reports(netmgr, "h2", vif(VifState.LIT, tap="tap3", mac=mac2))
    assert not [one for one in show(netmgr, "port", "list") if one["address_conflicts"]]


def test_life_of_a_shadow_on_the_command_line(netmgr: Cli) -> None:
    netmgr.ok("port", "create", "web1", "--network", "blue", "--vif", VIF, "--ip", "10.10.0.5")
    made = show(netmgr, "port", "create", "standby", "--shadow-of", "blue/web1", "--vif", str(uuid4()))
    assert (made["shadow_of"], made["ips"], made["network"]) == ("web1", ["10.10.0.5"], "blue")
    assert show(netmgr, "port", "show", "web1")["shadows"] == ["standby"]
    refused = netmgr("port", "failover", "web1")
    assert (refused.code, "is held by no host" in refused.err) == (2, True)
    holds(netmgr, "standby", "h2")
    done = show(netmgr, "port", "failover", "web1")
    assert (done["name"], done["host"], done["shadow_of"], done["shadows"]) == ("standby", "h2", None, ["web1"])
    assert show(netmgr, "port", "failover", "web1", "--force")["name"] == "web1"
    assert netmgr("port", "create", "alone").code == 2


def test_withdrawal_is_shown_with_who_and_why_until_it_is_restored(netmgr: Cli) -> None:
    shown = show(netmgr, "network", "withdraw", "blue", "--host", "h1", "--reason", "uplink flaps")
    assert shown["state"] == "partly withdrawn"
    (one,) = shown["withdrawals"]
    assert (one["host"], one["by"], one["reason"]) == ("h1", "operator", "uplink flaps")
    found = show(netmgr, "network", "show", "blue")
    assert {one["host"]: one["withdrawn"] for one in found["span"]} == {"h1": True, "h2": False}
    assert "partly withdrawn" in netmgr.ok("network", "list").out
    assert show(netmgr, "network", "withdraw", "blue", "--reason", "loop")["state"] == "withdrawn"
    refused = netmgr("network", "restore", "blue", "--host", "h2")
    assert (refused.code, "from all hosts by operator" in refused.err) == (2, True)
    assert show(netmgr, "network", "restore", "blue")["withdrawals"] == []
    assert "is not withdrawn" in netmgr("network", "restore", "blue").err
    assert netmgr("network", "withdraw", "blue").code == 2  # no reason


def test_withdrawal_waits_for_the_hosts_concerned_only(netmgr: Cli) -> None:
    for name in ("h1", "h2"):
        netmgr.api.acknowledge(host(netmgr, name).uuid)
    words = ("network", "withdraw", "blue", "--host", "h1", "--reason", "r", "--wait", "realized", "--timeout", "0.2")
    late = netmgr(*words)
    assert late.code == 1
    assert [line.split(":")[0] for line in late.err.splitlines()] == ["host h1"]


def test_viewer_and_host_may_not_withdraw(api: Api) -> None:
    with api.client(api.identity("vmctl", Role.VIEWER)) as viewer:
        for path in ("networks/blue/withdraw", "networks/blue/restore", "ports/p/failover"):
            assert viewer.post(f"/api/v1/{path}", json={"reason": "x"}).status_code == 403


def test_network_show_lists_span_and_bindings(netmgr: Cli) -> None:
    netmgr.ok("port", "create", "web1", "--network", "blue", "--vif", VIF)
    netmgr.ok("port", "create", "spare", "--network", "blue")
    holds(netmgr, "web1", "h1")
    reports(netmgr, "h1", vif(VifState.LIT))
    found = show(netmgr, "network", "show", "blue")
    assert {one["host"]: one["state"] for one in found["span"]} == {"h1": "realized", "h2": "disconnected"}
    (binding,) = found["bindings"]
    assert (binding["port"], binding["host"], binding["vif_state"]) == ("web1", "h1", "lit")
    assert binding["vif_uuid"] == VIF
    assert "bindings" not in show(netmgr, "network", "list")[0]
    assert "web1" in netmgr.ok("network", "show", "blue").out


def test_attach_and_detach_over_rest(netmgr: Cli) -> None:
    operator = netmgr.api.operator
    assert operator.post("/api/v1/ports", json={"name": "p", "network": "blue"}).status_code == 201
    attached = operator.post("/api/v1/ports/p/attach", json={"vif_uuid": VIF}).json()
    assert attached["vif_uuid"] == VIF
    again = operator.post("/api/v1/ports/p/attach", json={"vif_uuid": VIF})
    assert again.is_success  # its answer may have been lost
    other = operator.post("/api/v1/ports/p/attach", json={"vif_uuid": str(uuid4())})
    assert (other.status_code, "detach that before" in other.text) == (409, True)
    holds(netmgr, "p", "h1")
    assert operator.post("/api/v1/ports/p/detach").status_code == 409
    detached = operator.post("/api/v1/ports/p/detach?force=true").json()
    assert (detached["vif_uuid"], detached["location"]) == (None, "unbound")


def test_openapi_has_the_new_verbs(api: Api) -> None:
    paths = json.loads(api.operator.get("/openapi.json").content)["paths"]
    for path in ("networks/{network}/withdraw", "networks/{network}/restore", "ports/{port}/failover"):
        assert "post" in paths[f"/api/v1/{path}"]
    assert "get" in paths["/api/v1/networks/{network}/span"]

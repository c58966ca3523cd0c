"""The command line against a served API."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import yaml

from netmgr.api.ports import Role
from netmgr.cli import cli, main
from netmgr.contract.types import Kind
from netmgr.identity import peer_of
from netmgr.pki import CertificateAuthority
from tests.support.netmgr_api import Api
from tests.support.netmgr_cli import Cli


@pytest.fixture
def netmgr(api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(api, monkeypatch, capsys)


def make_zone_and_switch(netmgr: Cli) -> None:
    netmgr.ok("zone", "create", "a")
    netmgr.ok(
        "switch", "create", "sw-a", "--zone", "a", "--vtep-pool", "10.200.0.0/24", "--pnic", "pnic*", "--mtu", "1650"
    )


def test_life_of_every_resource(netmgr: Cli) -> None:
    make_zone_and_switch(netmgr)
    host = netmgr.api.enrol("h1", "a")
    network = netmgr.ok(
        "network", "create", "blue", "--zone", "a", "--subnet", "10.1.0.0/24", "--mtu", "1450", "-o", "json"
    )
    assert network.json()["segment_id"] == 5000
    vif = str(uuid4())
    netmgr.ok("port", "create", "p", "--network", "blue", "--ip", "10.1.0.5", "--down")
    assert netmgr.ok("port", "attach", "blue/p", "--vif", vif, "-o", "json").json()["vif_uuid"] == vif
    assert netmgr.ok("port", "set", "p", "--up", "--no-ips", "-o", "json").json()["admin_up"] is True
    assert netmgr.ok("port", "show", "p", "-o", "json").json()["ips"] == []
    (known,) = netmgr.ok("mac", "list", "--network", "blue", "-o", "json").json()
    assert (known["port"], known["defined"], known["learned"], known["state"]) == ("p", [], [], "unbound")
    assert netmgr.ok("mac", "list", "--host", "h1", "-o", "json").json() == []
    assert "no host 'nowhere'" in netmgr("mac", "list", "--host", "nowhere").err
    assert known["mac"] in netmgr.ok("mac", "list", "-o", "wide").out
    both = netmgr.ok("port", "set", "p", "--allow", "router", "--allow", "dhcp-server", "-o", "json")
    assert both.json()["allow"] == ["dhcp-server", "router"]
    twice = netmgr("port", "set", "p", "--allow", "router", "--allow", "router")
    assert (twice.code, "allow names the same thing twice" in twice.err) == (2, True)
    assert netmgr.ok("port", "set", "p", "--no-allow", "-o", "json").json()["allow"] == []
    nested = ("--nested-mac", "02:00:00:00:00:AA,10.1.0.77", "--nested-mac", "02:00:00:00:00:ab", "--allow", "nested")
    given = netmgr.ok("port", "set", "p", *nested, "-o", "json").json()
    assert given["nested"] == [
        {"mac": "02:00:00:00:00:aa", "ips": ["10.1.0.77"]},
        {"mac": "02:00:00:00:00:ab", "ips": []},
    ]
    rows = netmgr.ok("mac", "list", "-o", "json").json()
    assert sorted(row["behind"] for row in rows) == ["", "defined", "defined"]
    assert "02:00:00:00:00:aa" in netmgr.ok("port", "list", "-o", "wide").out
    assert "02:00:00:00:00:aa" in netmgr.ok("port", "show", "p").out
    wrong = netmgr("port", "set", "p", "--nested-mac", "02:00")
    assert (wrong.code, "a nested MAC must be a unicast address" in wrong.err) == (2, True)
    assert netmgr.ok("port", "set", "p", "--no-nested", "-o", "json").json()["nested"] == []
    assert netmgr.ok("network", "set", "blue", "--no-subnets", "-o", "json").json()["subnets"] == []
    assert netmgr.ok("host", "set", "h1", "--name", "first", "-o", "json").json()["zones"] == ["a"]
    assert netmgr.ok("host", "set", str(host.uuid), "--no-zones", "-o", "json").json()["vteps"] == {}
    assert netmgr.ok("switch", "set", "sw-a", "--teaming", "active-backup", "-o", "json").json()["mtu"] == 1650
    refused = netmgr("network", "delete", "blue")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("netmgr: network blue is in use by port p (VIF ")
    assert netmgr.ok("port", "detach", "p", "-o", "json").json()["vif_uuid"] is None
    for kind, name in (("port", "p"), ("network", "blue"), ("host", "first"), ("switch", "sw-a"), ("zone", "a")):
        netmgr.ok(kind, "delete", name)
        assert netmgr.ok(kind, "list", "-o", "json").json() == []


def test_output_has_three_forms_that_say_the_same(netmgr: Cli) -> None:
    make_zone_and_switch(netmgr)
    as_json = netmgr.ok("switch", "list", "-o", "json").json()
    assert yaml.safe_load(netmgr.ok("switch", "list", "-o", "yaml").out) == as_json
    heading, row = netmgr.ok("switch", "list").out.splitlines()
    assert heading.split()[:3] == ["name", "zone", "status"]
    assert row.split()[:3] == ["sw-a", "a", "unavailable"]
    shown = netmgr.ok("switch", "show", "sw-a").out
    assert ["uuid", as_json[0]["uuid"]] in [line.split() for line in shown.splitlines()]


def test_lists_of_objects_are_tables_of_their_own(netmgr: Cli) -> None:
    make_zone_and_switch(netmgr)
    netmgr.ok("network", "create", "blue", "--zone", "a", "--mtu", "1400")
    new = ("port", "create", "web1", "--network", "blue", "--mac", "02:ab:83:00:0b:01")
    netmgr.ok(*new, "--vif", "00000000-0000-4000-8000-000000000001")
    shown = [line.split() for line in netmgr.ok("network", "show", "blue").out.splitlines()]
    at = shown.index(["bindings:"])
    assert shown[at + 1][:3] == ["port", "vif_uuid", "mac"]
    assert shown[at + 2][:3] == ["web1", "00000000-0000-4000-8000-000000000001", "02:ab:83:00:0b:01"]


def test_names_and_uuids_are_taken_alike(netmgr: Cli) -> None:
    zone = netmgr.ok("zone", "create", "a", "-o", "json").json()
    assert netmgr.ok("zone", "show", zone["uuid"], "-o", "json").json() == zone
    missing = netmgr("zone", "show", "aa")
    assert (missing.code, missing.err) == (2, "netmgr: there is no zone 'aa'; did you mean a?\n")


def test_token_is_alone_on_standard_output(netmgr: Cli) -> None:
    netmgr.ok("zone", "create", "a")
    made = netmgr.ok("host", "token", "--name", "h1", "--zone", "a", "--ttl", "30m")
    uuid, secret, fingerprint = made.out.removesuffix("\n").split(".")
    assert (str(UUID(uuid)), len(secret) > 30) == (uuid, True)
    assert fingerprint == netmgr.api.authority.ca_sha256()
    with netmgr.api.store.read() as world:
        expires_at = datetime.fromisoformat(world.tokens[UUID(uuid)].expires_at)
    assert 1700 < (expires_at - datetime.now(UTC)).total_seconds() <= 1800
    netmgr.ok("host", "token")
    assert netmgr("host", "token", "--ttl", "soon").code == 2


def test_wait_names_late_hosts_and_exits_1(netmgr: Cli) -> None:
    make_zone_and_switch(netmgr)
    good, slow = netmgr.api.enrol("good", "a"), netmgr.api.enrol("slow", "a")
    netmgr.api.enrol("away", "a")
    netmgr.api.acknowledge(good.uuid)
    netmgr.api.acknowledge(slow.uuid)
    late = netmgr("network", "create", "blue", "--zone", "a", "--wait", "realized", "--timeout", "0.3")
    assert late.code == 1
    assert "host away: disconnected: " in late.err
    assert "host slow: waiting: the host has confirmed revision" in late.err
    for host in (good, slow):
        netmgr.api.acknowledge(host.uuid)
    netmgr.ok("host", "delete", "away")
    done = netmgr.ok("network", "set", "blue", "--mtu", "1400")
    assert done.err == ""
    for host in (good, slow):
        netmgr.api.acknowledge(host.uuid)
    states = netmgr.ok("network", "realization", "blue", "-o", "json").json()
    assert {host["host"]: host["state"] for host in states} == {"good": "realized", "slow": "realized"}
    with netmgr.api.store.read() as world:
        (network,) = world.networks
    netmgr.api.acknowledge(slow.uuid, rejections={(Kind.NETWORK, network): "no such PNIC"})
    found = netmgr.ok("network", "realization", "blue").out
    assert "slow  rejected  no such PNIC" in found


def test_apply_says_what_it_does(netmgr: Cli, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("zones: [{name: a}]\nswitches: [{name: s, zones: [a], vtep_pool: 10.0.0.0/24}]\n")
    planned = netmgr.ok("apply", "-f", str(file), "--dry-run").out
    assert planned.startswith("would create zone a: kind=overlay\nwould create switch s: ")
    assert "zones=['a']" in planned
    assert netmgr.ok("apply", "-f", str(file), "--wait", "realized").out.endswith("done at revision 1\n")
    assert netmgr.ok("apply", "-f", str(file)).out == "nothing to do at revision 1\n"
    file.write_text("switches: []\n")
    assert netmgr.ok("apply", "-f", str(file)).out == "nothing to do at revision 1\n"
    assert netmgr.ok("apply", "-f", str(file), "--prune").out == "delete switch s\ndone at revision 2\n"
    file.write_text("zonez: []\n")
    assert netmgr("apply", "-f", str(file)).err == "netmgr: file.zonez: unknown field; did you mean zones?\n"
    file.write_bytes(b"# " + b"x" * 2 * 1024 * 1024)
    big = netmgr("apply", "-f", str(file))
    assert (big.code, "split it" in big.err) == (2, True)
    assert netmgr("apply", "-f", str(tmp_path / "none.yaml")).code == 2


def test_issued_identity_of_a_viewer_reads_only(netmgr: Cli, tmp_path: Path) -> None:
    out = tmp_path / "viewer"
    netmgr.ok("cert", "issue", "--role", "viewer", "--name", "vmctl", "--out", str(out))
    assert (out / "key.pem").stat().st_mode & 0o777 == 0o600
    assert peer_of((out / "cert.pem").read_text()).role is Role.VIEWER
    assert netmgr("zone", "list", identity=out).code == 0
    refused = netmgr("zone", "create", "a", identity=out)
    assert (refused.code, "may read only" in refused.err) == (2, True)
    assert (
        "holds an identity already"
        in netmgr(*["cert", "issue", "--role", "viewer", "--name", "x", "--out"], str(out)).err
    )


def test_failures_to_connect_are_sentences(netmgr: Cli, api: Api, tmp_path: Path) -> None:
    def error(**where: Any) -> str:
        result = netmgr("zone", "list", **where)
        assert (result.code, result.out) == (2, "")
        assert result.err.count("\n") == 1
        return result.err

    assert "is it running?" in error(manager="127.0.0.1:1")
    assert "can't be reached" in error(manager="no-such-host.invalid")
    assert "missing or not readable" in error(identity=tmp_path / "none")
    stranger = CertificateAuthority.open(tmp_path / "other", now=datetime.now(UTC))
    claimed = api.identity("operator", Role.OPERATOR, stranger)
    assert "refused the certificate" in error(identity=claimed)
    (claimed / "ca.pem").write_text(stranger.ca_pem())
    assert "is not the one of identity" in error(identity=claimed)
    (claimed / "cert.pem").write_text("nonsense")
    assert "can't be used" in error(identity=claimed)


def test_status_shows_troubles(netmgr: Cli) -> None:
    make_zone_and_switch(netmgr)
    shown = netmgr.ok("status").out
    assert "revision         2\n" in shown
    assert "no host is in zone a" in shown
    assert [t["name"] for t in netmgr.ok("status", "-o", "json").json()["troubles"]] == ["sw-a"]


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


@pytest.mark.parametrize("path", list(commands(cli)), ids=" ".join)
def test_help_is_there_for_every_command_and_option(
    path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["netmgr", *path, "--help"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert len(text.split("\n\n")[1].strip()) > 10, text


def test_set_without_anything_to_set_is_refused(netmgr: Cli) -> None:
    netmgr.ok("zone", "create", "a")
    assert netmgr("zone", "set", "a").code == 2


def test_starts_without_heavy_imports() -> None:
    program = (
        "import sys; from netmgr.cli import main\n"
        "heavy = {'httpx', 'rich', 'yaml', 'sqlalchemy', 'fastapi', 'pydantic', 'cryptography', 'grpc'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout == "[]\n"
    assert time.monotonic() - started < 2  # 0.1 s on a quiet machine

"""The lab keeps its promises: hosts that are alone with their files, and nothing left when it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.labkit import Lab, LabError, processes, state
from scripts.labkit.node import REPOSITORY
from scripts.labkit.switch import choose_datapath

pytestmark = pytest.mark.lab

BARE = {"with_manager": False, "with_agents": False, "with_libvirt": False}
_OWNER = """
import sys, time
from scripts.labkit import Lab
with Lab(sys.argv[1], hosts=2, with_manager=False, with_agents=False, with_libvirt=False) as lab:
    lab.popen("h1", ["sleep", "1000"])
    print("up", flush=True)
    time.sleep(1000)
"""


def _surroundings() -> dict[str, object]:
    """What a lab must leave as it was: the machine's namespaces, mounts, links, listening sockets."""

    def output(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    return {
        "ip netns": output("ip", "netns"),
        "mounts": Path("/proc/mounts").read_text(),
        "links": sorted(link["ifname"] for link in json.loads(output("ip", "-json", "link"))),
        "routes": output("ip", "route", "show", "table", "all"),
        "/run": sorted(os.listdir("/run")),
        "/etc/openvswitch": sorted(os.listdir("/etc/openvswitch")),
        "/etc/libvirt": sorted(os.listdir("/etc/libvirt")),
        "/var/lib": sorted(os.listdir("/var/lib")),
    }


def _nothing_left(name: str) -> bool:
    return not processes.marked(name) and name not in state.names()


def _eventually(claim: Callable[[], bool], *, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not claim():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _bridge(lab: Lab, host: str, address: str = "") -> None:
    """A bridge br0 with the host's PNIC in it and an address on it."""
    bridge = ["--", "set", "Bridge", "br0", f"datapath_type={lab.datapath}", "--", "add-port", "br0", "pnic0"]
    lab.exec(host, ["ovs-vsctl", "--timeout=10", "add-br", "br0", *bridge])
    lab.exec(host, ["ip", "link", "set", "br0", "up"])
    if address:
        lab.exec(host, ["ip", "address", "add", address, "dev", "br0"])


def test_up_and_down_leave_the_machine_as_it_was() -> None:
    before = _surroundings()
    with Lab(hosts=3, **BARE) as lab:
        name = lab.name
        for host in lab.hosts:
            _bridge(lab, host)
    assert _surroundings() == before
    assert _nothing_left(name)


def test_hosts_reach_each_other_over_both_networks(bare_lab: Lab) -> None:
    _bridge(bare_lab, "h1", "192.0.2.1/24")
    _bridge(bare_lab, "h2", "192.0.2.2/24")
    bare_lab.exec("h1", ["ping", "-c1", "-W2", "192.0.2.2"])
    bare_lab.exec("h1", ["ping", "-c1", "-W2", "h2"])
    assert bare_lab.address("h2") == "10.255.0.12"


def test_a_pnic_has_the_mtu_asked_for_and_no_address(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(hosts=1, underlay_mtu=2000, **BARE)
    (link,) = json.loads(lab.exec("h1", ["ip", "-json", "address", "show", "pnic0"]).stdout)
    assert (link["mtu"], link["operstate"], link["addr_info"]) == (2000, "UP", [])


def test_a_host_has_its_own_files_name_and_ids(bare_lab: Lab) -> None:
    def facts(host: str) -> list[str]:
        command = "hostname; cat /etc/hostname /etc/machine-id /proc/sys/kernel/random/boot_id"
        return bare_lab.exec(host, ["sh", "-c", command]).stdout.split()

    first, second = facts("h1"), facts("h2")
    assert first[:2] == ["h1", "h1"]
    assert not set(first) & set(second)
    bare_lab.exec("h1", ["sh", "-c", "echo mine > /var/lib/note; echo mine > /run/note"])
    assert bare_lab.path("h1", "/var/lib/note").read_text() == "mine\n"
    assert not bare_lab.path("h2", "/var/lib/note").exists()
    assert not Path("/var/lib/note").exists()
    assert not Path("/run/note").exists()


def test_an_endpoint_talks_through_the_switch_and_goes_without_trace(bare_lab: Lab) -> None:
    for number, host in enumerate(bare_lab.hosts, start=1):
        _bridge(bare_lab, host)
        vif, mac, address = f"vif-{number}", f"02:00:00:00:00:0{number}", f"192.0.2.{number}/24"
        bare_lab.attach(host, f"ep{number}", bridge="br0", vif_uuid=vif, mac=mac, addresses=[address])
    ids = bare_lab.exec("h1", ["ovs-vsctl", "get", "Interface", "ep-ep1", "external_ids:iface-id"]).stdout
    assert ids.strip() == '"vif-1"' or ids.strip() == "vif-1"
    ping = bare_lab.start_ping("ep1", "192.0.2.2", interval_ms=10)
    time.sleep(1)
    result = bare_lab.stop_ping(ping)
    assert result["received"] > 50
    assert result["lost"] <= 1, "the first may wait for ARP"
    assert 10 <= result["gap_ms"] < 500
    # TCP is what fails when checksums are left to an offload that is not there.
    server = bare_lab.popen("ep2", ["busybox", "nc", "-l", "-p", "9000", "-e", "/bin/cat"])
    time.sleep(0.2)
    echo = bare_lab.exec("ep1", ["busybox", "nc", "192.0.2.2", "9000"], input="hello", check=False, timeout_s=10)
    server.kill()
    server.wait()
    assert echo.stdout == "hello"
    bare_lab.detach("ep1")
    assert "ep-ep1" not in bare_lab.exec("h1", ["sh", "-c", "ovs-vsctl show; ip link"]).stdout
    with pytest.raises(LabError, match="has no endpoint 'ep1'; it has ep2"):
        bare_lab.detach("ep1")


def test_two_labs_at_once_do_not_meet(make_lab: Callable[..., Lab]) -> None:
    first, second = make_lab(hosts=1, **BARE), make_lab(hosts=1, **BARE)
    for lab, address in ((first, "192.0.2.1/24"), (second, "192.0.2.2/24")):
        _bridge(lab, "h1", address)
    answer = first.exec("h1", ["ping", "-c1", "-W1", "192.0.2.2"], check=False)
    assert answer.returncode == 1
    first.down()
    second.exec("h1", ["ovs-vsctl", "--timeout=5", "br-exists", "br0"])


def test_a_name_is_taken_once(bare_lab: Lab) -> None:
    with pytest.raises(LabError, match="exists"):
        Lab(bare_lab.name, hosts=1, **BARE).up()
    bare_lab.exec("h1", ["true"])


def test_a_command_that_fails_says_where_and_what(bare_lab: Lab) -> None:
    with pytest.raises(LabError, match=r"h1: `ovs-vsctl get-no-thing` ended with 1: .*unknown command"):
        bare_lab.exec("h1", ["ovs-vsctl", "get-no-thing"])
    with pytest.raises(LabError, match=r"has no 'h9'; it has .*h1, h2"):
        bare_lab.exec("h9", ["true"])


def test_signals_reach_the_command_and_not_its_wrapper(bare_lab: Lab) -> None:
    with bare_lab.popen(
        "h1", ["sh", "-c", "trap 'echo bye; exit 5' TERM; echo on; sleep 100 >/dev/null & wait"], stdout=-1
    ) as one:
        assert one.stdout is not None
        assert one.stdout.readline() == b"on\n"
        one.terminate()
        assert one.stdout.read() == b"bye\n"
        assert one.wait() == 5


def test_a_daemon_can_crash_and_come_back(bare_lab: Lab) -> None:
    _bridge(bare_lab, "h1")
    bare_lab.stop_daemon("h1", "ovs-vswitchd", number=signal.SIGKILL)
    with pytest.raises(LabError, match="does not run on h1"):
        bare_lab.stop_daemon("h1", "ovs-vswitchd")
    bare_lab.start_daemon("h1", "ovs-vswitchd")
    bare_lab.exec("h1", ["ovs-ofctl", "dump-flows", "br0"])
    with pytest.raises(LabError, match="runs on h1 already"):
        bare_lab.start_daemon("h1", "ovs-vswitchd")


def test_a_crashed_host_boots_with_its_disk_and_a_new_boot_id(bare_lab: Lab) -> None:
    def boot_id() -> str:
        return bare_lab.exec("h2", ["cat", "/proc/sys/kernel/random/boot_id"]).stdout

    _bridge(bare_lab, "h2")
    first = boot_id()
    bare_lab.crash("h2")
    with pytest.raises(LabError, match="not running"):
        bare_lab.exec("h2", ["true"])
    bare_lab.boot("h2")
    assert boot_id() != first
    bare_lab.exec("h2", ["ovs-vsctl", "--timeout=5", "br-exists", "br0"])
    bare_lab.exec("h2", ["ping", "-c1", "-W2", "h1"])


def test_a_daemon_that_does_not_start_is_quoted_and_nothing_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    from scripts.labkit import switch

    monkeypatch.setattr(switch, "_SCHEMA", "/nonexistent.ovsschema")
    monkeypatch.setattr(
        switch, "_START_DATABASE", switch._START_DATABASE.replace("vswitch.ovsschema", "none.ovsschema")
    )
    before = _surroundings()
    lab = Lab(hosts=2, **BARE)
    with pytest.raises(LabError, match=r"none\.ovsschema"):
        lab.up()
    assert _nothing_left(lab.name)
    assert _surroundings() == before


def test_down_cleans_after_daemons_and_a_host_were_killed(bare_lab: Lab) -> None:
    for process, mark in processes.marked(bare_lab.name).items():
        if mark.endswith("/h1"):
            processes.send(process, signal.SIGKILL)
    bare_lab.down()
    assert _nothing_left(bare_lab.name)


def test_down_needs_no_memory_of_the_lab(bare_lab: Lab) -> None:
    (bare_lab.directory / "lab.json").write_text("{ torn")
    # Somebody entered a host's network by hand, without the lab's mark and outside of the host's pid namespace.
    init = bare_lab.node("h1").init
    assert init is not None
    environment = {k: v for k, v in os.environ.items() if k != processes.MARK}
    visitor = subprocess.Popen(["nsenter", f"--target={init.pid}", "--net", "sleep", "1000"], env=environment)
    command = [str(REPOSITORY / "scripts/lab"), "down", "--name", bare_lab.name]
    assert _eventually(
        lambda: os.readlink(f"/proc/{visitor.pid}/ns/net") != os.readlink("/proc/self/ns/net"), within_s=5
    )
    subprocess.run(command, check=True, capture_output=True)
    assert visitor.wait(5) == -signal.SIGTERM
    assert _nothing_left(bare_lab.name)


def test_a_lab_ends_with_its_owner_even_by_sigkill(tmp_path: Path) -> None:
    before, name = _surroundings(), f"t-owner-{os.getpid() % 10000}"
    script = tmp_path / "owner.py"
    script.write_text(textwrap.dedent(_OWNER))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen([sys.executable, str(script), name], stdout=subprocess.PIPE, env=environment) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"up\n"
        assert len(processes.marked(name)) > 6
        owner.kill()
    assert _eventually(lambda: _nothing_left(name), within_s=10)
    assert _surroundings() == before


@pytest.mark.parametrize("after_s", [0.05, 0.12, 0.2, 0.3])
def test_an_interrupted_up_leaves_nothing(after_s: float) -> None:
    before, name = _surroundings(), f"t-int-{int(after_s * 1000)}-{os.getpid() % 10000}"
    command = [str(REPOSITORY / "scripts/lab"), "up", "--bare", "--hosts", "3", "--name", name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as up:
        base = state.base_directory()
        _eventually(lambda: (base / name).exists() or up.poll() is not None, within_s=10)
        time.sleep(after_s)
        up.send_signal(signal.SIGINT)
        up.communicate(timeout=30)
    if up.returncode == 0:  # it was done before the signal came
        subprocess.run([str(REPOSITORY / "scripts/lab"), "down", "--name", name], check=True, capture_output=True)
    assert _eventually(lambda: _nothing_left(name), within_s=5)
    assert _surroundings() == before


def test_the_command_line_makes_uses_and_ends_a_lab() -> None:
    name = f"t-cli-{os.getpid() % 10000}"

    def lab(*arguments: str, code: int = 0) -> str:
        command = [str(REPOSITORY / "scripts/lab"), *arguments]
        result = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "OPLAB_NAME": name}, check=False
        )
        assert result.returncode == code, result.stderr
        return result.stdout if code == 0 else result.stdout + result.stderr

    lab("up", "--bare", "--hosts", "2")
    try:
        assert name in lab("list")
        rows = {row["node"]: row for row in json.loads(lab("status", "-o", "json"))}
        assert rows["h1"]["daemons"] == "ovsdb-server, ovs-vswitchd"
        assert lab("exec", "h1", "--", "hostname") == "h1\n"
        assert lab("exec", "h1", "--", "sh", "-c", "pwd; exit 7", code=7).startswith(os.getcwd())
        assert "h1: `nosuch` can't be run" in lab("exec", "h1", "--", "nosuch", code=1)
        assert "ovs-vswitchd: " in lab("logs", "h2")
        datapath = f"datapath_type={choose_datapath(None)}"
        lab("exec", "h2", "--", "ovs-vsctl", "add-br", "br0", "--", "set", "bridge", "br0", datapath)
        made = json.loads(lab("probe", "attach", "h2", "ep", "--bridge", "br0", "--ip", "192.0.2.7/24"))
        assert made["mac"] in lab("exec", "ep", "--", "ip", "link")
        lab("probe", "detach", "ep")
        assert "exists" in lab("up", "--bare", code=1)
    finally:
        lab("down")
    assert _nothing_left(name)
    assert "no lab" in lab("status", code=1)

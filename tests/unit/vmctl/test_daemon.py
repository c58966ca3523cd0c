"""`vmctl serve` as a process, and the command line against it; hosts are libvirt's own test driver."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest
import yaml

VMCTL = [sys.executable, "-c", "from vmctl.cli import main; main()"]
BLUE = UUID(int=0xB1)
NODE = f"""<node>
  <network><name>blue</name><uuid>{BLUE}</uuid>
    <metadata><o:network xmlns:o='urn:opaque-networks:1' owner='hostagent'/></metadata><bridge name='br0'/>
    <ip address='192.168.9.1' netmask='255.255.255.0'/></network>
</node>"""
XML = "<domain type='test'><name>vm1</name><memory>8192</memory><vcpu>1</vcpu><os><type>hvm</type></os></domain>"
H1, H2 = UUID(int=0x11), UUID(int=0x12)


class Daemon:
    def __init__(self, directory: Path, identity: Path, *, store: str = "") -> None:
        self.directory = directory
        self._store = store
        self.socket = directory / "vmctl.sock"
        self._identity = identity
        self.start()

    def start(self) -> None:
        notify = self.directory / "notify.sock"
        notify.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(str(notify))
            listener.settimeout(60)  # a machine that others load starts Python slowly
            self.process = subprocess.Popen(
                [*VMCTL, "--socket", self.socket, "serve", "--state-dir", self.directory / "state"],
                env={**os.environ, "NOTIFY_SOCKET": str(notify), "VMCTL_IDENTITY": str(self._identity),
                     "VMCTL_STORE": self._store, "WATCHDOG_USEC": "300000"},
            )  # fmt: skip
            said = listener.recv(100) + listener.recv(100)
        assert b"READY=1" in said
        assert b"WATCHDOG=1" in said

    def run(self, *command: str, code: int = 0, text: str | None = None) -> str:
        done = subprocess.run(
            [*VMCTL, "--socket", str(self.socket), *command], capture_output=True, text=True, input=text, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stdout + done.stderr

    def json(self, *command: str):  # type: ignore[no-untyped-def]
        return json.loads(self.run(*command, "-o", "json"))

    def wait(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, "did not come about in time"
            time.sleep(0.05)


def run_daemon(directory: Path, authority) -> Iterator[Daemon]:  # type: ignore[no-untyped-def]
    for name in ("h1", "h2"):
        (directory / f"{name}.xml").write_text(NODE)
    running = Daemon(directory, authority.issue("vmctl", "viewer"))
    yield running
    running.process.kill()
    running.process.wait()


@pytest.fixture
def daemon(tmp_path: Path, authority) -> Iterator[Daemon]:  # type: ignore[no-untyped-def]
    yield from run_daemon(tmp_path, authority)


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory, authority) -> Iterator[Daemon]:  # type: ignore[no-untyped-def]
    """A daemon shared by tests that leave it without hosts and VMs."""
    yield from run_daemon(tmp_path_factory.mktemp("vmctl"), authority)


@pytest.fixture
def hosts(daemon: Daemon, view_server, host_message):  # type: ignore[no-untyped-def]
    """h1 in zone a with network blue, h2 in zone b without."""
    h1, h2 = view_server(H1), view_server(H2)
    h1.tell(host_message(H1, "h1"))
    h2.tell(host_message(H2, "h2", zone="b", network=""))
    for name, server in (("h1", h1), ("h2", h2)):
        add(daemon, name, "--agent", server.address)
    daemon.wait(lambda: all(h["libvirt"] == h["view"] == "" for h in daemon.json("host", "list")))
    return h1, h2


def add(daemon: Daemon, name: str, *options: str, code: int = 0) -> str:
    uri = f"test://{daemon.directory / name}.xml"
    return daemon.run("host", "add", name, "--libvirt", uri, "--migration-address", "127.0.0.1", *options, code=code)


def define(daemon: Daemon, host: str, *options: str, code: int = 0) -> str:
    return daemon.run("vm", "define", "vm1", "--host", host, "--xml", "-", *options, code=code, text=XML)


def test_socket_is_for_its_owner_alone_and_the_api_tells_what_it_offers(idle: Daemon) -> None:
    assert stat.S_IMODE(idle.socket.stat().st_mode) == 0o600
    command = ["curl", "-s", "--unix-socket", str(idle.socket), "http://vmctl/api/v1/openapi.json"]
    document = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert "/api/v1/vms/{vm}/migrate" in document["paths"]
    assert all(path.startswith("/api/v1/") for path in document["paths"])


def test_host_uuid_is_learned_from_the_agent_and_the_network_list_names_its_carriers(daemon: Daemon, hosts) -> None:  # type: ignore[no-untyped-def]
    assert [h["host"]["uuid"] for h in daemon.json("host", "list")] == [str(H1), str(H2)]
    (network,) = daemon.json("network", "list")
    assert (network["name"], network["hosts"], network["zones"], network["opaque"]) == ("blue", ["h1"], ["a"], True)
    assert yaml.safe_load(daemon.run("network", "list", "-o", "yaml")) == [network]
    assert "blue" in daemon.run("network", "list")


def test_vm_lives_its_life_and_survives_a_killed_daemon(daemon: Daemon, hosts) -> None:  # type: ignore[no-untyped-def]
    define(daemon, "h1", "--network", "blue,ip=10.0.0.1,mac=02:00:00:00:00:01")
    shown = daemon.json("vm", "show", "vm1")
    (vif,) = shown["vifs"]
    assert (vif["mac"], vif["network_uuid"], vif["opaque"]) == ("02:00:00:00:00:01", str(BLUE), True)
    assert vif["uuid"]
    assert (shown["vm"]["state"], shown["wanted"], shown["ips"]) == ("shut off", "shut off", ["10.0.0.1"])
    assert "02:00:00:00:00:01" in daemon.run("vm", "list", "-o", "wide")
    daemon.run("vm", "start", "vm1")
    assert daemon.json("vm", "list")["vms"][0]["state"] == "running"
    assert "stop it first" in daemon.run("vm", "undefine", "vm1", code=1)
    assert "home of vm1" in daemon.run("host", "remove", "h1", code=1)

    daemon.process.send_signal(signal.SIGKILL)
    daemon.process.wait()
    daemon.start()
    # the test driver forgets its domains with its client: what is left is what was asked for
    daemon.wait(lambda: daemon.json("vm", "list")["vms"][0]["state"] == "undefined")
    assert daemon.json("vm", "list")["vms"][0]["uuid"] == shown["vm"]["uuid"]
    assert daemon.json("vm", "start", "vm1")["vm"]["state"] == "running"
    assert daemon.json("vm", "show", "vm1")["vifs"][0]["uuid"] == vif["uuid"]
    daemon.run("vm", "stop", "vm1", "--force")
    daemon.run("vm", "undefine", "vm1")
    assert daemon.json("vm", "list")["vms"] == []


def test_host_without_the_network_is_refused_with_one_sentence_everywhere(daemon: Daemon, hosts) -> None:  # type: ignore[no-untyped-def]
    sentence = (
        f"network blue ({BLUE}) of zone a is not on h2, whose zones are b; add h2 to zone a "
        "(netmgr host set h2 --zone b --zone a)"
    )
    assert f"{sentence} or choose one of h1" in define(daemon, "h2", "--network", "blue", code=2)
    assert daemon.json("vm", "list")["vms"] == []
    define(daemon, "h1", "--network", "blue")
    assert f"{sentence} or choose one of h1" in daemon.run("vm", "start", "vm1", "--host", "h2", code=2)
    assert daemon.run("why-not", "vm1", "h1") == "vm1 may start on h1\n"
    daemon.run("vm", "start", "vm1")
    assert daemon.run("why-not", "vm1", "h2", code=1).splitlines()[0] == sentence
    assert sentence in daemon.run("migrate", "vm1", "h2", code=2)
    (row,) = daemon.json("migrate", "--list")
    assert row["migration"]["state"] == "failed"
    assert sentence in row["migration"]["sentence"]
    assert daemon.json("vm", "show", "vm1")["vm"]["state"] == "running"
    assert sentence in daemon.run("migrate", "vm1", "h2", "--dry-run", code=2)
    assert len(daemon.json("migrate", "--list")) == 1
    (task,) = daemon.json("task", "list")
    assert (task["kind"], task["subject"], task["state"]) == ("migrate", "vm1", "failed")
    assert [e["what"] for e in daemon.json("task", "show", str(task["id"]))["steps"]] == ["planned", "failed"]
    assert sentence in daemon.run("task", "watch", str(task["id"]), code=1)
    assert daemon.json("vm", "history", "vm1")[0]["state"] == "failed"
    events = [json.loads(line) for line in daemon.run("events", "-o", "json").splitlines()]
    assert [e["id"] for e in events] == sorted(e["id"] for e in events)
    assert {"planned", "failed"} <= {e["what"] for e in events if e["subject"] == "vm1"}
    assert daemon.run("events", "--after", str(events[-1]["id"])) == ""


def test_destination_whose_libvirt_only_it_can_reach_is_refused_before_anything_moves(
    daemon: Daemon,
    hosts,
    host_message,  # type: ignore[no-untyped-def]
) -> None:
    hosts[1].tell(host_message(H2, "h2"))
    define(daemon, "h1", "--network", "blue")
    daemon.run("vm", "start", "vm1")
    assert "--peer-libvirt" in daemon.run("migrate", "vm1", "h2", code=2)
    assert daemon.json("vm", "show", "vm1")["vm"]["host"] == "h1"


def test_home_of_a_new_vm_has_its_traditional_switch(daemon: Daemon, hosts, host_message) -> None:  # type: ignore[no-untyped-def]
    hosts[1].tell(host_message(H2, "h2"))
    daemon.run("switch", "create", "office", "--hosts", "h2", "--bridge", "br-lan")
    daemon.run("portgroup", "create", "office/lan")
    define = ("vm", "define", "vm1", "--xml", "-", "--network", "blue", "--portgroup")
    for wrong, said in (("office/out", "has no port group out; it has lan"), ("den/in", "vmctl has no switch den")):
        assert said in daemon.run(*define, wrong, code=1, text=XML)
    shown = json.loads(daemon.run(*define, "office/lan", "-o", "json", text=XML))
    assert shown["vm"]["host"] == "h2"
    (switch,) = daemon.json("switch", "list")
    assert [vif["network_uuid"] for vif in shown["vifs"]] == [str(BLUE), switch["switch"]["uuid"]]
    daemon.run("vm", "undefine", "vm1")
    daemon.run("host", "maintenance", "h2", "--yes")
    refused = daemon.run(*define, "office/lan", code=2, text=XML)
    assert "h1 has no libvirt network office, which vm1 has a NIC on; add h1 to the switch" in refused


def test_agent_that_is_away_is_no_reason_to_guess(daemon: Daemon, hosts) -> None:  # type: ignore[no-untyped-def]
    define(daemon, "h1", "--network", "blue")
    daemon.run("vm", "start", "vm1")
    hosts[1].stop()
    assert "h2 does not say which networks it carries" in daemon.run("why-not", "vm1", "h2", code=1)


WRONG = {
    "there is no VM ghost; see `vmctl vm list`": ("vm", "show", "ghost"),
    "there is no VM ghost": ("vm", "start", "ghost"),
    "vmctl knows no host ghost; it knows none yet": ("host", "show", "ghost"),
    "ghost is not on the move": ("migrate", "--cancel", "ghost"),
    "there is no task 5": ("task", "show", "5"),
    "knows no host ghost": ("vm", "define", "vm1", "--host", "ghost"),
    "name: ": ("vm", "define", "../vm", "--host", "h1"),
    "memory_mib: ": ("vm", "define", "vm1", "--host", "h1", "--memory", "0"),
    "unicast MAC": ("vm", "define", "vm1", "--host", "h1", "--network", "blue,mac=01:00:00:00:00:00"),
    "names no address": ("host", "add", "h1", "--libvirt", "qemu:///system"),
}


def test_wrong_call_is_one_sentence_and_changes_nothing(idle: Daemon) -> None:
    for said, command in WRONG.items():
        answer = idle.run(*command, code=1)
        assert said in answer
        assert len(answer.splitlines()) == 1
    assert idle.json("vm", "list")["vms"] == []
    assert idle.json("host", "list") == []


def test_unknown_field_is_refused(idle: Daemon) -> None:
    body = json.dumps({"name": "h1", "libvirt_uri": "test:///default", "migration_address": "::1", "colour": "red"})
    command = ["curl", "-s", "--unix-socket", str(idle.socket), "-H", "content-type: application/json", "-d", body,
               "http://vmctl/api/v1/hosts"]  # fmt: skip
    answer = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert "colour" in answer["error"]
    assert idle.json("host", "list") == []


def test_second_host_of_one_uuid_is_refused(idle: Daemon) -> None:
    add(idle, "h1", "--host-uuid", str(H1))
    assert "host h1 with UUID" in add(idle, "h2", "--host-uuid", str(H1), code=1)
    idle.run("host", "remove", "h1")
    assert idle.json("host", "list") == []


def test_second_daemon_on_the_same_state_or_socket_is_refused(idle: Daemon, tmp_path: Path) -> None:
    same_state = [
        *VMCTL,
        "--socket",
        str(tmp_path / "other.sock"),
        "serve",
        "--state-dir",
        str(idle.directory / "state"),
    ]
    done = subprocess.run(same_state, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 1
    assert "another vmctl serves from" in done.stderr
    assert "another vmctl serves at" in idle.run("serve", "--state-dir", str(tmp_path / "other"), code=1)
    assert idle.json("status")["hosts"] == 0


def test_daemon_ends_in_order_and_says_where_it_was_looked_for(daemon: Daemon) -> None:
    daemon.process.terminate()
    assert daemon.process.wait(timeout=10) == 0
    assert not daemon.socket.exists()
    assert "no vmctl serves at" in daemon.run("status", code=1)

"""`vmctl serve` with its store on PostgreSQL: killed, locked out, and with the database gone for a while."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.unit.vmctl.test_daemon import H1, H2, NODE, VMCTL, XML, Daemon, add


@pytest.fixture
def url(postgresql: Callable[[], str]) -> str:
    return postgresql()


@pytest.fixture
def daemon(tmp_path: Path, authority: Any, url: str, view_server: Any, host_message: Any) -> Iterator[Daemon]:
    """A daemon that knows h1 and h2, both with network blue."""
    for name in ("h1", "h2"):
        (tmp_path / f"{name}.xml").write_text(NODE)
    running = Daemon(tmp_path, authority.issue("vmctl", "viewer"), store=url)
    for name, uuid in (("h1", H1), ("h2", H2)):
        server = view_server(uuid)
        server.tell(host_message(uuid, name))
        add(running, name, "--agent", server.address)
    running.wait(lambda: all(h["libvirt"] == h["view"] == "" for h in running.json("host", "list")))
    yield running
    running.process.kill()
    running.process.wait()


def kill(daemon: Daemon) -> None:
    daemon.process.send_signal(signal.SIGKILL)
    daemon.process.wait()


def kept(daemon: Daemon) -> list[Any]:
    """What no host can tell vmctl again."""
    hosts = [(host["host"], host["maintenance"]) for host in daemon.json("host", "list")]
    tasks = [(task["id"], task["kind"], task["state"]) for task in daemon.json("task", "list")]
    return [hosts, tasks, daemon.json("rule", "list"), daemon.json("portgroup", "list"), daemon.json("settings")]


def end_sessions(url: str) -> None:
    """What a restart of PostgreSQL does to vmctl."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def test_all_that_was_said_is_there_after_a_kill(daemon: Daemon) -> None:
    daemon.run("vm", "define", "vm1", "--host", "h1", "--xml", "-", "--network", "blue", text=XML)
    daemon.run("migrate", "vm1", "h2")
    daemon.run("rule", "create", "ha", "vm1", "--kind", "anti-affinity")
    daemon.run("switch", "create", "office", "--hosts", "h1", "--bridge", "br-lan")
    daemon.run("portgroup", "create", "office/lan", "--vlan", "20")
    daemon.run("host", "maintenance", "h1", "--yes")
    before = kept(daemon)
    last = json.loads(daemon.run("events", "-o", "json").splitlines()[-1])
    # what is left to do is to clean h1, which libvirt's test driver refuses: the next daemon takes that up
    assert daemon.json("vm", "history", "vm1")[0]["state"] == "committed"
    kill(daemon)
    daemon.start()
    daemon.wait(lambda: all(h["libvirt"] == h["view"] == "" for h in daemon.json("host", "list")))
    assert kept(daemon) == before
    daemon.wait(lambda: daemon.json("vm", "history", "vm1")[0]["state"] == "done")
    assert daemon.json("vm", "show", "vm1")["home"] == "h2"
    daemon.run("vm", "start", "vm1")
    events = [json.loads(line) for line in daemon.run("events", "-o", "json", "--after", str(last["id"])).splitlines()]
    assert ("vm1", "running") in [(event["subject"], event["what"]) for event in events]


def test_second_vmctl_on_the_database_is_refused_until_the_first_is_gone(
    daemon: Daemon, tmp_path: Path, url: str
) -> None:
    other = [*VMCTL, "--socket", str(tmp_path / "other.sock"), "serve", "--state-dir", str(tmp_path / "other")]
    done = subprocess.run([*other, "--store", url], capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: another vmctl serves from postgresql+psycopg://")
    assert len(done.stderr.splitlines()) == 1
    kill(daemon)
    daemon.start()
    assert daemon.json("status")["hosts"] == 2


def test_vmctl_outlives_a_restart_of_the_database_and_keeps_others_out(daemon: Daemon, url: str) -> None:
    end_sessions(url)
    daemon.run("rule", "create", "ha", "--kind", "affinity")
    assert [rule["name"] for rule in daemon.json("rule", "list")] == ["ha"]
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        key = int.from_bytes(b"vmctl", "big")
        assert connection.execute("SELECT pg_try_advisory_lock(%s)", (key,)).fetchone() == (False,)

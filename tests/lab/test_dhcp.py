"""Addresses leased by DHCP, on real hosts: busybox's server on one, its client on another, real agents between them."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.labkit import Lab
from tests.support.waiting import within

pytestmark = [pytest.mark.lab, pytest.mark.datapath]

SERVER_VIF = "5e5e5e5e-0000-4000-8000-000000000001"
APPLY = """
switches: [{name: sw-a, zones: [a], pnic_globs: ["pnic*"], mtu: 1650, vtep_pool: 10.200.0.0/24}]
networks: [{name: blue, type: vxlan, zone: a, mtu: 1450}]
"""
SCRIPT = '#!/bin/sh\n[ "$1" = bound ] && ip address add "$ip/24" dev "$interface"\nexit 0\n'


def inside(lab: Lab, host: str, namespace: str, *command: str) -> Any:
    return lab.exec(host, ["ip", "netns", "exec", namespace, *command], check=False)


def learned(lab: Lab, port: str) -> list[tuple[str, str]]:
    rows = json.loads(lab.exec("mgr", ["netmgr", "mac", "list", "--network", "blue", "-o", "json"]).stdout)
    found = next((row["addresses"] for row in rows if row["port"] == port), [])
    return [(one["address"], one["source"]) for one in found if "." in one["address"] and not one["refused"]]


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the client runs when it has a lease."""
    path = tmp_path_factory.mktemp("client") / "script"
    path.write_text(SCRIPT)
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two hosts: a DHCP server in a container on h2, two containers without any address on h1."""
    files = tmp_path_factory.mktemp("dhcp")
    leases = files / "leases"
    leases.touch()
    config = files / "udhcpd.conf"
    config.write_text(
        f"start 10.10.0.50\nend 10.10.0.59\ninterface eth0\nlease_file {leases}\npidfile {files}/pid\n"
        "option subnet 255.255.255.0\noption lease 3600\n"
    )
    with Lab(hosts=2, with_libvirt=False, with_vmctl=False, zones={"h1": "a", "h2": "a"}) as made:
        made.exec("mgr", ["netmgr", "apply", "-f", "/dev/stdin", "--wait", "realized"], input=APPLY)
        create = ["netmgr", "port", "create", "srv", "--network", "blue", "--allow", "dhcp-server"]
        made.exec("mgr", create)
        made.exec("mgr", ["netmgr", "port", "attach", "srv", "--vif", SERVER_VIF])
        for host, name in (("h2", "srv"), ("h1", "c1"), ("h1", "c2")):
            made.exec(host, ["ip", "netns", "add", name])
            target = ["srv"] if name == "srv" else ["--name", name]
            made.exec(host, ["hostagent", "port", "attach", *target, "--network", "blue", "--netns", name])
        inside(made, "h2", "srv", "ip", "address", "add", "10.10.0.1/24", "dev", "eth0")
        server = made.popen("h2", ["ip", "netns", "exec", "srv", "busybox", "udhcpd", "-f", str(config)])
        yield made
        server.kill()
        server.wait()


def client(lab: Lab, namespace: str, script: Path, *more: str) -> Any:
    """busybox's DHCP client in a container of h1, started."""
    words = ["busybox", "udhcpc", "-i", "eth0", "-f", "-t", "10", "-T", "1", "-s", str(script), *more]
    return lab.popen("h1", ["ip", "netns", "exec", namespace, *words])


def test_a_lease_is_known_from_the_servers_word_before_the_guest_has_used_it(lab: Lab, script: Path) -> None:
    assert client(lab, "c1", script, "-q").wait(timeout=20) == 0
    assert within(5, lambda: bool(learned(lab, "c1")))
    ((address, source),) = learned(lab, "c1")
    assert source == "dhcp"
    assert address in inside(lab, "h1", "c1", "ip", "-br", "address", "show", "eth0").stdout
    assert within(5, lambda: inside(lab, "h1", "c1", "ping", "-c1", "-W1", "10.10.0.1").returncode == 0)


def test_a_release_forgets_the_address_at_once(lab: Lab, script: Path) -> None:
    running = client(lab, "c2", script, "-R")
    assert within(10, lambda: [source for _, source in learned(lab, "c2")] == ["dhcp"])
    running.send_signal(signal.SIGUSR2)  # asks the client to release its lease
    assert within(5, lambda: learned(lab, "c2") == [])
    running.kill()
    running.wait()

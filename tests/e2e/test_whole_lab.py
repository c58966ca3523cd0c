"""A whole lab: hosts that joined a manager, daemons that can be ended and come back, a host that loses power."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from scripts.labkit import Lab, LabError
from scripts.labkit.state import MANAGER

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def whole() -> Any:
    """One host in two zones, with everything."""
    began = time.monotonic()
    with Lab(hosts=1, zones={"h1": "a,b"}) as lab:
        assert time.monotonic() - began < 60
        yield lab


def _host(lab: Lab) -> dict[str, Any]:
    (host,) = json.loads(lab.exec(MANAGER, ["netmgr", "host", "list", "-o", "json"]).stdout)
    return dict(host)


def _eventually(claim: Callable[[], bool], *, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_host_is_enrolled_into_its_zones_and_known_to_both_managers(whole: Lab) -> None:
    host = _host(whole)
    assert (host["name"], sorted(host["zones"])) == ("h1", ["a", "b"])
    _eventually(lambda: _host(whole)["connected"], within_s=10)
    (known,) = json.loads(whole.exec(MANAGER, ["vmctl", "host", "list", "-o", "json"]).stdout)
    assert known["host"]["name"] == "h1"
    assert not known["libvirt"], "vmctl reaches its libvirt"


def test_commands_need_no_options_inside(whole: Lab) -> None:
    assert "h1" in whole.exec("h1", ["hostagent", "show"]).stdout
    assert whole.exec("h1", ["virsh", "list", "--name"]).stdout.strip() == ""
    whole.exec("h1", ["ovs-vsctl", "--timeout=5", "show"])
    whole.exec(MANAGER, ["netmgr", "status"])


@pytest.mark.parametrize(("node", "daemon"), [("h1", "hostagent"), (MANAGER, "netmgr"), (MANAGER, "vmctl")])
def test_a_daemon_of_ours_can_be_killed_and_is_ready_again(whole: Lab, node: str, daemon: str) -> None:
    whole.stop_daemon(node, daemon, number=signal.SIGKILL)
    whole.start_daemon(node, daemon)
    _eventually(lambda: _host(whole)["connected"], within_s=20)


def test_a_daemon_that_ends_at_its_start_is_quoted(whole: Lab) -> None:
    whole.stop_daemon("h1", "hostagent")
    state_dir = whole.path("h1", "/var/lib/hostagent")
    state_dir.rename(state_dir.with_name("aside"))
    try:
        with pytest.raises(LabError, match=r"(?s)h1: hostagent ended while starting\. Its last words:.*join"):
            whole.start_daemon("h1", "hostagent")
    finally:
        if state_dir.exists():
            whole.exec("h1", ["rm", "-rf", "/var/lib/hostagent"])
        state_dir.with_name("aside").rename(state_dir)
    whole.start_daemon("h1", "hostagent")


def test_a_host_that_lost_power_comes_back_as_the_same_host(whole: Lab) -> None:
    before = _host(whole)["uuid"]
    whole.crash("h1")
    whole.boot("h1")
    _eventually(lambda: _host(whole)["connected"], within_s=20)
    assert _host(whole)["uuid"] == before

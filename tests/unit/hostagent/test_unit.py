"""The agent's systemd units. That its own capabilities suffice, every test in the lab shows: it grants no more."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hostagent.hooks import DEFAULT_HOOKS_DIR, DEFAULT_SOCKET

UNIT = Path(__file__).parents[3] / "scripts" / "systemd" / "hostagent.service"


def _settings(key: str, unit: Path = UNIT) -> list[str]:
    return [word for line in re.findall(f"^{key}=(.*)$", unit.read_text(), re.MULTILINE) for word in line.split()]


def test_what_the_agent_writes_is_writable_and_what_a_booting_host_lacks_does_not_keep_it_from_starting() -> None:
    paths = _settings("ReadWritePaths")
    assert f"-{DEFAULT_HOOKS_DIR}" in paths
    assert all(path.startswith("-/") for path in paths)  # /run/libvirt is libvirtd's, which comes later
    assert _settings("RuntimeDirectory") == [DEFAULT_SOCKET.parent.name]


def test_the_agent_is_up_before_libvirtd_starts_guests_whose_hooks_ask_it() -> None:
    assert {"libvirtd.service", "virtqemud.service"} <= set(_settings("Before"))
    assert _settings("Type") == ["notify"]


def test_containers_can_be_wired() -> None:
    needed = {"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_NET_ADMIN", "CAP_NET_RAW"}
    assert needed <= set(_settings("CapabilityBoundingSet"))
    assert _settings("RestrictNamespaces") == ["net"]


def test_what_a_timer_puts_down_for_node_exporter_is_its_to_read_and_the_agents_socket_is_all_that_it_asks() -> None:
    service, timer = UNIT.with_name("hostagent-metrics.service"), UNIT.with_name("hostagent-metrics.timer")
    path = _settings("Environment", service)[0].partition("HOSTAGENT_METRICS_TEXTFILE=")[2]
    assert path.endswith(".prom")  # node_exporter reads no others
    assert _settings("ReadWritePaths", service) == [f"-{Path(path).parent}"]
    assert _settings("RestrictAddressFamilies", service) == ["AF_UNIX"]
    assert timer.stem == service.stem  # so systemd knows what it is the timer of


@pytest.mark.parametrize("unit", ["hostagent.service", "hostagent-metrics.service", "hostagent-metrics.timer"])
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_understands_every_line(tmp_path: Path, unit: str) -> None:
    for one in UNIT.parent.glob("hostagent*"):  # a timer is looked at beside its service
        text = re.sub("^ExecStart=.*$", "ExecStart=/bin/true", one.read_text(), flags=re.MULTILINE)
        (tmp_path / one.name).write_text(text)
    command = ["systemd-analyze", "verify", tmp_path / unit]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert unit not in done.stderr, done.stderr

"""The systemd unit of the agent. That its capabilities suffice, every test in the lab shows: it grants no more."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hostagent.hooks import DEFAULT_HOOKS_DIR, DEFAULT_SOCKET

UNIT = Path(__file__).parents[3] / "scripts" / "systemd" / "hostagent.service"


def _settings(key: str) -> list[str]:
    return [word for line in re.findall(f"^{key}=(.*)$", UNIT.read_text(), re.MULTILINE) for word in line.split()]


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


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_understands_every_line(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(re.sub("^ExecStart=.*$", "ExecStart=/bin/true", UNIT.read_text(), flags=re.MULTILINE))
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False, timeout=30)
    assert UNIT.name not in done.stderr, done.stderr

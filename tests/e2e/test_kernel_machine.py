"""The machine of `make test-kernel`: it boots with Open vSwitch, runs what it is told to, and leaves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.kernelkit.run import run

pytestmark = pytest.mark.e2e

# On the kernel's datapath of a kernel that is not ours, in this checkout, with its programs, as root.
LOOK = """
set -e
grep -q ^vport_vxlan /proc/modules
test "$OPLAB_DATAPATH" = system
test -x scripts/test-kernel
mkdir -p /var/test-kernel-was-here
.venv/bin/python -c 'import ovs.json; print("it works")'
exit 7
"""


def test_the_machine_runs_a_command_on_our_files_and_only_its_results_come_out(tmp_path: Path) -> None:
    assert run(["sh", "-c", LOOK], out=tmp_path) == 7
    assert "it works" in (tmp_path / "console.log").read_text()
    assert not Path("/var/test-kernel-was-here").exists()

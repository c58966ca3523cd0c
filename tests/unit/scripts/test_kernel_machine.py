"""What the machine of `make test-kernel` is made of."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from scripts.kernelkit.machine import READY, Machine, job, qemu, virtiofsd
from scripts.labkit import LabError
from scripts.labkit.switch import choose_datapath

MACHINE = Machine(
    kernel=Path("/c/vmlinuz"),
    initrd=Path("/c/machine.img"),
    modules=Path("/c/lib/modules"),
    out=Path("/repo/build/out"),
    place=Path("/repo/build/out/2"),
    socket=Path("/tmp/x/files.sock"),
)


def test_the_machine_shares_its_memory_with_the_one_that_serves_its_files() -> None:
    words = qemu(MACHINE)
    assert "memory-backend-memfd,id=memory,size=4096M,share=on" in words
    assert words[words.index("-machine") + 1] == "q35,memory-backend=memory"
    assert f"socket,id=files,path={MACHINE.socket}" in words
    assert f"--socket-path={MACHINE.socket}" in virtiofsd("/usr/lib/qemu/virtiofsd", MACHINE)


def test_init_is_told_where_results_go_and_modules_are() -> None:
    words = qemu(MACHINE)
    told = words[words.index("-append") + 1].split()
    assert "OUT=/repo/build/out" in told
    assert "JOB=/repo/build/out/2/job" in told
    assert "MODULES=/c/lib/modules" in told


def test_the_job_keeps_the_exit_status_and_every_word_of_its_command(tmp_path: Path) -> None:
    command = ["sh", "-c", 'echo "$1 in $(pwd) on $WHERE"; exit 7', "sh", "it's two words"]
    text = job(command, directory=tmp_path, environment={"WHERE": "a 'kernel'"}, place=tmp_path)
    # what only a machine's first process may do is left out; the rest runs here as it stands
    host = ("ulimit", "hostname", "ip link", "modprobe", "sync", "exec busybox")
    lines = [line.replace("/run/said", f"{tmp_path}/said") for line in text.splitlines() if not line.startswith(host)]
    done = subprocess.run(
        ["sh"], input="\n".join(lines) + "\n", capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.splitlines() == [READY, f"it's two words in {tmp_path} on a 'kernel'"]
    assert (tmp_path / "status").read_text() == "7\n"


@pytest.mark.parametrize(
    ("wanted", "environment", "loaded", "chosen"),
    [
        (None, {}, True, "system"),
        (None, {}, False, "netdev"),
        (None, {"OPLAB_DATAPATH": "netdev"}, True, "netdev"),
        ("auto", {"OPLAB_DATAPATH": "netdev"}, True, "system"),
        ("netdev", {"OPLAB_DATAPATH": "system"}, True, "netdev"),
    ],
)
def test_a_lab_takes_the_datapath_it_is_told_or_the_kernels_where_there_is_one(
    tmp_path: Path, wanted: str | None, environment: dict[str, str], loaded: bool, chosen: str
) -> None:
    module = tmp_path if loaded else tmp_path / "absent"
    assert choose_datapath(wanted, environment=environment, module=module) == chosen


@pytest.mark.parametrize(
    ("wanted", "sentence"), [("kernel", "wanted auto, system or netdev"), ("system", "this kernel has no Open vSwitch")]
)
def test_a_datapath_that_can_not_be_is_refused_with_a_sentence(tmp_path: Path, wanted: str, sentence: str) -> None:
    with pytest.raises(LabError, match=sentence):
        choose_datapath(wanted, module=tmp_path / "absent")

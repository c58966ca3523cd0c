"""What a test machine is made of: command lines of QEMU and virtiofsd, and the script that runs in it. Pure.

    host                                        machine
    virtiofsd, root of the files ── virtiofs ── overlay in memory: the same files, and nothing written comes out
    PLACE/job ─────────────────────────────────> what runs there, as its first process
    PLACE/status, events.jsonl, junit.xml <───── what came of it, while it comes
    OUT, above PLACE <─────────────────────────> the one directory that several machines have in common
    our standard output <── serial line ──────── what it says meanwhile

The processor is emulated (TCG): a machine that is itself virtual may offer KVM, and an ordinary kernel then hangs in
it. That is ten times slower or more, and slower still beside other work. So the machine's clock counts instructions,
one a nanosecond, and goes with ours only while the machine idles: to a test it is a slow machine that nothing disturbs,
and a deadline means there what it means here.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["BOOT_MODULES", "DATAPATH_MODULES", "READY", "Machine", "job", "qemu", "virtiofsd"]

BOOT_MODULES = ("virtio_pci", "fuse", "virtiofs", "overlay", "virtio_rng")
"""What the initramfs must bring; everything else is loaded from the host's files."""

DATAPATH_MODULES = ("openvswitch", "vport-vxlan", "vport-geneve", "vport-gre", "veth", "tun", "bonding")
"""What Debian's openvswitch-switch loads at boot, and what the lab's cables are made of."""

READY = "machine: up"
"""The line that ends the boot; what follows is the job's."""

_SETTLED_S = 11
"""Uptime before which nothing is run: ovs-vswitchd 3.1 counts no processors in the first 10 s of its machine, starts no
handler for them, and then loses all that its datapath asks it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One machine. Paths are those of the host."""

    kernel: Path
    initrd: Path
    modules: Path
    """Holds one directory for each kernel release, as /lib/modules does."""
    out: Path
    """The host's own directory that it may write to."""
    place: Path
    """Its own directory in there; holds its job."""
    socket: Path
    """Where virtiofsd listens."""
    memory_mib: int = 4096


def virtiofsd(program: str, machine: Machine) -> list[str]:
    """Serves the host's root to one machine and ends with it."""
    return [
        program,
        f"--socket-path={machine.socket}",
        *("-o", "source=/"),
        *("-o", "cache=always"),
        *("-o", "sandbox=chroot"),
        *("-o", "log_level=err"),
    ]


def qemu(machine: Machine) -> list[str]:
    """The machine; its serial line is standard output. It ends by itself when its job has ended, or at a panic."""
    words = [
        "console=ttyS0 quiet loglevel=3 panic=-1 nokaslr mitigations=off audit=0",
        f"OUT={machine.out} JOB={machine.place / 'job'} MODULES={machine.modules}",
    ]
    memory = f"{machine.memory_mib}M"
    return [
        "qemu-system-x86_64",
        *("-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none"),
        *("-machine", "q35,memory-backend=memory"),
        *("-accel", "tcg"),
        *("-icount", "shift=0,sleep=on"),
        # what Python's wheels want (x86-64-v2), and nothing that is slow to emulate
        *("-cpu", "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16,+lahf-lm,+aes,+rdrand"),
        *("-m", memory),
        *("-object", f"memory-backend-memfd,id=memory,size={memory},share=on"),
        *("-chardev", f"socket,id=files,path={machine.socket}"),
        *("-device", "vhost-user-fs-pci,queue-size=1024,chardev=files,tag=host"),
        *("-device", "virtio-rng-pci"),
        *("-serial", "stdio"),
        *("-kernel", str(machine.kernel)),
        *("-initrd", str(machine.initrd)),
        *("-append", " ".join(words)),
    ]


def job(command: Sequence[str], *, directory: Path, environment: Mapping[str, str], place: Path) -> str:
    """The script that loads Open vSwitch, runs *command*, writes its exit status to PLACE/status, ends the machine."""
    settings = [f"{name}={shlex.quote(value)}" for name, value in sorted(environment.items())]
    return "\n".join(
        [
            "#!/bin/sh",
            "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8",
            f"export {' '.join(settings)}" if settings else "",
            "ulimit -n 65536",
            "hostname kernel",
            "ip link set lo up",
            "stty -onlcr 2>/dev/null",
            f"modprobe -a {' '.join(DATAPATH_MODULES)} || echo 'machine: no Open vSwitch in this kernel'",
            f"while [ $(cut -d. -f1 /proc/uptime) -lt {_SETTLED_S} ]; do sleep 0.2; done",
            f"echo '{READY}'",
            f"cd {shlex.quote(str(directory))}",
            "mkfifo /run/said",  # a pipe and no terminal: lines come whole, and none is drawn twice
            "cat /run/said & says=$!",
            f"{shlex.join(command)} >/run/said 2>&1 </dev/null",
            f"echo $? >{shlex.quote(str(place / 'status'))}",
            "wait $says",
            "sync",
            "exec busybox poweroff -f",
            "",
        ]
    )

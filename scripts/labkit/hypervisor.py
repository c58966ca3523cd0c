"""libvirt and QEMU of a host: its own libvirtd, at default paths, reachable by TCP from the lab's management network.

TCP without authentication is for labs only: the network it listens on exists in namespaces alone. Guests run as root
without a security driver and without cgroups, since the machine's are not the host's; the host's UUID and name are its
own, or two libvirtds on one machine would refuse to migrate to each other.

libvirtd probes QEMU's abilities at its first start, for more than a second; what it finds is kept with the guest image
and given to later hosts that have the same QEMU.

Guests that move without KVM need a QEMU that is told what `hostfiles/qemu-system-x86_64` says.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from uuid import UUID

from scripts.labkit import kernel
from scripts.labkit.node import Node

__all__ = ["LOG", "PIDFILE", "local_uri", "remote_uri", "start_libvirtd"]

LOG = "/var/log/libvirt/libvirtd.log"
PIDFILE = "/run/lab/libvirtd.pid"
_HOSTFILES = Path(__file__).with_name("hostfiles")
_SOCKET = "/run/libvirt/libvirt-sock"
_CAPABILITIES = "/var/cache/libvirt/qemu/capabilities"


def local_uri(node: Node) -> str:
    """URI of the host's libvirtd from outside the lab."""
    return f"qemu+unix:///system?socket={node.path(_SOCKET)}"


def remote_uri(address: str) -> str:
    """URI of a host's libvirtd from another node."""
    return f"qemu+tcp://{address}/system"


def start_libvirtd(node: Node, *, address: str) -> None:
    """Configure and start libvirtd; returns when it answers."""
    configuration = node.path("/etc/libvirt")
    host_uuid = UUID(_machine_id(node))
    (configuration / "libvirtd.conf").write_text(_libvirtd_conf(address, host_uuid))
    (configuration / "qemu.conf").write_text(_qemu_conf(address))
    for made in ("/var/lib/libvirt/images", "/var/log/libvirt", "/etc/libvirt/hooks", "/var/cache/libvirt/qemu"):
        node.path(made).mkdir(parents=True, exist_ok=True)
    kept = kernel.cache_directory() / f"qemu-capabilities-{_installed_qemu()}"
    with contextlib.suppress(OSError):
        shutil.copytree(kept, node.path(_CAPABILITIES), dirs_exist_ok=True)
    path = f"{_HOSTFILES}:{node.environment()['PATH']}"
    node.spawn("libvirtd", ["libvirtd", "--listen"], log="/var/log/libvirt/libvirtd.out", env={"PATH": path})
    node.await_("libvirtd", lambda: _answers(node), pidfile=PIDFILE, log=LOG, timeout_s=30)
    if _contents(kept) != _contents(node.path(_CAPABILITIES)):
        _keep(node.path(_CAPABILITIES), kept)


def _installed_qemu() -> str:
    """What changes when another QEMU is installed; libvirt itself looks at the file it starts, which is ours."""
    return str(os.stat("/usr/bin/qemu-system-x86_64").st_ctime_ns)


def _machine_id(node: Node) -> str:
    return (node.directory / "files/machine-id").read_text().strip()


def _answers(node: Node) -> bool:
    if not node.path(_SOCKET).exists():
        return False
    # `capabilities` and not just a connection: the first domain shall not wait for QEMU's probing.
    return node.exec(["virsh", "-c", "qemu:///system", "capabilities"], check=False, timeout_s=30).returncode == 0


def _contents(directory: Path) -> dict[str, bytes]:
    try:
        return {path.name: path.read_bytes() for path in directory.iterdir()}
    except OSError:
        return {}


def _keep(found: Path, kept: Path) -> None:
    temporary = kept.with_name(f"tmp-{found.stat().st_ino}-capabilities")
    with contextlib.suppress(OSError):  # another host may have been first
        shutil.copytree(found, temporary)
        shutil.rmtree(kept, ignore_errors=True)
        temporary.rename(kept)
    shutil.rmtree(temporary, ignore_errors=True)


def _libvirtd_conf(address: str, host_uuid: UUID) -> str:
    return f"""# Written by the lab. Listening without authentication is safe only in its namespaces.
host_uuid = "{host_uuid}"
listen_tls = 0
listen_tcp = 1
listen_addr = "{address}"
auth_tcp = "none"
auth_unix_ro = "none"
auth_unix_rw = "none"
log_level = 3
log_outputs = "3:file:{LOG}"
"""


def _qemu_conf(address: str) -> str:
    return f"""# Written by the lab.
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
migration_address = "0.0.0.0"
migration_host = "{address}"
"""

"""vmctl and libvirt of a lab, as tests of the compute manager ask them."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.waiting import within

if TYPE_CHECKING:
    from scripts.labkit import Lab

EXAMPLE = Path(__file__).parents[2] / "examples" / "two-zones.yaml"
MANAGER = "mgr"


def vmctl(lab: Lab, *command: str, code: int = 0) -> str:
    """What `vmctl` prints on the managers' node; with another *code*, what it says to standard error as well."""
    done = lab.exec(MANAGER, ["vmctl", *command], check=False)
    assert done.returncode == code, f"{command}: {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout if code == 0 else done.stdout + done.stderr


def ask(lab: Lab, *command: str, code: int = 0) -> Any:
    return json.loads(vmctl(lab, *command, "-o", "json", code=code))


@contextmanager
def another_vmctl(lab: Lab, state_dir: str, *options: str) -> Iterator[list[str]]:
    """One more vmctl on the managers' node, with the hosts of the lab's own; the command that asks it."""
    asking = ["vmctl", "--socket", f"{state_dir}.sock"]
    leftovers = ["find", state_dir, "-mindepth", "1", "-delete"]  # of a test that failed; it may be a mount
    lab.exec(MANAGER, leftovers, check=False)
    daemon = lab.popen(
        MANAGER,
        [
            *asking,
            "serve",
            "--state-dir",
            state_dir,
            "--identity",
            "/var/lib/vmctl/identity",
            "--virt",
            "qemu",
            *options,
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: lab.exec(MANAGER, [*asking, "status"], check=False).returncode == 0)
        for host in (shown["host"] for shown in ask(lab, "host", "list")):
            known = ["--libvirt", host["libvirt_uri"], "--agent", host["agent_address"], "--host-uuid", host["uuid"]]
            lab.exec(MANAGER, [*asking, "host", "add", host["name"], *known])
        yield asking
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(timeout=10)


def until(condition: Callable[[], object], *, within_s: float = 30.0) -> None:
    assert within(within_s, condition), "did not come about in time"


def running(lab: Lab, host: str) -> list[str]:
    """Names of the VMs that run there, by libvirt's own word."""
    return lab.exec(host, ["virsh", "list", "--name"]).stdout.split()


def lit(lab: Lab, name: str) -> bool:
    """True when every opaque NIC of the VM is lit, by the word of its host's agent."""
    return all(vif["state"] == "lit" for vif in ask(lab, "vm", "show", name)["vifs"] if vif["opaque"])


def network_uuid(lab: Lab, name: str) -> str:
    found: str = next(n["uuid"] for n in ask(lab, "network", "list") if n["name"] == name)
    return found


def carried(lab: Lab, **hosts: list[str]) -> bool:
    """True when vmctl sees each network on exactly these hosts, and every host in sync with libvirt connected."""
    networks = {network["name"]: network["hosts"] for network in ask(lab, "network", "list")}
    in_sync = all(host["in_sync"] and not host["libvirt"] for host in ask(lab, "host", "list"))
    return in_sync and all(networks.get(name) == wanted for name, wanted in hosts.items())

"""The main job, from nothing to a migrated VM, on real daemons in a lab of three hosts; what `make demo` runs.

Each step prints the command it ran and what came of it, so that the output can be followed by hand in a lab of one's
own. Whatever happens, the lab is taken down at the end; the exit code is 0 only when everything came out as it should.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from subprocess import PIPE
from typing import Any
from uuid import uuid4

from scripts.labkit import guest
from scripts.labkit.errors import LabError
from scripts.labkit.lab import Lab
from scripts.labkit.node import NodeProcess
from scripts.labkit.state import MANAGER

__all__ = ["main"]

EXAMPLE = Path("examples/two-zones.yaml")
NETWORK = "blue"
WEB, DB, PROBES = "10.10.0.11", "10.10.0.12", {"h1": "10.10.0.101", "h2": "10.10.0.102"}
_MIB = 1 << 20


def main() -> int:
    """Run the demonstration; 0 when all of it came out as it should."""
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the lab is taken down then too
    demo = Demo()
    try:
        with _three_hosts() as lab:
            demo.run(lab)
    except (LabError, DemoError) as error:
        _say(f"\nFAILED: {error}")
        return 1
    except KeyboardInterrupt:
        _say("\ninterrupted; the lab is gone")
        return 130
    _say(f"\nDone in {time.monotonic() - began:.0f} s; nothing of the lab is left.")
    return 0


class DemoError(Exception):
    """Something came out otherwise than it should; the message says what."""


@contextlib.contextmanager
def _three_hosts() -> Iterator[Lab]:
    _title("Three hosts, each with its own Open vSwitch, libvirt and agent, and a manager")
    with Lab(hosts=3, progress=lambda sentence: _say(f"  {sentence}")) as lab:
        yield lab
        _title("Cleaning up")


class Demo:
    """The steps in their order."""

    def run(self, lab: Lab) -> None:
        self._networks(lab)
        self._guests(lab)
        self._traffic(lab)
        self._migration(lab)
        self._refusal(lab)

    def _networks(self, lab: Lab) -> None:
        _title("The network manager pushes two zones: h1 and h2 in a, h3 in b")
        _run(lab, MANAGER, ["netmgr", "apply", "-f", str(EXAMPLE.resolve()), "--wait", "realized"])
        _run(lab, MANAGER, ["netmgr", "network", "list"])
        _run(lab, "h1", ["hostagent", "show"])
        _run(lab, "h1", ["virsh", "net-dumpxml", NETWORK])

    def _guests(self, lab: Lab) -> None:
        _title("The compute manager starts a VM on h1 and one on h2")
        image = guest.build(progress=_say)
        for name, host, address in (("web", "h1", WEB), ("db", "h2", DB)):
            words = f"{guest.COMMAND_LINE} ip={address}/24 host={name} file_mib=8"
            boot = ["--kernel", str(image.kernel), "--initrd", str(image.initrd), "--cmdline", words]
            define = ["vmctl", "vm", "define", name, "--network", NETWORK, "--memory", "128", "--host", host, *boot]
            _run(lab, MANAGER, define, echo=False)
            _run(lab, MANAGER, ["vmctl", "vm", "start", name])
        _run(lab, MANAGER, ["vmctl", "vm", "list"])

    def _traffic(self, lab: Lab) -> None:
        _title("The guests talk over VXLAN: ping, and a file by TCP")
        pinged = _in_guest(lab, "db", ["probe", "ping", WEB, "20", "100"])
        _expect(" lost=0 " in pinged, f"20 pings of db to web should all be answered, got: {pinged}")
        fetched = _in_guest(lab, "db", ["probe", "get", WEB])
        _expect("ok=yes" in fetched, f"the file should arrive whole, got: {fetched}")

    def _migration(self, lab: Lab) -> None:
        _title("web moves from h1 to h2 while two peers ping it every 5 ms")
        pingers = {host: _pinger(lab, host) for host in PROBES}
        time.sleep(1.5)  # so that a gap can be told from a beginning
        moved = _run(lab, MANAGER, ["vmctl", "migrate", "web", "h2", "-o", "json"], echo=False)
        time.sleep(1.5)
        pause_ms = _pause_ms(moved)
        _say(f"  moved; QEMU paused the guest for {pause_ms} ms")
        for host, pinger in pingers.items():
            result = _stop(pinger)
            where = "the source's host" if host == "h1" else "the destination's host"
            _say(
                f"  peer on {where} ({host}): longest gap {result['gap_ms']:.0f} ms, "
                f"{result['lost']} lost and {result['duplicates']} twice of {result['sent']} pings"
            )
            _expect(result["received"] > 0, f"the peer on {host} heard nothing of web")
        pinged = _in_guest(lab, "db", ["probe", "ping", WEB, "20", "100"])
        _expect(" lost=0 " in pinged, f"after the move db should reach web, got: {pinged}")
        _run(lab, MANAGER, ["netmgr", "network", "show", NETWORK])

    def _refusal(self, lab: Lab) -> None:
        _title("h3 does not carry the network's UUID: web may not move there")
        result = lab.exec(MANAGER, ["vmctl", "migrate", "web", "h3"], check=False)
        _say(f"  $ vmctl migrate web h3\n{_indent(result.stdout + result.stderr)}  exit code {result.returncode}")
        _expect(result.returncode == 2, f"the move to h3 should be refused with exit code 2, got {result.returncode}")
        pinged = _in_guest(lab, "db", ["probe", "ping", WEB, "5", "100"])
        _expect(" lost=0 " in pinged, f"web should run on untouched, got: {pinged}")
        for host in lab.hosts:
            _run(lab, host, ["hostagent", "verify"])


def _pinger(lab: Lab, host: str) -> NodeProcess:
    """A peer of web on *host*: an endpoint of its own on the network, pinging web every 5 ms."""
    name = f"peer{host}"
    vif = str(uuid4())
    create = ["netmgr", "port", "create", name, "--network", NETWORK, "--ip", PROBES[host], "--vif", vif]
    port = _json(lab, [*create, "-o", "json"])
    network = _json(lab, ["netmgr", "network", "show", NETWORK, "-o", "json"])
    bridge = lab.exec(host, ["virsh", "net-info", NETWORK]).stdout.split("Bridge:")[1].strip()
    lab.attach(
        host,
        name,
        bridge=bridge,
        vif_uuid=vif,
        mac=port["mac"],
        addresses=[f"{PROBES[host]}/24"],
        mtu=network["mtu"],
    )
    python = [sys.executable, "-m", "scripts.labkit.pinger"]
    _until_answered(lab, name)
    return lab.popen(name, [*python, WEB, "--interval-ms", "5"], stdout=PIPE, text=True)


def _until_answered(lab: Lab, endpoint: str) -> None:
    for _ in range(50):
        if lab.exec(endpoint, ["ping", "-c", "1", "-W", "1", WEB], check=False).returncode == 0:
            return
    raise DemoError(f"endpoint {endpoint} does not reach {WEB}")


def _stop(pinger: NodeProcess) -> dict[str, Any]:
    pinger.send_signal(signal.SIGINT)
    output, _ = pinger.communicate(timeout=20)
    result: dict[str, Any] = json.loads(output)
    return result


def _pause_ms(output: str) -> Any:
    return json.loads(output)["migration"]["downtime_ms"]


def _json(lab: Lab, command: Sequence[str]) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(lab.exec(MANAGER, command).stdout)
    return result


def _run(lab: Lab, node: str, command: Sequence[str], *, echo: bool = True) -> str:
    shown = " ".join(shlex.quote(Path(w).name if "/" in w and len(w) > 40 else w) for w in command)
    _say(f"  {node}$ {shown if len(shown) < 140 else shown[:137] + '…'}")
    output: str = lab.exec(node, command).stdout
    if echo:
        _say(_indent(output).rstrip("\n"))
    return output


def _in_guest(lab: Lab, vm: str, command: Sequence[str]) -> str:
    output = lab.guest(vm, command).stdout.strip()
    _say(f"  {vm}# {' '.join(command)}\n    {output}")
    return output


def _expect(true: bool, otherwise: str) -> None:
    if not true:
        raise DemoError(otherwise)


def _indent(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


def _title(text: str) -> None:
    _say(f"\n== {text}")


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())

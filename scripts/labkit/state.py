"""What a lab is made of, and the one file that remembers it.

`<base>/<lab>/lab.json` is written before anything is made and after each node, so that another process (`lab exec`, the
reaper, tomorrow's `lab down`) can use or end the lab. It is a convenience, never an authority: a process in it counts
only while its start time matches, and `down` finds the lab's processes by their mark too.

Base is `$OPLAB_DIR`, else /var/tmp/oplab: short, because paths of unix sockets end at 108 bytes, and not under any of
the directories that a node has of its own.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.labkit.errors import LabError
from scripts.labkit.node import HIDDEN
from scripts.labkit.processes import ProcessId

__all__ = ["MANAGER", "Endpoint", "LabSpec", "LabState", "base_directory", "host_names", "names", "read", "write"]

MANAGER = "mgr"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,19}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabSpec:
    """What to build. Layers build on each other: agents need a manager."""

    name: str
    hosts: int
    manager: bool = True
    libvirt: bool = True
    agents: bool = True
    vmctl: bool = True
    zones: dict[str, str] = field(default_factory=dict)
    """Host name → transport zones, comma-separated, made before the host enrols."""
    underlay_mtu: int = 1700
    pnics: int = 1
    """PNICs of each host, `pnic0`, `pnic1`, …, all on the one underlay."""
    datapath: str = "netdev"
    """Where Open vSwitch forwards: "system" (the kernel) or "netdev" (user space)."""
    store: str | None = None
    """URL of netmgr's store; None means its embedded default."""
    dummy_ports: bool = False
    """Switches know ports of `type=dummy`, which need no device: for VIFs that are counted and not heard."""
    agent_settings: dict[str, str] = field(default_factory=dict)
    """Settings of every hostagent, as its environment has them: HOSTAGENT_RUN_MTU_EVERY, …"""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise LabError(f"lab name {self.name!r}: wanted 1 to 20 of a-z, 0-9 and -, starting with a letter")
        if not 1 <= self.hosts <= 200:
            raise LabError(f"lab {self.name}: wanted 1 to 200 hosts, found {self.hosts}")
        if not 1280 <= self.underlay_mtu <= 9216:
            raise LabError(f"lab {self.name}: underlay MTU wanted in 1280…9216, found {self.underlay_mtu}")
        if not 1 <= self.pnics <= 8:
            raise LabError(f"lab {self.name}: wanted 1 to 8 PNICs a host, found {self.pnics}")
        if self.agents and not self.manager:
            raise LabError(f"lab {self.name}: agents join a manager; ask for the manager too, or for no agents")
        for host in self.zones:
            if host not in host_names(self.hosts):
                raise LabError(
                    f"lab {self.name}: zones for {host!r}, but the hosts are {', '.join(host_names(self.hosts))}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A network-namespace endpoint plugged into a host's bridge."""

    name: str
    host: str
    bridge: str
    device: str
    """Its port on the bridge, in the host."""
    vif_uuid: str
    mac: str


@dataclass(slots=True, kw_only=True)
class LabState:
    spec: LabSpec
    nodes: dict[str, ProcessId] = field(default_factory=dict)
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    owner: ProcessId | None = None
    """The process whose end is the lab's end; None for a lab that stays."""


def host_names(count: int) -> tuple[str, ...]:
    """h1, h2, …"""
    return tuple(f"h{i}" for i in range(1, count + 1))


def base_directory() -> Path:
    """Where labs live; made when absent. Raises LabError when it is not safely ours."""
    base = Path(os.environ.get("OPLAB_DIR", "/var/tmp/oplab"))
    if not base.is_absolute() or len(str(base)) > 32 or any(base.is_relative_to(h) for h in HIDDEN):
        raise LabError(
            f"OPLAB_DIR={base}: wanted an absolute path of at most 32 characters, not under {', '.join(HIDDEN)}"
        )
    base.mkdir(mode=0o700, exist_ok=True)
    status = base.lstat()
    if base.is_symlink() or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise LabError(f"{base} is not a directory of ours that only we can write to; remove it or set OPLAB_DIR")
    return base


def names() -> list[str]:
    """Names of the labs that left a directory, running or not."""
    return sorted(entry.name for entry in base_directory().iterdir() if entry.is_dir() and _NAME.fullmatch(entry.name))


def write(state: LabState) -> None:
    """Replace the lab's file, at once or not at all."""
    directory = base_directory() / state.spec.name
    temporary = directory / f"lab.json.{os.getpid()}"
    temporary.write_text(json.dumps(dataclasses.asdict(state), indent=1))
    temporary.rename(directory / "lab.json")


def read(name: str) -> LabState | None:
    """The lab's file; None when there is none or it is damaged."""
    try:
        raw: dict[str, Any] = json.loads((base_directory() / name / "lab.json").read_text())
        return LabState(
            spec=LabSpec(**raw["spec"]),
            nodes={k: ProcessId(**v) for k, v in raw["nodes"].items()},
            endpoints={k: Endpoint(**v) for k, v in raw["endpoints"].items()},
            owner=ProcessId(**raw["owner"]) if raw["owner"] else None,
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None

"""How long a decision takes on a large fleet: `make bench-placement`, written to build/bench/placement.json.

The fleet: hosts in zones of 500, each host in its zone and, every tenth, in the next as well; 50 networks a zone; VMs
with one or two NICs, some with reserved bandwidth, some held apart. A decision is measured as the daemon makes it:
masks and score over all hosts, the VM then counted where it went, the arrays never rebuilt. What varies is seeded.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np

from netmgr.contract.types import Status
from vmctl.model import HostView, NetworkView, SwitchView, Vif, Vm, VmState, Zone
from vmctl.placement.balance import plan_balance
from vmctl.placement.choice import best, explain, explain_hosts
from vmctl.placement.evacuation import plan_evacuation
from vmctl.placement.fleet import Fleet
from vmctl.placement.model import Capacity, HostFacts, Needs, Policy, Purpose, Request
from vmctl.placement.sentences import FleetAtlas
from vmctl.placer import AT_A_TIME

ROOT = Path(__file__).resolve().parents[2]
ZONE_HOSTS, ZONE_NETWORKS = 500, 50
PURPOSES = (Purpose.POWER_ON, Purpose.MOVE, Purpose.EVACUATE, Purpose.BALANCE)


def build(hosts: int, vms: int, *, chance: random.Random) -> Fleet:
    """The fleet; one host in twenty is nearly full, and one in a hundred has a reason to refuse."""
    zones = max(1, hosts // ZONE_HOSTS)
    zone = [Zone(uuid=UUID(int=0xA000 + i), name=f"z{i}") for i in range(zones)]
    switch = [
        SwitchView(
            uuid=UUID(int=0x5000 + i),
            name=f"sw{i}",
            status=Status.UP,
            zone_uuids=(zone[i].uuid,),
            link_mbps=25_000,
            free_ports=4000,
        )
        for i in range(zones)
    ]
    networks = [
        [
            NetworkView(
                uuid=UUID(int=(i << 16) + j + 1),
                name=f"n{i}-{j}",
                zone_uuids=(zone[i].uuid,),
                switch_uuid=switch[i].uuid,
                status=Status.UP,
                health=chance.choice((100, 100, 90)),
            )
            for j in range(ZONE_NETWORKS)
        ]
        for i in range(zones)
    ]
    fleet = Fleet()
    for number in range(hosts):
        name, first = f"host{number:05}", number * zones // hosts
        mine = sorted({first, (first + 1) % zones} if number % 10 == 0 else {first})
        fleet.put_host(
            HostFacts(
                name=name,
                view=HostView(
                    host=name,
                    in_sync=number % 100 != 0,
                    zones=tuple(zone[i] for i in mine),
                    switches=tuple(switch[i] for i in mine),
                    networks=tuple(n for i in mine for n in networks[i]),
                ),
                capacity=Capacity(cpus=64, memory_mib=512 * 1024, disk_mib=8 * 1024**2),
            )
        )
        share = vms * (number + 1) // hosts - vms * number // hosts
        crowded = number % 20 == 7
        fleet.put_vms(
            name,
            [
                vm(chance, vms * number // hosts + i, name, networks[first], memory_gib=48 if crowded else None)
                for i in range(share)
            ],
        )
    return fleet


def vm(
    chance: random.Random, number: int, host: str, networks: Sequence[NetworkView], *, memory_gib: int | None = None
) -> tuple[Vm, Needs]:
    vifs = tuple(
        Vif(uuid=UUID(int=(number << 20) + i), network_name=n.name, network_uuid=n.uuid, opaque=True)
        for i, n in enumerate(chance.sample(networks, chance.choice((1, 1, 2))))
    )
    made = Vm(
        uuid=UUID(int=(1 << 100) + number),
        name=f"vm{number}",
        host=host,
        state=VmState.RUNNING,
        memory_mib=1024 * (memory_gib or chance.choice((2, 4, 8, 16))),
        vcpus=chance.choice((1, 2, 4, 8)),
        vifs=vifs,
    )
    apart = frozenset({f"apart{number // 3}"}) if number % 30 < 3 else frozenset()
    return made, Needs(bandwidth_mbps=chance.choice((0, 0, 100, 500)), disk_mib=20_480, anti_affinity=apart)


def measure(fleet: Fleet, *, samples: int, chance: random.Random) -> dict[str, Any]:
    """The figures, in the units of their names."""
    hosts = list(fleet.column)
    decisions, own = [], []  # by the clock, and of it what the machine gave to us and not to others
    for number in range(samples):
        placed = chance.choice(fleet.on(chance.choice(hosts)))
        asked = Request(vm=placed.vm, needs=placed.needs, purpose=PURPOSES[number % len(PURPOSES)], home=placed.vm.host)
        began, began_own = time.perf_counter(), time.thread_time()
        chosen = best(fleet, asked)
        if chosen is not None:
            fleet.reserve(asked.vm, asked.needs, chosen.host)
        decisions.append((time.perf_counter() - began) * 1000)
        own.append((time.thread_time() - began_own) * 1000)
        if chosen is not None:
            fleet.release(asked.vm.uuid, chosen.host)
    placed = fleet.on(hosts[0])[0]
    asked = Request(vm=placed.vm, needs=placed.needs, purpose=Purpose.MOVE)
    explained = [timed(lambda: explain(fleet, asked)) * 1000 for _ in range(5)]
    atlas = FleetAtlas(fleet)
    stretches = [
        timed(lambda first=first: explain_hosts(fleet, asked, hosts[first : first + AT_A_TIME], atlas=atlas)) * 1000  # type: ignore[misc]
        for first in range(0, len(hosts), AT_A_TIME)
    ]
    crowded = hosts[7 % len(hosts)]
    return {
        "decision_ms": summary(decisions),
        "decision_cpu_ms": summary(own),
        "explain_ms": round(statistics.median(explained), 1),
        "explain_stretch_ms": summary(stretches),  # what others in the daemon wait for while it explains
        "balance_pass_s": round(timed(lambda: plan_balance(fleet, now_s=0.0, departures={})), 3),
        "consolidate_pass_s": round(
            timed(lambda: plan_balance(fleet, now_s=0.0, departures={}, policy=Policy.CONSOLIDATE)), 3
        ),
        "evacuation_plan_ms": round(timed(lambda: plan_evacuation(fleet, crowded)) * 1000, 1),
    }


def summary(samples: list[float]) -> dict[str, float]:
    ranked = sorted(samples)
    p99 = ranked[math.ceil(0.99 * len(ranked)) - 1]
    return {"median": round(statistics.median(ranked), 3), "p99": round(p99, 3), "samples": len(ranked)}


def timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def document(*, hosts: int, vms: int, samples: int) -> dict[str, Any]:
    """What goes into placement.json."""
    chance = random.Random(5)
    began = time.perf_counter()
    fleet = build(hosts, vms, chance=chance)
    built_s = time.perf_counter() - began
    figures = measure(fleet, samples=samples, chance=chance)
    return {
        "hosts": len(fleet.column),
        "vms": fleet.vm_count(),
        "networks": len(fleet.network_row),
        **figures,
        "build_s": round(built_s, 1),
        "environment": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "machine": platform.machine(),
            "kernel": platform.release(),
            "cpus": os.cpu_count(),
            "load_1min": round(os.getloadavg()[0], 2),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--vms", type=int, default=100_000)
    parser.add_argument("--samples", type=int, default=2_000)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench" / "placement.json")
    options = parser.parse_args()
    found = document(hosts=options.hosts, vms=options.vms, samples=options.samples)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    json.dump(found, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()

"""Our network beside OVN's and beside a bare bridge, in one run: how soon, how fast, how large.

The labs of three hosts are up at once, and samples are taken in turns, ours, theirs, theirs, ours: what disturbs the
machine disturbs both. Those of fifty come one after the other. Every wait is bounded; a sample that fails is written
down and left out, and what was measured is written whatever ends the run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from scripts.benchkit.bare_bridge import BareBridge
from scripts.benchkit.deployment import Carrier
from scripts.benchkit.deployment_ours import LibvirtOurs, OursDeployment
from scripts.benchkit.deployment_ovn import OvnDeployment
from scripts.benchkit.environment import environment, positive
from scripts.benchkit.many import PORTS, ManyOurs, ManyOvn
from scripts.benchkit.network_figures import MEASURES, document, table
from scripts.benchkit.network_rig import NetworkRig
from scripts.labkit import LabError
from scripts.labkit.node import REPOSITORY

__all__ = ["main"]

_OUTPUT = REPOSITORY / "build/bench/network.json"
_FILES_MAX = 4096  # a tap is a file, and there are hundreds
_CROWDED = ("attach_500", "cold_start_500")
_MANY = {
    "network_create_50": NetworkRig.network_create,
    "vif_first_frame_50": NetworkRig.vif_first_frame,
    "cold_start_50": NetworkRig.cold_start,
}
_LIBVIRT = {
    "network_create_libvirt": NetworkRig.network_create,
    "vif_first_frame_libvirt": NetworkRig.vif_first_frame,
}
_FIRST_FRAMES = ("vif_first_frame", "vif_first_frame_unannounced")
_RATES = ("throughput", "packets_per_s")
_GROUP_RATES = ("throughput_groups", "packets_per_s_groups")
_RESTARTS = ("restart_10000", "agent_memory_10000")
_REMOTE = ("vif_first_frame_10000", *_RESTARTS)
_REMOTE_PORTS = 10_000
_MEMORY = ("agent_memory", "manager_memory")
_CROWDS_MAX = 5
_MOMENT_MAX = 250  # samples of what takes milliseconds; OVN's vary by half of their median
_QUICK_MAX = 100  # of the same with libvirt, and where nothing is to be reached
_RATE_MAX = 80  # of rates: a percent is to be told apart, and they vary by six
_SHORT_MAX = 40  # of rates with groups, and at fifty hosts of what takes a part of a second


def main() -> int:
    """Run the benchmark; 0 when every wanted measure has samples of all it compares."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the labs are taken down then too
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(_FILES_MAX, most), most))
    usual = [name for name in MEASURES if not (options.few and name in (*_MANY, *_REMOTE))]
    run = _Run(options.only or usual, samples=options.samples, output=options.output, alone=options.ours)
    try:
        run.measure()
    except LabError as error:
        _say(f"FAILED: {error}")
        return 1
    except KeyboardInterrupt:
        _say("interrupted; the labs are gone")
        return 130
    finally:
        run.write()
    return 0 if run.whole() else 1


class _Run:
    """One run: the labs, the samples, the file and the table."""

    def __init__(self, wanted: Sequence[str], *, samples: int, output: Path, alone: bool) -> None:
        self._wanted = wanted
        self._alone = alone
        self._count = samples
        # these vary by as much as is to be judged, or by more
        self._moment = max(samples, min(25 * samples, _MOMENT_MAX))
        self._quick = max(samples, min(10 * samples, _QUICK_MAX))
        self._rate = max(samples, min(8 * samples, _RATE_MAX))
        self._short = max(samples, min(4 * samples, _SHORT_MAX))
        self._output = output
        self._samples: dict[str, dict[str, list[float]]] = {}
        self._failures: dict[str, list[str]] = {}
        self._environment = environment()

    def measure(self) -> None:
        if any(name not in _MANY for name in self._wanted):
            self._few()
        if any(name in _MANY for name in self._wanted):
            self._many()
        self._environment["load_1min_at_end"] = os.getloadavg()[0]

    def _few(self) -> None:
        """At three hosts."""
        with contextlib.ExitStack() as labs:
            deployments = self._rigs(labs, OursDeployment, OvnDeployment)
            self._memory(deployments)
            if "network_create" in self._wanted:
                self._in_turns(["network_create"], deployments, self._moment, NetworkRig.network_create)
            if any(name in self._wanted for name in _LIBVIRT):
                self._with_libvirt(deployments)
            with_bare = any(name in self._wanted for name in (*_FIRST_FRAMES, *_RATES))
            carriers = [*deployments, *(self._rigs(labs, BareBridge) if with_bare else ())]
            for name in _FIRST_FRAMES:
                if name in self._wanted:
                    count = self._moment if name == "vif_first_frame" else self._quick
                    self._in_turns([name], carriers, count, _method(name))
            for name in _RATES:  # before ports with groups are there: a port more, and a switch is a percent slower
                if name in self._wanted:
                    self._in_turns([name], carriers, self._rate, _method(name))
            for name in _GROUP_RATES:
                if name in self._wanted:
                    self._in_turns([name], deployments, self._short, _method(name))
            if any(name in self._wanted for name in _CROWDED):
                self._in_turns(_CROWDED, deployments, min(self._count, _CROWDS_MAX), NetworkRig.crowd)
            if any(name in self._wanted for name in _REMOTE):
                self._surrounded(deployments)
            _say("cleaning up")

    def _surrounded(self, rigs: Sequence[NetworkRig]) -> None:
        """At three hosts, of a network with ten thousand ports elsewhere."""
        ready = [rig for rig in rigs if self._prepared("10,000 ports", rig, NetworkRig.surround, _REMOTE_PORTS)]
        if _REMOTE[0] in self._wanted:
            self._in_turns(_REMOTE[:1], ready, self._count, NetworkRig.vif_first_frame)
        if any(name in self._wanted for name in _RESTARTS):
            self._in_turns(_RESTARTS, ready, self._count, NetworkRig.restart)

    def _with_libvirt(self, deployments: Sequence[NetworkRig]) -> None:
        """What libvirt adds on hosts of ours; it is no part of the others."""
        with contextlib.ExitStack() as lab:
            others = [rig for rig in deployments if rig.name != LibvirtOurs.name]
            rigs = [*self._rigs(lab, LibvirtOurs), *others]
            for name, sample in _LIBVIRT.items():
                if name in self._wanted:
                    self._in_turns([name], rigs, self._quick, sample)

    def _many(self) -> None:
        """At fifty hosts with a thousand ports. One side after the other: a hundred hosts are too many here."""
        for kind in (ManyOurs, ManyOvn):
            with contextlib.ExitStack() as lab:
                ready = [
                    rig
                    for rig in self._rigs(lab, kind)
                    if self._prepared("ports of 50 hosts", rig, NetworkRig.carry, PORTS)
                ]
                for name, sample in _MANY.items():
                    if name in self._wanted:
                        count = min(self._count, _CROWDS_MAX) if name == "cold_start_50" else self._short
                        self._in_turns([name], ready, count, sample)
                _say(f"cleaning up the {kind.hosts} hosts")

    def whole(self) -> bool:
        return not self._failures and all(name in self._samples for name in self._wanted)

    def write(self) -> None:
        """What was measured so far, if anything, as a file and as a table."""
        if not self._samples:
            return
        doc = document(self._samples, failures=self._failures, environment=self._environment)
        self._output.parent.mkdir(parents=True, exist_ok=True)
        self._output.write_text(json.dumps(doc, indent=1) + "\n")
        _say(f"\n{table(doc)}\n\nWritten to {self._output}")

    def _rigs(self, labs: contextlib.ExitStack, *kinds: type[Carrier]) -> list[NetworkRig]:
        """Those that come up; that another does not is a failure, and these are measured."""
        rigs = []
        for kind in kinds:
            if self._alone and not issubclass(kind, OursDeployment):
                continue
            try:
                rigs.append(self._rig(labs, kind))
            except LabError as error:
                self._failures.setdefault(f"{kind.hosts} hosts", []).append(f"{kind.name}: {error}")
                _say(f"{kind.name}: {kind.hosts} hosts FAILED to come up: {error}")
        return rigs

    def _rig(self, labs: contextlib.ExitStack, kind: type[Carrier]) -> NetworkRig:
        began = time.monotonic()
        lab = labs.enter_context(kind.make_lab())
        carrier = kind(lab)
        labs.enter_context(carrier.open)
        rig = NetworkRig(carrier)
        rig.place()
        took_s = time.monotonic() - began
        _say(f"{rig.name}: {carrier.hosts} hosts and a network are up after {took_s:.0f} s (lab {lab.name})")
        return rig

    def _prepared(self, what: str, rig: NetworkRig, prepare: Callable[[NetworkRig, int], None], number: int) -> bool:
        """Whether *rig* has the ports that a measure needs; if not, that is a failure, and the others are measured."""
        began = time.monotonic()
        try:
            prepare(rig, number)
        except LabError as error:
            self._failures.setdefault(what, []).append(f"{rig.name}: {error}")
            _say(f"{rig.name}: {number} ports FAILED: {error}")
            return False
        _say(f"{rig.name}: {number} ports are up after {time.monotonic() - began:.0f} s")
        return True

    def _memory(self, rigs: Iterable[NetworkRig]) -> None:
        """As they are with three hosts and one network."""
        for rig in rigs:
            if "agent_memory" in self._wanted:
                for kib in rig.deployment.agent_memory_kib():
                    self._note("agent_memory", rig.name, kib)
            if "manager_memory" in self._wanted:
                self._note("manager_memory", rig.name, rig.deployment.manager_memory_kib())

    def _in_turns(
        self,
        names: Sequence[str],
        rigs: Sequence[NetworkRig],
        count: int,
        sample: Callable[[NetworkRig], Sequence[float] | float],
    ) -> None:
        """*count* samples of each rig, one after the other, each second time in reverse: none is always the first, or
        always behind the same one."""
        for number in range(1, count + 1):
            for rig in rigs if number % 2 else reversed(rigs):
                try:
                    found = sample(rig)
                except LabError as error:
                    sentence = "; ".join([str(error), *_revived(rig)])
                    self._failures.setdefault(names[0], []).append(f"{rig.name}, sample {number}: {sentence}")
                    _say(f"{number:3}/{count} {names[0]:18} {rig.name:12} FAILED: {sentence}")
                    continue
                for name, value in zip(names, [found] if isinstance(found, float | int) else found, strict=True):
                    if name in self._wanted:
                        self._note(name, rig.name, value)
                        _say(f"{number:3}/{count} {name:18} {rig.name:12} {value:,.1f} {MEASURES[name].unit}")

    def _note(self, measure: str, who: str, value: float) -> None:
        self._samples.setdefault(measure, {}).setdefault(who, []).append(value)


def _revived(rig: NetworkRig) -> list[str]:
    """What is to be said of a side whose sample failed: a switch that has ended is started again, once a sample."""
    try:
        return [f"ovs-vswitchd had ended on {host}, and was started again" for host in rig.revive()]
    except LabError as error:
        return [str(error)]


def _method(name: str) -> Callable[[NetworkRig], float]:
    method: Callable[[NetworkRig], float] = getattr(NetworkRig, name)
    return method


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-network", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--only",
        action="append",
        choices=list(MEASURES),
        metavar="MEASURE",
        help=f"measure only this; may be repeated. One of {', '.join(MEASURES)}",
    )
    parser.add_argument(
        "--few",
        action="store_true",
        help="nothing with 10,000 ports elsewhere or at 50 hosts with 1,000 ports: 12 minutes less on two cores",
    )
    parser.add_argument("--ours", action="store_true", help="of ours alone: soon done, and nothing to compare it with")
    parser.add_argument(
        "--samples",
        type=positive,
        default=10,
        help="of each measure; 25 times as many, up to 250, of what takes milliseconds, ten times, up to 100, of the"
        " same with libvirt and unannounced, eight times, up to 80, of rates, four times, up to 40, of rates with"
        " groups and at fifty hosts (default: 10)",
    )
    parser.add_argument("--output", type=Path, default=_OUTPUT, help="where the figures go (default: %(default)s)")
    return parser.parse_args()


def _say(sentence: str) -> None:
    print(sentence, flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""How tests are dealt out to the workers of a run (`pytest -n 4 --dist loadfile`).

The tests of a file share a lab, so a file goes to one worker as a whole, except where its labs are one for each
parameter: then each parameter's tests are dealt by themselves. Those on real daemons, which take longest, are dealt
first, and the longest of them before all: one that began last would leave the others idle.
"""

from __future__ import annotations

from collections.abc import Iterable

from xdist.scheduler.loadfile import LoadFileScheduling

# Files whose labs are made anew for each parameter, by the ids of these.
_PARTS = {
    "tests/chaos/test_crossing.py": ("vxlan", "others", "vlan"),
    "tests/lab/test_limits.py": ("ipv4", "ipv6"),
    "tests/lab/test_underlay.py": ("ipv4", "ipv6"),
}
# Files that take more than half a minute on a busy machine, the longest first (`--durations=0` tells).
_LONGEST = (
    "tests/e2e/test_vmctl_journal.py",
    "tests/e2e/test_virsh_only.py",
    "tests/e2e/test_vmctl_moves.py",
    "tests/e2e/test_vmctl_journal_postgresql.py",
    "tests/e2e/test_vmctl_switches.py",
    "tests/lab/test_underlay.py",
    "tests/e2e/test_libvirt_networks.py",
    "tests/e2e/test_groups.py",
    "tests/lab/test_endpoints.py",
    "tests/e2e/test_vmctl.py",
    "tests/lab/test_faults.py",
    "tests/e2e/test_vmctl_placement.py",
    "tests/chaos/test_crossing.py",
    "tests/lab/test_agent.py",
    "tests/unit/vmctl/test_daemon.py",
    "tests/e2e/test_guest_ports.py",
    "tests/lab/pipeline/test_subports.py",
    "tests/lab/test_limits.py",
    "tests/e2e/test_guest.py",
    "tests/e2e/test_kernel_machine.py",
    "tests/lab/test_switches.py",
    "tests/unit/netmgr/test_daemon.py",
    "tests/unit/netmgr/test_store.py",
    "tests/unit/vmctl/test_daemon_postgresql.py",
)
_FOLDERS = ("tests/e2e/", "tests/chaos/", "tests/lab/", "tests/sim/")


def longest_first(files: Iterable[str]) -> list[str]:
    """*files*, by their path below the checkout, in the order in which they are to begin."""
    return sorted(files, key=_rank)


def unit_of(nodeid: str) -> str:
    """What goes to one worker with the test *nodeid*: its file, or its part of it."""
    file, _, test = nodeid.partition("::")
    part = next((part for part in _PARTS.get(file, ()) if part in test.partition("[")[2].rstrip("]").split("-")), "")
    return f"{file}[{part}]" if part else file


class Dealing(LoadFileScheduling):
    """xdist's own, with `unit_of`; a run tells it not to put the files with the most tests first."""

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)


def _rank(file: str) -> tuple[int, int]:
    if file in _LONGEST:
        return 0, _LONGEST.index(file)
    return 1, next((number for number, folder in enumerate(_FOLDERS) if file.startswith(folder)), len(_FOLDERS))

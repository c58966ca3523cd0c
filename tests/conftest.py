"""Labs for tests, and what a test needs before it may run.

Tests marked `lab` need root and Open vSwitch, tests marked `e2e` libvirt and QEMU as well. Where that is missing they
are skipped with the reason; with CI=true they fail instead, so that a green run means that they ran.

A bare lab is up in a fifth of a second, so each test gets its own; heavier ones are shared, and their tests clean up
after themselves.

Tests of the data plane run on both of Open vSwitch's datapaths: here in user space, by `make test-kernel` in the kernel
of a machine of its own. Those are what is marked `datapath`, and all that use the fixture `fabric`. Such a test names
no datapath: a bridge it makes by hand gets `datapath_type={lab.datapath}`; frames go in and out by `fabric.say` and
`fabric.hear`, or by sockets in endpoints. Where the two must differ, `lab.datapath` or `switch.datapath` ("system" is
the kernel) tells which it is; what can't run on one skips there with the reason.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.dealing import Dealing, longest_first

if TYPE_CHECKING:
    from scripts.labkit import Lab
    from scripts.labkit.guest import GuestImage

_TOOLS = {
    "lab": ("ovsdb-server", "ovs-vswitchd", "ovs-vsctl", "ovs-ofctl", "unshare", "nsenter", "setpriv", "ip", "ethtool"),
    "e2e": ("libvirtd", "virsh", "qemu-system-x86_64", "busybox", "apt-get", "depmod"),
}
_PATIENCE = pytest.MonkeyPatch()


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as `datapath` what sends frames through a fabric.

    In CI, run a test on real daemons once more when it fails: a machine that others load may miss a deadline once.

    The second time each deadline is three times as long, and a failure is a failure. Every rerun is named in the
    report, so that a test that needs it is seen.

    Where several workers share the run, long files begin first.
    """
    for item in items:
        if "fabric" in getattr(item, "fixturenames", ()):
            item.add_marker("datapath")
    if os.environ.get("CI") == "true":
        for item in items:
            if item.get_closest_marker("lab") or item.get_closest_marker("e2e"):
                item.add_marker(pytest.mark.flaky(reruns=1, reruns_delay=2))
    if "PYTEST_XDIST_WORKER" in os.environ:
        files = dict.fromkeys(item.nodeid.partition("::")[0] for item in items)
        places = {file: place for place, file in enumerate(longest_first(files))}
        items.sort(key=lambda item: places[item.nodeid.partition("::")[0]])


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Dealing | None:
    """With `--dist loadfile`, how `tests.support.dealing` says."""
    if config.getoption("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False
    return Dealing(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why the first run of a test failed that was run once more: it may have been no deadline."""
    for report in terminalreporter.stats.get("rerun", ()):
        terminalreporter.section(f"first run of {report.nodeid}", "_")
        terminalreporter.line(report.longreprtext)
        for title, text in report.sections:
            terminalreporter.section(title, "-")
            terminalreporter.line(text)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or in CI fail, a test whose surroundings are missing; have patience with one that is run once more."""
    _PATIENCE.undo()
    if getattr(item, "execution_count", 1) > 1:
        _PATIENCE.setenv("OPLAB_PATIENCE", "3")
    wanted = [mark for mark in _TOOLS if item.get_closest_marker(mark)]
    if wanted and (problem := _problem(wanted)):
        if os.environ.get("CI") == "true":
            pytest.fail(f"in CI this test must run, but {problem}", pytrace=False)
        pytest.skip(problem)


def _problem(marks: list[str]) -> str:
    """What keeps tests with these *marks* from running; empty when nothing does."""
    if os.geteuid() != 0:
        return "a lab needs root: it makes network namespaces"
    wanted = [tool for mark in _TOOLS if mark in marks or "e2e" in marks for tool in _TOOLS[mark]]
    absent = [tool for tool in wanted if shutil.which(tool) is None]
    return f"{', '.join(absent)} not found; `make setup` installs what is missing" if absent else ""


@pytest.fixture
def make_lab() -> Iterator[Callable[..., Lab]]:
    """Makes labs that end with the test: `make_lab(hosts=3, with_libvirt=False, …)`, as `Lab(…)`."""
    from scripts.labkit import Lab

    made: list[Lab] = []

    def make(**options: Any) -> Lab:
        lab = Lab(**options)
        made.append(lab)
        return lab.up(owned=True)

    yield make
    for lab in made:
        lab.down()


@pytest.fixture
def bare_lab(make_lab: Callable[..., Lab]) -> Lab:
    """Two hosts with Open vSwitch and nothing else, for this test alone."""
    return make_lab(hosts=2, with_manager=False, with_agents=False, with_libvirt=False)


@pytest.fixture(scope="module")
def libvirt_lab() -> Iterator[Lab]:
    """Two hosts with Open vSwitch and libvirt, without agents, shared by a module."""
    from scripts.labkit import Lab

    with Lab(hosts=2, with_manager=False, with_agents=False) as lab:
        yield lab


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Three whole hosts, netmgr and vmctl, shared by the session; no zones yet. Leave it as you found it."""
    from scripts.labkit import Lab

    with Lab(hosts=3) as whole:
        yield whole


@pytest.fixture(scope="session")
def guest_image() -> GuestImage:
    """Kernel and initramfs of the lab's guest."""
    from scripts.labkit import guest

    return guest.build()

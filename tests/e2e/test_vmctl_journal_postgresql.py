"""vmctl with its store on PostgreSQL, on whole hosts: killed at each step of its journal."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.postgresql import postgresql_cluster
from tests.support.vmctl_lab import MANAGER, until
from tests.support.vmctl_site import STEPS, Site, kill_at_and_start_again

if TYPE_CHECKING:
    from scripts.labkit import Lab
    from scripts.labkit.guest import GuestImage

pytestmark = pytest.mark.e2e

SOCKET = "/run/postgresql-vmctl.sock"


class OnPostgresql(Site):
    """A vmctl beside the lab's own, which knows nothing of its VM's moves but what libvirt shows."""

    asking = ("vmctl", "--socket", SOCKET)

    def __init__(self, lab: Lab, vm: str, *, store: str) -> None:
        super().__init__(lab, vm, store=store)
        identity = ["--identity", "/var/lib/vmctl/identity", "--virt", "qemu"]
        self._serve = [*self.asking, "serve", "--state-dir", "/run/postgresql-vmctl", "--store", store, *identity]
        self._daemon: Any = None

    def start(self) -> None:
        if self._daemon is not None:
            self._daemon.wait(timeout=10)
        self._daemon = self.lab.popen(MANAGER, self._serve, stderr=subprocess.DEVNULL)
        until(lambda: self.lab.exec(MANAGER, [*self.asking, "status"], check=False).returncode == 0)

    def killer(self) -> Callable[[], object]:
        return partial(self._daemon.send_signal, signal.SIGKILL)

    def close(self) -> None:
        self.killer()()
        self._daemon.wait(timeout=10)


@pytest.fixture(scope="module")
def site(lab: Lab, guest_image: GuestImage) -> Iterator[Site]:
    with postgresql_cluster() as make_database:
        made = OnPostgresql(lab, "mover-pg", store=make_database())
        made.start()
        for host in (shown["host"] for shown in Site(lab, "").json("host", "list")):
            known = ["--libvirt", host["libvirt_uri"], "--agent", host["agent_address"], "--host-uuid", host["uuid"]]
            made.vmctl("host", "add", host["name"], *known)
        with made.with_vm(guest_image):
            yield made
        made.close()


@pytest.mark.parametrize("state", STEPS)
def test_vmctl_killed_at_any_step_finds_the_vm_on_one_host_and_closes_the_row(site: Site, state: str) -> None:
    kill_at_and_start_again(site, state)
    site.where()

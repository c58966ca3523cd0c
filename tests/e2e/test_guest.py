"""The lab's guest boots, answers over its console and over the network, and moves between the lab's hosts."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from scripts.labkit import Lab, LabError
from scripts.labkit.domain import domain_xml
from scripts.labkit.guest import GuestImage

pytestmark = pytest.mark.e2e

NETWORK = (
    "<network><name>plain</name><forward mode='bridge'/><bridge name='br0'/><virtualport type='openvswitch'/></network>"
)
VIFS = {"g1": "6d1c4d34-98c8-4d0c-9a10-000000000001", "g2": "6d1c4d34-98c8-4d0c-9a10-000000000002"}


@pytest.fixture(scope="module")
def guests(libvirt_lab: Lab, guest_image: GuestImage) -> Iterator[Lab]:
    """A lab with one plain layer 2 over both hosts, g1 on h1 and g2 on h2."""
    bridge = ["--", "set", "Bridge", "br0", f"datapath_type={libvirt_lab.datapath}", "--", "add-port", "br0", "pnic0"]
    for number, (host, name) in enumerate(zip(libvirt_lab.hosts, VIFS, strict=True), start=1):
        libvirt_lab.exec(host, ["ovs-vsctl", "--timeout=10", "add-br", "br0", *bridge])
        libvirt_lab.exec(host, ["virsh", "net-create", "/dev/stdin"], input=NETWORK)
        words = f"ip=192.0.2.{number}/24,fd00:2::{number}/64 host={name}"
        xml = domain_xml(name=name, image=guest_image, words=words, network="plain", vif_uuid=VIFS[name])
        libvirt_lab.exec(host, ["virsh", "create", "/dev/stdin"], input=xml)
    yield libvirt_lab
    for name in VIFS:
        for host in libvirt_lab.hosts:
            libvirt_lab.exec(host, ["virsh", "destroy", name], check=False)


def test_a_guest_boots_and_answers_over_its_console(guests: Lab) -> None:
    answer = guests.guest("g1", ["sh", "-c", "hostname; echo to-stderr >&2; exit 3"])
    assert (answer.returncode, answer.stdout) == (3, "g1\nto-stderr\n")
    long = "x" * 3000
    assert guests.guest("g1", ["echo", "-n", long, "it's $HOME"]).stdout == f"{long} it's $HOME"


def test_guests_ping_and_move_a_file_by_tcp(guests: Lab) -> None:
    guests.guest("g2", ["true"])  # booted
    for address in ("192.0.2.2", "fd00:2::2"):
        answer = guests.guest("g1", ["ping", "-c", "3", "-W", "5", address])
        assert answer.returncode == 0, answer.stdout
    answer = guests.guest("g1", ["probe", "get", "192.0.2.2"])
    assert answer.stdout == "bytes=1048576 ok=yes\n"


def test_the_probe_in_a_guest_counts_what_it_loses(guests: Lab) -> None:
    seen = guests.guest("g1", ["probe", "ping", "192.0.2.2", "20", "20"]).stdout
    assert seen.startswith("sent=20 received=20 lost=0 duplicates=0 longest_gap_ms=")
    guests.guest("g1", ["probe", "start", "a", "ping", "192.0.2.99", "5", "20"])
    seen = guests.guest("g1", ["probe", "result", "a"]).stdout
    assert seen.startswith("sent=5 received=0 lost=5 duplicates=0")


def test_a_guest_moves_live_between_hosts_and_its_console_follows(guests: Lab) -> None:
    guests.guest("g1", ["true"])
    guests.attach("h2", "peer", bridge="br0", vif_uuid="peer", mac="02:00:00:00:00:09", addresses=["192.0.2.9/24"])
    ping = guests.start_ping("peer", "192.0.2.1")
    target = ["qemu+tcp://10.255.0.12/system", "--migrateuri", "tcp://10.255.0.12"]
    guests.exec("h1", ["virsh", "migrate", "--live", "g1", *target], timeout_s=60)
    time.sleep(1)
    seen = guests.stop_ping(ping)
    guests.detach("peer")
    assert seen["received"] > 100
    assert seen["gap_ms"] < 10_000
    assert guests.guest("g1", ["hostname"]).stdout == "g1\n"
    assert "g1" in guests.exec("h2", ["virsh", "list", "--name"]).stdout
    interface = guests.exec(
        "h2", ["ovs-vsctl", "--bare", "--columns=name", "find", "Interface", f"external_ids:iface-id={VIFS['g1']}"]
    )
    assert interface.stdout.strip()


def test_a_guest_that_runs_nowhere_is_said_so(guests: Lab) -> None:
    with pytest.raises(LabError, match="guest nobody runs on no host of this lab: none of h1, h2 knows it"):
        guests.guest("nobody", ["true"])


def test_the_power_button_ends_a_guest(guests: Lab) -> None:
    guests.guest("g2", ["true"])
    guests.exec("h2", ["virsh", "shutdown", "g2"])
    deadline = time.monotonic() + 15
    while "g2" in guests.exec("h2", ["virsh", "list", "--name"]).stdout:
        assert time.monotonic() < deadline, "the guest ignores its power button"
        time.sleep(0.2)

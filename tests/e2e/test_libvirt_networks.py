"""libvirt networks, hooks and migrations of the agent, with real libvirtds and guests."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from subprocess import CompletedProcess
from typing import Any
from uuid import uuid4

import pytest

from hostagent.model import DefineNetwork, KeepNetwork, LibvirtNetwork, RemoveNetwork
from hostagent.realize.errors import RealizeError
from hostagent.realize.libvirt_link import LibvirtLink
from hostagent.realize.libvirt_networks import LibvirtNetworks
from scripts.labkit import Lab, hypervisor
from scripts.labkit.domain import domain_xml
from scripts.labkit.guest import GuestImage
from tests.support.agent_words import agent_shows, agent_vifs
from tests.support.waiting import within

pytestmark = pytest.mark.e2e

BLUE = DefineNetwork(uuid=uuid4(), name="blue", bridge="osw-0123456789", mtu=1450)
KEEP_BLUE = KeepNetwork(uuid=BLUE.uuid, name="blue", bridge="osw-0123456789", mtu=1450)

# --- the module, against a libvirtd without an agent -----------------------------------------------------------------


def _with_libvirt(lab: Lab, test: Callable[[LibvirtNetworks], Awaitable[None]]) -> None:
    async def main() -> None:
        connected = asyncio.Event()
        link = LibvirtLink(hypervisor.local_uri(lab.node("h1")))
        networks = LibvirtNetworks(link, on_change=connected.set)
        link.start()
        try:
            await asyncio.wait_for(connected.wait(), 10)
            await test(networks)
        finally:
            await link.close()

    asyncio.run(main())


async def _find(networks: LibvirtNetworks, name: str) -> LibvirtNetwork | None:
    found = await networks.read(full=True)
    assert isinstance(found, tuple)
    return next((network for network in found if network.name == name), None)


def test_a_defined_network_is_read_back_as_wanted(libvirt_lab: Lab) -> None:
    async def test(networks: LibvirtNetworks) -> None:
        told = await networks.apply(BLUE)
        usable = LibvirtNetwork(
            uuid=BLUE.uuid,
            name="blue",
            bridge="osw-0123456789",
            mtu=1450,
            ours=True,
            active=True,
            autostart=False,
            persistent=False,
            as_defined=True,
        )
        assert await _find(networks, "blue") == told == usable
        told = await networks.apply(KEEP_BLUE)
        found = await _find(networks, "blue")
        assert found == told == replace(usable, autostart=True, persistent=True)
        for again in (BLUE, KEEP_BLUE):  # nothing changes
            await networks.apply(again)
            assert await _find(networks, "blue") == found
        await networks.apply(RemoveNetwork(uuid=BLUE.uuid))
        assert await _find(networks, "blue") is None
        await networks.apply(RemoveNetwork(uuid=BLUE.uuid))  # gone already

    _with_libvirt(libvirt_lab, test)


def test_a_changed_definition_replaces_the_old_one_live_too(libvirt_lab: Lab) -> None:
    async def test(networks: LibvirtNetworks) -> None:
        await networks.apply(BLUE)
        await networks.apply(replace(BLUE, bridge="osw-ffffffffff", mtu=9000))
        found = await _find(networks, "blue")
        assert found is not None
        assert (found.bridge, found.mtu, found.active, found.as_defined) == ("osw-ffffffffff", 9000, True, True)
        await networks.apply(replace(BLUE, name="navy"))
        renamed = await _find(networks, "navy")
        assert renamed is not None
        assert renamed.uuid == BLUE.uuid
        await networks.apply(RemoveNetwork(uuid=BLUE.uuid))

    _with_libvirt(libvirt_lab, test)


def test_a_network_of_somebody_else_is_left_alone_and_named(libvirt_lab: Lab) -> None:
    async def test(networks: LibvirtNetworks) -> None:
        libvirt_lab.exec("h1", [*VIRSH, "net-define", "/dev/stdin"], input=THEIRS)
        theirs = await _find(networks, "theirs")
        assert theirs is not None
        assert not theirs.ours
        with pytest.raises(RealizeError, match="made by somebody else"):
            await networks.apply(replace(BLUE, uuid=theirs.uuid))
        with pytest.raises(RealizeError, match="made by somebody else"):
            await networks.apply(replace(KEEP_BLUE, uuid=theirs.uuid))
        with pytest.raises(RealizeError, match="is not ours"):
            await networks.apply(RemoveNetwork(uuid=theirs.uuid))
        with pytest.raises(RealizeError, match="already exists"):
            await networks.apply(replace(BLUE, name="theirs"))
        assert await _find(networks, "theirs") == theirs

    _with_libvirt(libvirt_lab, test)


# --- the agent --------------------------------------------------------------------------------------------------------

VIRSH = ["virsh", "-c", "qemu:///system"]
THEIRS = "<network><name>theirs</name><bridge name='virbr7'/></network>"
VIFS = {"vm1": str(uuid4()), "vm2": str(uuid4())}
MACS = {"vm1": "52:54:00:00:01:01", "vm2": "52:54:00:00:01:02"}
APPLY = """
switches: [{name: sw-a, zones: [a], pnic_globs: ["pnic*"], mtu: 1650, vtep_pool: 10.200.0.0/24}]
networks: [{name: blue, type: vxlan, zone: a, mtu: 1450}]
"""


@pytest.fixture(scope="module")
def agents(guest_image: GuestImage) -> Iterator[Lab]:
    """Two hosts in zone a with agents and libvirt, the network `blue`, and vm1 and vm2 defined on both."""
    with Lab(hosts=2, with_vmctl=False, zones={"h1": "a", "h2": "a"}) as lab:
        lab.exec("mgr", ["netmgr", "apply", "-f", "/dev/stdin", "--wait", "realized"], input=APPLY)
        for vm in VIFS:
            words = f"ip=10.10.0.{vm[-1]}/24 host={vm}"
            xml = domain_xml(
                name=vm, image=guest_image, words=words, network="blue", vif_uuid=VIFS[vm], mac=MACS[vm]
            ).replace("<name>", f"<uuid>{uuid4()}</uuid><name>", 1)
            for host in lab.hosts:
                lab.exec(host, [*VIRSH, "define", "/dev/stdin"], input=xml)
        yield lab


def _virsh(lab: Lab, host: str, *command: str) -> CompletedProcess[str]:
    return lab.exec(host, [*VIRSH, *command], check=False)


def _port(lab: Lab, vm: str) -> dict[str, Any]:
    ports = json.loads(lab.exec("mgr", ["netmgr", "port", "list", "-o", "json"]).stdout)
    return next((port for port in ports if port["vif_uuid"] == VIFS[vm]), {})


def _vif(lab: Lab, host: str, vm: str) -> dict[str, Any]:
    vifs = agent_vifs(lab, host)
    return next((vif for vif in vifs if vif["vif"] == VIFS[vm]), {})


def _stopped(lab: Lab, vm: str) -> None:
    for host in lab.hosts:
        _virsh(lab, host, "destroy", vm)
    assert within(10, lambda: _port(lab, vm).get("parked", True))


@pytest.mark.parametrize(
    "drift",
    [
        ("net-destroy blue",),
        ("net-undefine blue",),
        ("net-destroy blue", "net-undefine blue"),
        ("net-define /dev/stdin",),
        ("net-destroy blue", "net-define /dev/stdin", "net-start blue"),
    ],
    ids="; ".join,
)
def test_what_somebody_does_to_our_network_is_put_back_within_two_seconds(agents: Lab, drift: tuple[str, ...]) -> None:
    wanted = agents.exec("h1", [*VIRSH, "net-dumpxml", "blue"]).stdout
    edited = re.sub("<metadata>.*</metadata>", "<portgroup name='x'/>", wanted, flags=re.DOTALL)
    assert edited != wanted
    # What is told is what changed while nothing was left to do.
    assert within(5, lambda: agents.exec("h1", ["hostagent", "verify"], check=False).returncode == 0)
    for command in drift:  # the agent may be faster than the next of them
        agents.exec("h1", [*VIRSH, *command.split()], input=edited, check=False)

    def mended() -> bool:
        live = _virsh(agents, "h1", "net-dumpxml", "blue").stdout
        kept = _virsh(agents, "h1", "net-dumpxml", "--inactive", "blue").stdout
        return live == kept == wanted and "blue" in _virsh(agents, "h1", "net-list", "--autostart").stdout

    assert within(2, mended)
    repairs = agent_shows(agents, "h1")["repairs"]
    assert re.fullmatch("libvirt network blue was (undefined|stopped|edited)", repairs[0]["what"])


def test_a_foreign_network_of_the_same_name_is_left_alone_and_rejected_with_its_name(agents: Lab) -> None:
    theirs = "<network><name>red</name><bridge name='virbr9'/></network>"
    agents.exec("h1", [*VIRSH, "net-define", "/dev/stdin"], input=theirs)
    before = _virsh(agents, "h1", "net-dumpxml", "red").stdout
    agents.exec("mgr", ["netmgr", "network", "create", "red", "--zone", "a", "--mtu", "1450"])
    try:
        assert within(5, lambda: "red" in _virsh(agents, "h2", "net-list").stdout)

        def rejected() -> bool:
            networks = agent_shows(agents, "h1")["networks"]
            return any(n["name"] == "red" and n["status"] != "up" and n["reasons"] for n in networks)

        assert within(5, rejected)
        assert _virsh(agents, "h1", "net-dumpxml", "red").stdout == before
    finally:
        agents.exec("mgr", ["netmgr", "network", "delete", "red"])
        _virsh(agents, "h1", "net-undefine", "red")
    assert within(5, lambda: "red" not in _virsh(agents, "h2", "net-list", "--all").stdout)


@pytest.fixture(autouse=True)
def nothing_runs(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that failed leaves no guest to the next."""
    yield
    if "agents" in request.fixturenames:
        lab: Lab = request.getfixturevalue("agents")
        for host in lab.hosts:
            for vm in _virsh(lab, host, "list", "--name").stdout.split():
                _virsh(lab, host, "destroy", vm)


def test_a_guest_starts_lit_talks_and_leaves_its_port_parked(agents: Lab) -> None:
    for host, vm in (("h1", "vm1"), ("h2", "vm2")):
        assert _virsh(agents, host, "start", vm).returncode == 0
    assert within(5, lambda: _vif(agents, "h1", "vm1").get("state") == "lit")
    assert _vif(agents, "h1", "vm1")["vm"] == "vm1"
    ping = ["ping", "-c", "1", "-W", "1", "10.10.0.1"]
    assert within(40, lambda: agents.guest("vm2", ping).returncode == 0)
    for vm in VIFS:
        _stopped(agents, vm)
    assert _port(agents, "vm1")["host"] == "h1"


def test_a_vif_that_runs_elsewhere_is_refused_in_libvirts_words(agents: Lab) -> None:
    assert _virsh(agents, "h1", "start", "vm1").returncode == 0
    try:
        refused = _virsh(agents, "h2", "start", "vm1")
        assert refused.returncode != 0
        assert "held by host h1" in refused.stderr
        assert _port(agents, "vm1")["host"] == "h1"
    finally:
        _stopped(agents, "vm1")


def test_without_the_agent_a_guest_on_our_network_does_not_start(agents: Lab) -> None:
    agents.stop_daemon("h1", "hostagent")
    try:
        refused = _virsh(agents, "h1", "start", "vm1")
        assert refused.returncode != 0
        assert "systemctl start hostagent" in refused.stderr
    finally:
        agents.start_daemon("h1", "hostagent")


def test_without_the_manager_a_guest_starts_on_its_recorded_holder_only(agents: Lab) -> None:
    assert _virsh(agents, "h1", "start", "vm1").returncode == 0
    _stopped(agents, "vm1")
    agents.stop_daemon("mgr", "netmgr")
    try:
        refused = _virsh(agents, "h2", "start", "vm1")
        assert refused.returncode != 0
        assert "not the recorded holder" in refused.stderr
        assert _virsh(agents, "h1", "start", "vm1").returncode == 0
        assert within(5, lambda: _vif(agents, "h1", "vm1").get("state") == "lit")
    finally:
        agents.start_daemon("mgr", "netmgr")
    assert within(15, lambda: _port(agents, "vm1").get("parked") is False)
    _stopped(agents, "vm1")


def test_a_tap_taken_out_of_ovs_by_hand_is_put_back(agents: Lab) -> None:
    assert _virsh(agents, "h1", "start", "vm1").returncode == 0
    try:
        assert within(5, lambda: _vif(agents, "h1", "vm1").get("state") == "lit")
        tap = _vif(agents, "h1", "vm1")["ovs_port"]
        agents.exec("h1", ["ovs-vsctl", "del-port", tap])
        assert within(2, lambda: _vif(agents, "h1", "vm1").get("state") == "lit")
        assert _port(agents, "vm1")["parked"] is False
    finally:
        _stopped(agents, "vm1")


def test_plain_virsh_migrate_moves_the_port_there_and_straight_back(agents: Lab) -> None:
    assert _virsh(agents, "h1", "start", "vm1").returncode == 0
    try:
        time.sleep(3)  # a guest that boots dirties its memory faster than it can be copied
        for source, destination in (("h1", "h2"), ("h2", "h1")):
            address = agents.address(destination)
            moved = _virsh(
                agents,
                source,
                "migrate",
                "--live",
                "vm1",
                hypervisor.remote_uri(address),
                "--migrateuri",
                f"tcp://{address}",
            )
            assert moved.returncode == 0, moved.stderr
            arrived = within(5, lambda at=destination: _port(agents, "vm1")["host"] == at)  # type: ignore[misc]
            assert arrived
            assert _port(agents, "vm1")["incoming_host"] is None
            assert _vif(agents, destination, "vm1")["state"] == "lit"
            assert within(5, lambda at=source: not _vif(agents, at, "vm1"))  # type: ignore[misc]
        time.sleep(2)  # nobody claims it back once the tap of the source is gone
        assert _port(agents, "vm1")["host"] == "h1"
    finally:
        _stopped(agents, "vm1")


def test_a_failed_migration_leaves_the_port_where_it_was(agents: Lab) -> None:
    assert _virsh(agents, "h1", "start", "vm1").returncode == 0
    try:
        time.sleep(2)
        address = agents.address("h2")
        command = [*VIRSH, "migrate", "--live", "--bandwidth", "1", "vm1"]
        command += [hypervisor.remote_uri(address), "--migrateuri", f"tcp://{address}"]
        migration = agents.popen("h1", command)
        assert within(10, lambda: _port(agents, "vm1")["incoming_host"] == "h2")
        assert _virsh(agents, "h1", "domjobabort", "vm1").returncode == 0
        assert migration.wait(timeout=30) != 0
        assert within(10, lambda: _port(agents, "vm1")["incoming_host"] is None)
        assert _port(agents, "vm1")["host"] == "h1"
        assert _vif(agents, "h1", "vm1")["state"] == "lit"
    finally:
        _stopped(agents, "vm1")

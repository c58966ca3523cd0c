"""Traditional switches beside opaque networks, on whole hosts: VMs with NICs of both kinds, and local changes put back.

h1 and h2 carry the opaque network blue (examples/two-zones.yaml) and the switches of examples/traditional-switch.sh:
office over an Open vSwitch bridge of the operator's with a NIC in it, and cage, isolated. h3 has none of them.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from tests.support.vmctl_lab import EXAMPLE, MANAGER, ask, carried, network_uuid, until, vmctl

if TYPE_CHECKING:
    from scripts.labkit import Lab
    from scripts.labkit.guest import GuestImage

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

SWITCHES = EXAMPLE.with_name("traditional-switch.sh")
FOREIGN = "<network><name>foreign</name><bridge name='virbr7' stp='on' delay='0'/></network>"

# name: home, NICs in the guest's order, words for the guest
VMS = {
    "both": ("h1", ("--network", "blue", "--portgroup", "office/lan"), "ip=10.10.0.21/24 ip1=10.40.0.21/24"),
    "mine": (
        "h1",
        ("--portgroup", "office/lan", "--portgroup", "cage/in", "--portgroup", "metal/lan"),
        "ip=10.40.0.22/24 ip1=10.41.0.22/24 ip2=10.42.0.22/24",
    ),
    "theirs": ("h1", ("--network", "blue"), "ip=10.10.0.23/24"),
    "peer": ("h2", ("--network", "blue", "--portgroup", "office/lan"), "ip=10.10.0.24/24 ip1=10.40.0.24/24"),
}


def virsh(lab: Lab, host: str, *command: str) -> str:
    return lab.exec(host, ["virsh", *command]).stdout


def wire(lab: Lab) -> None:
    """A NIC lan0 on h1 and on h2, joined by a cable."""
    ends = []
    for host in ("h1", "h2"):
        init = lab.node(host).init
        assert init is not None
        ends.append(str(init.pid))
    cable = ["ip", "link", "add", "lan0", "netns", ends[0], "type", "veth", "peer", "name", "lan0", "netns", ends[1]]
    subprocess.run(cable, check=True)


@pytest.fixture(scope="module")
def rack(lab: Lab, guest_image: GuestImage) -> Iterator[Lab]:
    """The switches on h1 and h2, and the VMs running."""
    from scripts.labkit.guest import COMMAND_LINE

    lab.exec(MANAGER, ["netmgr", "apply", "-f", str(EXAMPLE), "--wait", "realized"])
    until(lambda: carried(lab, blue=["h1", "h2"]))
    for host in ("h1", "h2"):
        lab.exec(
            host, ["ovs-vsctl", "add-br", "br-lan", "--", "set", "bridge", "br-lan", f"datapath_type={lab.datapath}"]
        )
        lab.exec(host, ["ip", "link", "set", "br-lan", "up"])
    wire(lab)
    for host in ("h1", "h2"):
        lab.exec(host, ["ip", "link", "set", "lan0", "up"])
        lab.exec(host, ["ovs-vsctl", "add-port", "br-lan", "lan0"])
    lab.exec(MANAGER, [str(SWITCHES)])
    lab.exec("h1", ["ip", "link", "add", "lan1", "type", "veth", "peer", "name", "wall"])
    lab.exec("h1", ["ip", "link", "set", "lan1", "up"])
    lab.exec("h1", ["ip", "link", "set", "wall", "up"])
    lab.exec("h1", ["ip", "address", "add", "10.42.0.1/24", "dev", "wall"])
    vmctl(lab, "switch", "create", "metal", "--hosts", "h1", "--nic", "lan1")
    vmctl(lab, "portgroup", "create", "metal/lan")
    for name, (host, nics, words) in VMS.items():
        boot = ["--kernel", str(guest_image.kernel), "--initrd", str(guest_image.initrd)]
        line = f"{COMMAND_LINE} host={name} {words}"
        vmctl(lab, "vm", "define", name, "--host", host, "--memory", "128", *nics, *boot, "--cmdline", line)
        vmctl(lab, "vm", "start", name)
    yield lab
    for name in VMS:
        vmctl(lab, "vm", "stop", name, "--force")
        vmctl(lab, "vm", "undefine", name)
    for switch in ("office", "cage", "metal"):
        vmctl(lab, "switch", "delete", switch)
    for host in ("h1", "h2"):
        names = virsh(lab, host, "net-list", "--all", "--name").split()
        assert {"office", "cage", "metal"}.isdisjoint(names)
        lab.exec(host, ["ovs-vsctl", "del-br", "br-lan"])
    for end in ("lan0", "lan1"):
        lab.exec("h1", ["ip", "link", "del", end])


def reaches(lab: Lab, vm: str, address: str) -> bool:
    return lab.guest(vm, ["ping", "-c", "1", "-W", "1", address]).returncode == 0


def pings(lab: Lab, node: str, address: str) -> bool:
    return lab.exec(node, ["ping", "-c", "1", "-W", "1", address], check=False).returncode == 0


def drifts(lab: Lab, switch: str) -> list[str]:
    return [drift["sentence"] for drift in ask(lab, "switch", "show", switch)["drifts"]]


def tap(lab: Lab, host: str, vm: str, network: str) -> str:
    line = next(line for line in virsh(lab, host, "domiflist", vm).splitlines() if f" {network} " in line)
    return line.split()[0]


def test_vm_with_both_kinds_of_nic_reaches_peers_on_both(rack: Lab) -> None:
    for address in ("10.10.0.24", "10.40.0.24", "10.10.0.23", "10.40.0.22"):  # on h2, then beside it on h1
        until(lambda address=address: reaches(rack, "both", address), within_s=60)
    for address in ("10.10.0.24", "10.40.0.24"):  # TCP, which offloads would break on these datapaths
        assert rack.guest("both", ["wget", "-q", "-O", "/dev/null", f"http://{address}/file"]).returncode == 0


def test_nic_of_a_host_is_an_uplink_by_itself(rack: Lab) -> None:
    until(lambda: pings(rack, "h1", "10.42.0.22"), within_s=60)
    assert [h["state"] for h in ask(rack, "switch", "show", "metal")["hosts"]] == ["realized"]


def test_list_shows_both_kinds_side_by_side(rack: Lab) -> None:
    lines = {line.split()[0]: line for line in vmctl(rack, "vm", "list", "-o", "wide").splitlines()}
    assert re.search(r"blue,office/lan .*opaque,traditional", lines["both"])
    assert re.search(r"office/lan,cage/in,metal/lan .*traditional,traditional,traditional", lines["mine"])
    assert re.search(r"blue .*opaque", lines["theirs"])
    vifs = ask(rack, "vm", "show", "mine")["vifs"]
    assert [(vif["portgroup"], vif["opaque"]) for vif in vifs] == [("lan", False), ("in", False), ("lan", False)]
    assert all(vif["uuid"] for vif in vifs)
    assert "mtu 1400" in rack.exec("h1", ["ip", "link", "show", tap(rack, "h1", "both", "office")]).stdout


def test_vlan_keeps_port_groups_apart_and_running_nics_follow_it(rack: Lab) -> None:
    rack.attach(
        "h2", "stray", bridge="br-lan", vif_uuid=str(uuid4()), mac="02:00:00:00:40:30", addresses=["10.40.0.30/24"]
    )

    def retag(vlan: int) -> None:
        rack.exec("h2", ["ovs-vsctl", "set", "port", "ep-stray", f"tag={vlan}"])

    try:
        retag(30)
        assert not pings(rack, "stray", "10.40.0.21")
        retag(20)
        until(lambda: pings(rack, "stray", "10.40.0.21"))
        vmctl(rack, "portgroup", "set", "office/lan", "--vlan", "30")
        assert not pings(rack, "stray", "10.40.0.21")
        retag(30)
        until(lambda: pings(rack, "stray", "10.40.0.21"))
        assert reaches(rack, "both", "10.40.0.24")
    finally:
        vmctl(rack, "portgroup", "set", "office/lan", "--vlan", "20")
        rack.detach("stray")
    assert drifts(rack, "office") == []


def test_limits_come_and_go_with_running_nics(rack: Lab) -> None:
    device = tap(rack, "h1", "both", "office")
    fetch = ["sh", "-c", "time -p wget -q -O /dev/null http://10.40.0.24/file"]  # 1 MiB
    try:
        vmctl(rack, "portgroup", "set", "office/lan", "--limit-in", "512,burst=128")
        done = rack.guest("both", fetch)
        took = re.search(r"real +([0-9.]+)", done.stdout + done.stderr)
        assert took, done
        assert float(took[1]) > 1.5, "1024 KiB, of them 128 at once, at 512 KiB/s"
    finally:
        vmctl(rack, "portgroup", "set", "office/lan", "--limit-in", "none")
    assert rack.exec("h1", ["ovs-vsctl", "get", "port", device, "qos"]).stdout.strip() == "[]"
    assert reaches(rack, "both", "10.40.0.24")


def test_limit_that_would_be_none_is_refused_and_nothing_is_changed(rack: Lab) -> None:
    before = ask(rack, "portgroup", "list")
    said = vmctl(rack, "portgroup", "set", "office/lan", "--limit-out", "500", code=1)
    assert "port group office/lan: the bridge of office forwards in user space" in said
    # whether a host's kernel has what libvirt needs is the host's to say
    for option, module in (("--limit-in", "sch_sfq"), ("--limit-out", "act_police")):
        able = limits(rack, "h1", option)
        said = vmctl(rack, "portgroup", "create", "cage/slow", option, "1000", code=0 if able else 1)
        assert able or f"its kernel lacks {module}, with which libvirt limits traffic" in said
        if able:
            vmctl(rack, "portgroup", "delete", "cage/slow")
    assert ask(rack, "portgroup", "list") == before
    assert all(not name.startswith("tsw-") for name in virsh(rack, "h1", "net-list", "--all", "--name").split())


def limits(lab: Lab, host: str, option: str) -> bool:
    """Whether the host's kernel takes what libvirt gives it for such a limit, tried without libvirt."""
    device = ["dev", "lo", "parent", "1:1", "handle", "2:"]
    commands = {
        "--limit-in": [["qdisc", "add", "dev", "lo", "root", "handle", "1:", "htb", "default", "1"],
                       ["class", "add", "dev", "lo", "parent", "1:", "classid", "1:1", "htb", "rate", "1mbps"],
                       ["qdisc", "add", *device, "sfq", "perturb", "10"]],
        "--limit-out": [["qdisc", "add", "dev", "lo", "ingress"],
                        ["filter", "add", "dev", "lo", "parent", "ffff:", "protocol", "all", "u32", "match", "u32",
                         "0", "0", "police", "rate", "1mbps", "burst", "64kb", "drop", "flowid", ":1"]],
    }  # fmt: skip
    try:
        return all(lab.exec(host, ["tc", *each], check=False).returncode == 0 for each in commands[option])
    finally:
        for kind in ("root", "ingress"):
            lab.exec(host, ["tc", "qdisc", "del", "dev", "lo", kind], check=False)


def test_local_changes_are_put_back_reported_and_foreign_networks_left_alone(rack: Lab) -> None:
    rack.exec("h1", ["virsh", "net-define", "/dev/stdin"], input=FOREIGN)
    foreign = virsh(rack, "h1", "net-dumpxml", "foreign")
    before = virsh(rack, "h1", "net-dumpxml", "--inactive", "office")
    count = len(drifts(rack, "office"))
    try:
        virsh(rack, "h1", "net-destroy", "office")
        virsh(rack, "h1", "net-undefine", "office")
        until(lambda: "office" in virsh(rack, "h1", "net-list", "--name").split(), within_s=5)
        until(lambda: len(drifts(rack, "office")) > count, within_s=5)
        assert virsh(rack, "h1", "net-dumpxml", "--inactive", "office") == before
        assert reaches(rack, "both", "10.40.0.24")

        edited = before.replace("id='20'", "id='99'").replace("urn:vmctl:1", "urn:nobody:1")
        assert edited != before
        rack.exec("h1", ["virsh", "net-define", "/dev/stdin"], input=edited)
        until(lambda: virsh(rack, "h1", "net-dumpxml", "--inactive", "office") == before, within_s=5)
        until(lambda: "99" in drifts(rack, "office")[0], within_s=5)
        assert virsh(rack, "h1", "net-dumpxml", "foreign") == foreign

        virsh(rack, "h1", "net-update", "office", "add", "portgroup", "<portgroup name='spy'/>", "--live", "--config")
        until(lambda: "portgroup spy" in drifts(rack, "office")[0], within_s=10)  # no event tells of it
        assert "spy" not in virsh(rack, "h1", "net-dumpxml", "office")
        assert virsh(rack, "h1", "net-dumpxml", "--inactive", "office") == before
    finally:
        virsh(rack, "h1", "net-undefine", "foreign")


def test_guest_is_back_on_an_isolated_switch_that_was_stopped_under_it(rack: Lab) -> None:
    bridge = "tsw-" + ask(rack, "switch", "show", "cage")["switch"]["uuid"].replace("-", "")[:10]
    join = ["ip", "address", "add", "10.41.0.1/24", "dev", bridge]
    rack.exec("h1", join)
    until(lambda: pings(rack, "h1", "10.41.0.22"))
    virsh(rack, "h1", "net-destroy", "cage")
    until(lambda: any("had lost the switch's bridge" in s for s in drifts(rack, "cage")), within_s=10)
    rack.exec("h1", join)
    until(lambda: pings(rack, "h1", "10.41.0.22"), within_s=10)


def test_opaque_constructs_are_refused_to_every_verb_that_writes(rack: Lab) -> None:
    blue = network_uuid(rack, "blue")
    before = virsh(rack, "h1", "net-dumpxml", "blue")
    for command in (
        ("switch", "delete", "blue"),
        ("switch", "delete", blue),
        ("switch", "set", "blue", "--hosts", "h1"),
        ("switch", "create", "blue", "--hosts", "h1"),
        ("switch", "create", "blue", "--hosts", "h3"),
        ("switch", "create", "red", "--hosts", "h1", "--uuid", blue),
        ("switch", "delete", "sw-a"),
        ("portgroup", "create", "blue/lan"),
        ("portgroup", "delete", "blue/lan"),
    ):
        assert "is opaque: it belongs to the network manager" in vmctl(rack, *command, code=2), command
    assert virsh(rack, "h1", "net-dumpxml", "blue") == before


def test_uplink_of_a_running_switch_changes_and_hosts_come_and_go(rack: Lab) -> None:
    vmctl(rack, "switch", "create", "spare", "--hosts", "h1,h2", "--bridge", "br-lan")
    try:
        vmctl(rack, "portgroup", "create", "spare/lan", "--vlan", "7")
        vmctl(rack, "switch", "set", "spare", "--bridge", "h1=br-other", "--hosts", "h1,h3")
        shown = ask(rack, "switch", "show", "spare")
        assert [(h["host"], h["device"]) for h in shown["switch"]["hosts"]] == [("h1", "br-other"), ("h3", "br-lan")]
        assert all(host["state"] == "realized" for host in shown["hosts"])
        assert "br-other" in virsh(rack, "h1", "net-dumpxml", "spare")
        assert "br-lan" in virsh(rack, "h3", "net-dumpxml", "spare")
        assert "spare" not in virsh(rack, "h2", "net-list", "--all", "--name").split()
        assert shown["drifts"] == []
        assert "host h3 carries switch spare" in vmctl(rack, "host", "remove", "h3", code=1)
    finally:
        vmctl(rack, "switch", "delete", "spare")
    assert "spare" not in virsh(rack, "h3", "net-list", "--all", "--name").split()


def test_name_of_a_network_of_others_is_refused(rack: Lab) -> None:
    rack.exec("h2", ["virsh", "net-define", "/dev/stdin"], input=FOREIGN)
    try:
        said = vmctl(rack, "switch", "create", "foreign", "--hosts", "h1,h2", code=1)
        assert "h2 has a libvirt network foreign" in said
        assert "foreign" not in virsh(rack, "h1", "net-list", "--all", "--name").split()
    finally:
        virsh(rack, "h2", "net-undefine", "foreign")


def test_what_is_in_use_is_not_taken_away(rack: Lab) -> None:
    assert "used by both, mine, peer" in vmctl(rack, "switch", "delete", "office", code=1)
    assert "used by both, mine, peer" in vmctl(rack, "portgroup", "delete", "office/lan", code=1)
    assert "cannot leave h2 while peer" in vmctl(rack, "switch", "set", "office", "--hosts", "h1", code=1)
    vmctl(rack, "portgroup", "delete", "office/guests")


def test_vm_moves_only_where_its_switch_is_and_keeps_both_networks(rack: Lab) -> None:
    why = json.loads(rack.exec(MANAGER, ["vmctl", "why-not", "both", "h3", "-o", "json"], check=False).stdout)
    assert {"network-absent", "switch-absent"} <= {refusal["code"] for refusal in why["refusals"]}
    assert "switch office (port group lan), which both has a NIC on, is not on h3" in vmctl(
        rack, "migrate", "both", "h3", code=2
    )
    assert "is isolated" in vmctl(rack, "migrate", "mine", "h2", code=2)
    vmctl(rack, "migrate", "both", "h2")
    assert "both" in virsh(rack, "h2", "list", "--name").split()
    for address in ("10.10.0.23", "10.40.0.22", "10.40.0.24"):
        until(lambda address=address: reaches(rack, "both", address))
    tag = rack.exec("h2", ["ovs-vsctl", "get", "port", tap(rack, "h2", "both", "office"), "tag"]).stdout
    assert tag.strip() == "20"
    vmctl(rack, "migrate", "both", "h1")

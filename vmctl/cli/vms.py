"""`vmctl vm`."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from vmctl.cli.client import call
from vmctl.cli.output import output_option, show, wide_output_option

__all__ = ["vm"]


class Pairs(click.ParamType[dict[str, str]]):
    """`FIRST[,key=value…]` with a closed list of keys, as a dict with FIRST under the name of the type."""

    def __init__(self, name: str, **keys: str) -> None:
        self.name = name
        self._keys = keys

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, str]:
        first, *rest = str(value).split(",")
        found = {self.name: first}
        for part in rest:
            key, equals, text = part.partition("=")
            if not equals or key not in self._keys:
                self.fail(f"{part!r}: one of {', '.join(f'{k}=' for k in self._keys)} is wanted", param, ctx)
            found[self._keys[key]] = text
        return found


@click.group()
def vm() -> None:
    """VMs: define, start, stop, look at."""


@vm.command()
@click.argument("name")
@click.option("--host", default="", help="Home of the VM; default: the best host that carries its networks.")
@click.option("--group", "groups", multiple=True, metavar="RULE", help="Keep it with the VMs of this rule.")
@click.option("--anti-group", "anti_groups", multiple=True, metavar="RULE", help="Keep it apart from those of this.")
@click.option(
    "--bandwidth", "bandwidth_mbps", default=0, metavar="MBIT/S", help="Reserve this on the PNICs of its switches."
)
@click.option("--disk-reserve", "disk_mib", default=0, metavar="MIB", help="Space to keep for it where it runs.")
@click.option(
    "--network",
    "vifs",
    multiple=True,
    type=Pairs("network", ip="ip", mac="mac", vif="vif_uuid"),
    metavar="NET[,ip=…][,mac=…][,vif=UUID]",
    help="A NIC on this opaque network, by name or UUID. ip is a note for people. Repeat for more NICs.",
)
@click.option(
    "--portgroup",
    "group_vifs",
    multiple=True,
    type=Pairs("portgroup", ip="ip", mac="mac", vif="vif_uuid"),
    metavar="SWITCH/PORTGROUP[,ip=…][,mac=…][,vif=UUID]",
    help="A NIC on this port group of a traditional switch; these NICs come after those of --network.",
)
@click.option("--memory", "memory_mib", default=512, show_default=True, metavar="MIB", help="Memory in MiB.")
@click.option("--vcpus", default=1, show_default=True, help="Virtual CPUs.")
@click.option(
    "--disk",
    "disks",
    multiple=True,
    type=Pairs("path", format="format"),
    metavar="PATH[,format=qcow2|raw]",
    help="Disk image on the host, shared by the hosts the VM may move to. Repeat for more.",
)
@click.option("--kernel", default="", metavar="PATH", help="Boot this kernel of the host instead of a disk.")
@click.option("--initrd", default="", metavar="PATH", help="With this initial RAM disk.")
@click.option("--cmdline", default="", metavar="TEXT", help="And this command line.")
@click.option(
    "--virt",
    type=click.Choice(["auto", "kvm", "qemu"]),
    default="auto",
    show_default=True,
    help="KVM, or QEMU's own emulation; auto leaves it to the daemon.",
)
@click.option(
    "--xml",
    "xml_file",
    type=click.File("r", encoding="utf-8"),
    help="Take this domain XML; NICs get their UUIDs, and those of --network are added.",
)
@output_option
def define(output: str, xml_file: Any, **body: Any) -> None:
    """Define the VM NAME on a host that carries its networks.

    Every NIC gets a VIF UUID of its own, which stays with it wherever the VM goes. A VM may have NICs of both kinds: on
    opaque networks (--network) and on port groups of traditional switches (--portgroup).

    \b
      vmctl vm define web --network blue,ip=10.10.0.11 --memory 1024 --disk /images/web.qcow2 --host h1
    """
    vifs = [*body["vifs"], *body.pop("group_vifs")]
    body |= {"vifs": vifs, "disks": list(body["disks"]), "xml": xml_file.read() if xml_file else ""}
    _show(call("POST", "/vms", body=body), output)


@vm.command()
@click.argument("name")
@click.option(
    "--host", default="", help="Start it here, which becomes its home; default: at home, or where it fares much better."
)
@output_option
def start(name: str, host: str, output: str) -> None:
    """Start a VM; one that runs is left alone."""
    _show(call("POST", f"/vms/{quote(name, safe='')}/start", body={"host": host}), output)


@vm.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Cut its power instead of asking the guest.")
@click.option("--wait", "wait_s", default=60.0, show_default=True, metavar="SECONDS", help="How long to wait for it.")
@output_option
def stop(name: str, force: bool, wait_s: float, output: str) -> None:
    """Shut a VM down and wait until it is off."""
    _show(call("POST", f"/vms/{quote(name, safe='')}/stop", body={"force": force, "wait_s": wait_s}), output)


@vm.command("list")
@wide_output_option
def list_vms(output: str) -> None:
    """List every VM on every host, also those that others have defined."""
    found = call("GET", "/vms")
    show(
        found,
        output,
        rows=found["vms"],
        columns=[
            ("NAME", lambda row: row["name"]),
            ("HOST", lambda row: row["host"]),
            ("STATE", lambda row: row["state"]),
            ("NETWORKS", lambda row: [_network(vif) for vif in row["vifs"] if vif["network_name"]]),
        ],
        wide=[
            ("UUID", lambda row: row["uuid"]),
            ("MEMORY MIB", lambda row: row["memory_mib"]),
            ("VCPUS", lambda row: row["vcpus"]),
            ("KINDS", lambda row: [_kind(vif) for vif in row["vifs"] if vif["network_name"]]),
            ("MACS", lambda row: [vif["mac"] for vif in row["vifs"]]),
            ("VIFS", lambda row: [vif["uuid"] or "-" for vif in row["vifs"]]),
            ("OURS", lambda row: row["ours"]),
        ],
    )
    for unread in found["unread"]:
        click.echo(f"{unread['host']} could not be asked: {unread['reason']}", err=True)


@vm.command("show")
@click.argument("name")
@output_option
def show_vm(name: str, output: str) -> None:
    """Show one VM, its host, and how each of its NICs fares."""
    _show(call("GET", f"/vms/{quote(name, safe='')}"), output)


@vm.command()
@click.argument("name")
def undefine(name: str) -> None:
    """Forget a VM that is off; its disks stay."""
    call("DELETE", f"/vms/{quote(name, safe='')}")
    click.echo(f"{name} undefined")


def _move(row: dict[str, Any]) -> str:
    times = [
        f"paused {row['downtime_ms']} ms" if row["downtime_ms"] is not None else "",
        f"gap {row['gap_ms']} ms" if row["gap_ms"] is not None else "",
    ]
    return ", ".join(filter(None, [f"{row['started_at']} to {row['destination']} {row['state']}", *times]))


def _network(vif: dict[str, Any]) -> str:
    return "/".join(filter(None, (vif["network_name"], vif["portgroup"])))


def _kind(vif: dict[str, Any]) -> str:
    if vif["opaque"]:
        return "opaque"
    return "traditional" if vif["portgroup"] else "local"


def _show(found: dict[str, Any], output: str) -> None:
    which = found["vm"]
    nics = [
        f"{vif['mac']} on {_network(vif | {'network_name': vif['network'] or 'no network'})}"
        + (f" ({vif['network_uuid']})" if vif["network_uuid"] else "")
        + f", VIF {vif['uuid'] or '-'}"
        + (f", {vif['state']}" if vif["state"] else "")
        + (f": {vif['reason']}" if vif["reason"] else "")
        for vif in found["vifs"]
    ]
    rows = [
        *((key, which[key]) for key in ("name", "uuid", "host", "state")),
        ("wanted", found["wanted"]),
        ("memory MiB", which["memory_mib"]),
        ("vcpus", which["vcpus"]),
        ("nics", nics),
        ("addresses", list(found["ips"])),
        ("defined by", "vmctl" if which["ours"] else "others"),
        ("moves", [_move(row) for row in found["moves"]]),
    ]
    show(found, output, rows=rows)

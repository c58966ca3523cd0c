"""`vmctl switch` and `vmctl portgroup`: traditional switches, which are vmctl's own."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import click

from vmctl.cli.client import call
from vmctl.cli.output import output_option, show, wide_output_option

__all__ = ["portgroup", "switch"]

HISTORY_SHOWN = 20


class Limit(click.ParamType[dict[str, int] | None]):
    """`AVERAGE[,peak=N][,burst=N]`, or `none`."""

    name = "limit"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, int] | None:
        if value is None or isinstance(value, dict) or value == "none":
            return None if value == "none" else value
        average, *rest = str(value).split(",")
        found = {"average_kib_s": self._number(average, param, ctx)}
        for part in rest:
            key, _, number = part.partition("=")
            field = {"peak": "peak_kib_s", "burst": "burst_kib"}.get(key)
            if field is None:
                self.fail(f"{part!r}: peak= or burst= is wanted", param, ctx)
            found[field] = self._number(number, param, ctx)
        return found

    def _number(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if not text.isdecimal():
            self.fail(f"{text!r} is no number of KiB", param, ctx)
        return int(text)


class NumberOrNone(click.ParamType[int | None]):
    """A number, or `none`."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value is None or value == "none":
            return None
        if not str(value).isdecimal():
            self.fail(f"{value!r} is neither a number nor none", param, ctx)
        return int(value)


def _uplink_options(command: Any) -> Any:
    bridge = "Open vSwitch bridge, which the operator has made and put a NIC into"
    for kind, what in (("nic", "NIC"), ("bridge", bridge)):
        command = click.option(
            f"--{kind}",
            f"{kind}s",
            multiple=True,
            metavar="[HOST=]NAME",
            help=f"Uplink: this {what}; with HOST= on that host alone. Repeat for more hosts.",
        )(command)
    return command


def _group_options(command: Any) -> Any:
    limit = "AVERAGE[,peak=N][,burst=N]"
    for option in (
        click.option("--limit-out", "outbound", type=Limit(), metavar=limit, help="Limit of what a guest sends."),
        click.option(
            "--limit-in",
            "inbound",
            type=Limit(),
            metavar=limit,
            help="Limit of what a guest receives, in KiB/s (burst: KiB); none takes it away.",
        ),
        click.option("--mtu", type=NumberOrNone(), metavar="N", help="MTU of NICs that are defined from now on."),
        click.option("--vlan", type=NumberOrNone(), metavar="ID", help="VLAN 1 to 4094, or none."),
    ):
        command = option(command)
    return command


# --- switches -----------------------------------------------------------------------------------------------------


@click.group()
def switch() -> None:
    """Traditional switches: layer 2 that vmctl itself provides on the hosts you choose.

    Opaque networks and switches belong to the network manager; vmctl lists them (vmctl network list) and refuses to
    create, change or delete one.
    """


@switch.command("create")
@click.argument("name")
@click.option("--hosts", required=True, metavar="HOST,HOST…", help="Where it is.")
@_uplink_options
@click.option(
    "--datapath",
    type=click.Choice(["auto", "kernel", "userspace"]),
    default="auto",
    show_default=True,
    help="Where an uplink bridge forwards; guests offload nothing to user space. auto: as the opaque switches there.",
)
@click.option("--uuid", type=click.UUID, help="Its UUID; default: a new one.")
@output_option
def create(
    name: str, hosts: str, bridges: tuple[str, ...], nics: tuple[str, ...], datapath: str, uuid: Any, output: str
) -> None:
    """Make the switch NAME on hosts.

    Its uplink is a bridge of Open vSwitch on each host (VLANs, limits) or a NIC (no VLANs). Without an uplink it is
    isolated: on each host a layer 2 of its own, and running VMs do not move off it.

    \b
      vmctl switch create office --hosts h1,h2 --bridge br-lan
      vmctl portgroup create office/lan --vlan 20 --limit-in 12500,peak=25000,burst=1024
      vmctl vm define web --portgroup office/lan --network blue --host h1 …
    """
    if bridges and nics:
        raise click.UsageError("the uplink is a bridge or a NIC, the same kind on all hosts")
    body = {
        "name": name,
        "hosts": _hosts(hosts, bridges or nics),
        "uplink": "bridge" if bridges else "nic" if nics else "isolated",
        "datapath": datapath,
        "uuid": str(uuid) if uuid else None,
    }
    _show_switch(call("POST", "/switches", body=body), output)


@switch.command("list")
@output_option
def list_switches(output: str) -> None:
    """List traditional switches with their hosts."""
    columns = [
        ("NAME", lambda row: row["switch"]["name"]),
        ("UUID", lambda row: row["switch"]["uuid"]),
        ("UPLINK", lambda row: row["switch"]["uplink"]),
        ("HOSTS", lambda row: [_word(host) for host in row["hosts"]]),
        ("PORT GROUPS", lambda row: [group["group"]["name"] for group in row["groups"]]),
        ("PUT BACK", lambda row: len(row["drifts"])),
    ]
    show(call("GET", "/switches"), output, columns=columns)


@switch.command("show")
@click.argument("name")
@output_option
def show_switch(name: str, output: str) -> None:
    """Show a switch: its hosts, port groups, and the local changes that were put back."""
    _show_switch(call("GET", _path(name)), output)


@switch.command("set")
@click.argument("name")
@click.option("--hosts", default="", metavar="HOST,HOST…", help="Where it is from now on; default: as it is.")
@_uplink_options
@click.option("--datapath", type=click.Choice(["auto", "kernel", "userspace"]), default=None, help="See create.")
@output_option
def set_switch(
    name: str, hosts: str, bridges: tuple[str, ...], nics: tuple[str, ...], datapath: str | None, output: str
) -> None:
    """Put the switch NAME onto other hosts or uplinks.

    Hosts that stay keep their uplink unless another is given. Refused where a VM would lose its NIC.
    """
    found = call("GET", _path(name))["switch"]
    kind = "bridge" if bridges else "nic" if nics else found["uplink"]
    if kind != found["uplink"]:
        raise click.UsageError(f"{name} is {found['uplink']}, and the kind of an uplink stays; make another switch")
    body: dict[str, Any] = {"datapath": datapath} if datapath else {}
    if hosts or bridges or nics:
        names = hosts or ",".join(host["host"] for host in found["hosts"])
        kept = {host["host"]: host["device"] for host in found["hosts"]}
        default = next(iter(kept.values())) if len(set(kept.values())) == 1 else ""  # the one name it has everywhere
        body["hosts"] = _hosts(names, bridges or nics, kept=kept, default=default)
    _show_switch(call("PATCH", _path(name), body=body), output)


@switch.command("delete")
@click.argument("name")
def delete(name: str) -> None:
    """Remove a switch from its hosts; refused while a VM uses it."""
    call("DELETE", _path(name))
    click.echo(f"{name} deleted")


# --- port groups --------------------------------------------------------------------------------------------------


@click.group()
def portgroup() -> None:
    """Port groups of traditional switches: VLAN, MTU and rate limits of the NICs on them."""


@portgroup.command("create")
@click.argument("name", metavar="SWITCH/NAME")
@_group_options
@output_option
def create_group(name: str, output: str, **fields: Any) -> None:
    """Add a port group to a switch.

    \b
      vmctl portgroup create office/lan --vlan 20
      vmctl portgroup create office/guests --vlan 30 --limit-in 1250 --limit-out 1250,peak=2500,burst=512
    """
    which, group = _split(name)
    _show_switch(call("POST", f"{_path(which)}/portgroups", body={"name": group, **fields}), output)


@portgroup.command("list")
@click.argument("which", metavar="[SWITCH]", required=False)
@wide_output_option
def list_groups(which: str | None, output: str) -> None:
    """List port groups, of one switch or of all."""
    rows = [row for row in call("GET", "/portgroups") if which in (None, row["switch"])]
    columns = [
        ("NAME", lambda row: f"{row['switch']}/{row['group']['name']}"),
        ("VLAN", lambda row: row["group"]["vlan"]),
        ("MTU", lambda row: row["group"]["mtu"]),
        ("LIMIT IN", lambda row: _limit(row["group"]["inbound"])),
        ("LIMIT OUT", lambda row: _limit(row["group"]["outbound"])),
        ("VMS", lambda row: len(row["vms"])),
    ]
    show(rows, output, columns=columns, wide=[("USED BY", lambda row: row["vms"])])


@portgroup.command("set")
@click.argument("name", metavar="SWITCH/NAME")
@_group_options
@click.pass_context
@output_option
def set_group(ctx: click.Context, /, name: str, output: str, **fields: Any) -> None:
    """Change a port group; what is not given stays, none takes away.

    NICs of running VMs follow at once in VLAN and limits; an MTU is for NICs that are defined from now on.
    """
    which, group = _split(name)
    default = click.core.ParameterSource.DEFAULT
    given = {key: value for key, value in fields.items() if ctx.get_parameter_source(key) is not default}
    if not given:
        raise click.UsageError("nothing to change was given")
    _show_switch(call("PATCH", f"{_path(which)}/portgroups/{quote(group, safe='')}", body=given), output)


@portgroup.command("delete")
@click.argument("name", metavar="SWITCH/NAME")
def delete_group(name: str) -> None:
    """Remove a port group; refused while a VM uses it."""
    which, group = _split(name)
    call("DELETE", f"{_path(which)}/portgroups/{quote(group, safe='')}")
    click.echo(f"{name} deleted")


# --- words --------------------------------------------------------------------------------------------------------


def _show_switch(found: dict[str, Any], output: str) -> None:
    which = found["switch"]
    devices = {host["host"]: host["device"] for host in which["hosts"]}
    hosts = [
        f"{_word(host)}"
        + (f", uplink {devices[host['host']]}" if devices.get(host["host"]) else "")
        + (f": {host['sentence']}" if host["sentence"] else "")
        for host in found["hosts"]
    ]
    history = [f"{drift['at']} {drift['host']}: {drift['sentence']}" for drift in found["drifts"][:HISTORY_SHOWN]]
    rows = [
        *((key, which[key]) for key in ("name", "uuid", "uplink", "datapath")),
        ("hosts", hosts),
        ("port groups", [_group_line(group) for group in found["groups"]]),
        ("put back", history),
    ]
    show(found, output, rows=rows)


def _group_line(row: dict[str, Any]) -> str:
    group = row["group"]
    parts = [
        f"VLAN {group['vlan']}" if group["vlan"] is not None else "",
        f"MTU {group['mtu']}" if group["mtu"] is not None else "",
        f"in {_limit(group['inbound'])}" if group["inbound"] else "",
        f"out {_limit(group['outbound'])}" if group["outbound"] else "",
        f"used by {', '.join(row['vms'])}" if row["vms"] else "",
    ]
    return ", ".join(filter(None, [group["name"], *parts]))


def _limit(rate: dict[str, int] | None) -> str | None:
    if rate is None:
        return None
    more = [f"peak {rate['peak_kib_s']}"] if rate["peak_kib_s"] else []
    more += [f"burst {rate['burst_kib']} KiB"] if rate["burst_kib"] else []
    return f"{rate['average_kib_s']} KiB/s" + (f" ({', '.join(more)})" if more else "")


def _word(host: dict[str, Any]) -> str:
    return str(host["host"]) if host["state"] == "realized" else f"{host['host']} ({host['state']})"


def _hosts(
    names: str, uplinks: tuple[str, ...], *, kept: Mapping[str, str] = MappingProxyType({}), default: str = ""
) -> list[dict[str, str]]:
    """Hosts with their uplinks: the one given for it, the one given for all, the one it had."""
    everywhere = next((name for name in reversed(uplinks) if "=" not in name), "")
    single = {host: name for host, equals, name in (each.partition("=") for each in uplinks) if equals}
    found = [name for name in names.split(",") if name]
    if stray := [host for host in single if host not in found]:
        raise click.UsageError(f"an uplink is given for {', '.join(stray)}, which the switch is not on")
    return [{"host": host, "device": single.get(host) or everywhere or kept.get(host, default)} for host in found]


def _split(name: str) -> tuple[str, str]:
    which, slash, group = name.partition("/")
    if not slash or not which or not group:
        raise click.UsageError(f"{name!r}: SWITCH/NAME is wanted")
    return which, group


def _path(name: str) -> str:
    return f"/switches/{quote(name, safe='')}"

"""`lab`: the command line of the lab. docs/lab.md shows it at work."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import uuid
from collections.abc import Callable
from functools import wraps
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from scripts.labkit import domain, enter, guest, layers, logs, processes, state
from scripts.labkit.errors import LabError
from scripts.labkit.lab import Lab
from scripts.labkit.switch import DATAPATHS
from scripts.labkit.teardown import tear_down

__all__ = ["main"]

_DEFAULT_NAME = "lab"
_COMMAND = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "OPLAB"})
def main() -> None:
    """Hosts made of namespaces: each with its own network, Open vSwitch, libvirt and hostagent, joined by an underlay,
    with a network manager and a compute manager beside them. Nothing of the machine's own is touched, and nothing
    outlives `lab down`. Needs root.

    \b
    lab up --hosts 3                       make a lab, about 10 s
    lab exec h1 -- ovs-vsctl show          run a command on a host (h1, h2, …) or the managers' node (mgr)
    lab exec mgr -- netmgr network list
    lab guest vm1 -- ping -c3 10.0.0.2     run a command in a virtual machine
    lab down                               end it
    """


def _sentences(function: Callable[..., Any]) -> Callable[..., Any]:
    """Errors of the lab as sentences, not as traces."""

    @wraps(function)
    def wrapped(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except LabError as error:
            raise click.ClickException(str(error)) from None

    return wrapped


def _name_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("-n", "--name", envvar="OPLAB_NAME", help="Which lab: `lab`, or the only one, if left out.")(
        function
    )


@main.command()
@click.option("--hosts", default=2, show_default=True, help="How many hosts: h1, h2, …")
@click.option("-n", "--name", envvar="OPLAB_NAME", default=_DEFAULT_NAME, show_default=True, help="Name of the lab.")
@click.option(
    "--zones", metavar="h1=a,h2=a,h3=b", default="", help="Make these zones; enrol the hosts into them. h1=a+b: both."
)
@click.option("--manager/--no-manager", default=True, help="netmgr on the node mgr.")
@click.option("--agents/--no-agents", default=None, help="hostagent on each host; wants the manager.")
@click.option("--libvirt/--no-libvirt", default=True, help="libvirtd on each host.")
@click.option("--vmctl/--no-vmctl", default=None, help="vmctl on the node mgr; by default where everything else is.")
@click.option("--bare", is_flag=True, help="Open vSwitch only: no manager, agents, libvirt.")
@click.option("--mtu", default=1700, show_default=True, help="MTU of the underlay.")
@click.option("--pnics", default=1, show_default=True, help="PNICs of each host: pnic0, pnic1, …")
@click.option(
    "--datapath",
    type=click.Choice(["auto", *DATAPATHS]),
    help="Where Open vSwitch forwards: system is the kernel, netdev user space, auto the kernel where it can.",
)
@click.option("--store", help="URL of netmgr's store, as of `netmgr run --store`.")
@_sentences
def up(
    hosts: int,
    name: str,
    zones: str,
    manager: bool,
    agents: bool | None,
    libvirt: bool,
    vmctl: bool | None,
    bare: bool,
    mtu: int,
    pnics: int,
    datapath: str | None,
    store: str | None,
) -> None:
    """Make a lab. If it fails or is interrupted, nothing of it is left."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    manager, libvirt = manager and not bare, libvirt and not bare
    lab = Lab(
        name,
        hosts=hosts,
        with_manager=manager,
        with_libvirt=libvirt,
        with_agents=manager if agents is None else agents,
        with_vmctl=vmctl,
        zones=_zones(zones),
        underlay_mtu=mtu,
        pnics=pnics,
        datapath=datapath,
        store=store,
        progress=lambda sentence: click.echo(sentence, err=True),
    )
    try:
        lab.up()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # too late to mean anything but our exit status
    except (KeyboardInterrupt, SystemExit):  # it may have come right after `up`, which cleans up for itself
        lab.down()
        raise


@main.command()
@_name_option
@click.option("--all", "all_", is_flag=True, help="Every lab of this machine.")
@_sentences
def down(name: str | None, all_: bool) -> None:
    """End a lab: every process in it, its networks, its files. Also what a crash left."""
    wanted = _all_names() if all_ else [name or _only_name()]
    for each in wanted:
        if each not in _all_names():
            raise LabError(f"no lab {each!r} here (labs: {', '.join(_all_names()) or 'none'})")
        tear_down(each)
        click.echo(f"lab {each} is down", err=True)


@main.command("list")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
@_sentences
def list_(output: str) -> None:
    """Labs of this machine."""
    rows = []
    for name in _all_names():
        found = state.read(name)
        alive = len(processes.marked(name))
        rows.append({"name": name, "hosts": found.spec.hosts if found else None, "processes": alive})
    _show(rows, output)


@main.command()
@_name_option
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
@_sentences
def status(name: str | None, output: str) -> None:
    """Nodes of a lab, and which daemons run on them. Exit status 1 when a node is down."""
    lab = _find(name)
    rows = []
    for node_name in lab.node_names:
        node = lab.node(node_name)
        running = {d.name: node.daemon(d.pidfile) for d in layers.DAEMONS.values()}
        address = lab.address(node_name) if node_name in (*lab.hosts, state.MANAGER) else ""
        daemons = ", ".join(n for n, p in running.items() if p)
        rows.append(
            {"node": node_name, "state": "up" if node.running else "down", "address": address, "daemons": daemons}
        )
    _show(rows, output)
    if any(row["state"] == "down" for row in rows):
        sys.exit(1)


@main.command("exec", context_settings=_COMMAND)
@_name_option
@click.argument("host")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@_sentences
def exec_(name: str | None, host: str, command: tuple[str, ...]) -> None:
    """Run a command on a host, on `mgr`, on the `fabric` or in an endpoint; a shell without one."""
    node = _find(name).node(host)
    sys.exit(enter.run_inside(node, _command(command) or ("/bin/bash",), cwd=os.getcwd()))


@main.command("guest", context_settings=_COMMAND)
@_name_option
@click.option("--timeout", "timeout_s", default=60.0, show_default=True, help="Seconds, a boot included.")
@click.argument("vm")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
@_sentences
def guest_(name: str | None, timeout_s: float, vm: str, command: tuple[str, ...]) -> None:
    """Run a command in a guest, over its console, wherever it runs. Exits as the command does."""
    result = _find(name).guest(vm, _command(command), timeout_s=timeout_s)
    sys.stdout.write(result.stdout)
    sys.exit(result.returncode)


@main.command("guest-image")
@click.option("--refresh", is_flag=True, help="Ask Debian for a newer kernel.")
@_sentences
def guest_image(refresh: bool) -> None:
    """Build the guest if need be; print paths and kernel command line as JSON."""
    image = guest.build(refresh=refresh, progress=lambda sentence: click.echo(sentence, err=True))
    facts = {"kernel": str(image.kernel), "initrd": str(image.initrd), "cmdline": guest.COMMAND_LINE}
    click.echo(json.dumps({**facts, "release": image.kernel_release}, indent=1))


@main.command("guest-xml")
@click.argument("vm")
@click.option("--network", help="libvirt network for its NIC.")
@click.option("--vif", help="UUID of its VIF; a new one if left out.")
@click.option("--mac")
@click.option("--words", default="", help="For the kernel command line: 'ip=10.0.0.5/24 host=web'.")
@_sentences
def guest_xml(vm: str, network: str | None, vif: str | None, mac: str | None, words: str) -> None:
    """Print domain XML of a guest: `lab guest-xml web --network n1 --words ip=10.0.0.5/24 | lab exec h1 -- virsh create
    /dev/stdin`."""
    image = guest.build(progress=lambda sentence: click.echo(sentence, err=True))
    vif = vif or str(uuid.uuid4())
    click.echo(domain.domain_xml(name=vm, image=image, words=words, network=network, vif_uuid=vif, mac=mac), nl=False)


@main.command("logs")
@_name_option
@click.argument("host", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on as they grow.")
@click.option("--lines", default=20, show_default=True, help="Of each log.")
@_sentences
def logs_(name: str | None, host: str | None, follow: bool, lines: int) -> None:
    """Logs of the daemons and guests of one node or all."""
    lab = _find(name)
    directories = [lab.host_dir(each) for each in ([host] if host else lab.node_names)]
    for line in logs.last_lines(directories, lines):
        click.echo(line)
    if follow:
        for line in logs.follow(directories):
            click.echo(line)


@main.group()
def probe() -> None:
    """Endpoints: a network namespace plugged into a host's bridge, as a guest would be."""


@probe.command("attach")
@_name_option
@click.argument("host")
@click.argument("endpoint")
@click.option("--network", help="libvirt network whose bridge to use.")
@click.option("--bridge", help="Bridge to use.")
@click.option("--vif", help="VIF UUID (iface-id); a new one if left out.")
@click.option("--mac", help="MAC; derived from the VIF UUID if left out.")
@click.option("--ip", "addresses", multiple=True, metavar="ADDRESS/PREFIX", help="More than once for more.")
@click.option("--mtu", default=1500, show_default=True)
@_sentences
def probe_attach(
    name: str | None,
    host: str,
    endpoint: str,
    network: str | None,
    bridge: str | None,
    vif: str | None,
    mac: str | None,
    addresses: tuple[str, ...],
    mtu: int,
) -> None:
    """Make an endpoint and plug it in; then `lab exec ENDPOINT -- ping …`. Prints VIF UUID and MAC."""
    lab = _find(name)
    if (network is None) == (bridge is None):
        raise LabError("give either --network or --bridge")
    vif_uuid = uuid.UUID(vif) if vif else uuid.uuid4()
    mac = mac or ":".join(f"{byte:02x}" for byte in (0x02, *vif_uuid.bytes[:5]))
    bridge = bridge or _bridge_of(lab, host, str(network))
    lab.attach(host, endpoint, bridge=bridge, vif_uuid=str(vif_uuid), mac=mac, addresses=addresses, mtu=mtu)
    click.echo(json.dumps({"endpoint": endpoint, "host": host, "bridge": bridge, "vif": str(vif_uuid), "mac": mac}))


@probe.command("detach")
@_name_option
@click.argument("endpoint")
@_sentences
def probe_detach(name: str | None, endpoint: str) -> None:
    """Unplug an endpoint and end it."""
    _find(name).detach(endpoint)


@probe.command("ping", context_settings=_COMMAND)
@_name_option
@click.argument("endpoint")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, required=True)
@_sentences
def probe_ping(name: str | None, endpoint: str, options: tuple[str, ...]) -> None:
    """Ping on a schedule from an endpoint or host, until Ctrl-C: longest gap, losses, duplicates as JSON.

    Options: ADDRESS [--interval-ms 5] [--duration-s N].
    """
    node = _find(name).node(endpoint)
    sys.exit(
        enter.run_inside(node, [sys.executable, "-m", "scripts.labkit.pinger", *_command(options)], cwd=os.getcwd())
    )


@main.command()
@_name_option
@click.argument("host")
@click.argument("daemon", type=click.Choice(sorted(layers.DAEMONS)))
@_sentences
def start(name: str | None, host: str, daemon: str) -> None:
    """Start a daemon on a node again; returns when it is ready."""
    _find(name).start_daemon(host, daemon)


@main.command()
@_name_option
@click.argument("host")
@click.argument("daemon", type=click.Choice(sorted(layers.DAEMONS)))
@click.option("--kill", is_flag=True, help="SIGKILL instead of SIGTERM.")
@_sentences
def stop(name: str | None, host: str, daemon: str, kill: bool) -> None:
    """End a daemon on a node; nothing starts it again but `lab start`."""
    _find(name).stop_daemon(host, daemon, number=signal.SIGKILL if kill else signal.SIGTERM)


@main.command()
@_name_option
@click.argument("host")
@_sentences
def crash(name: str | None, host: str) -> None:
    """Pull a host's plug: everything on it ends at once. Its disk stays for `lab boot`."""
    _find(name).crash(host)


@main.command()
@_name_option
@click.argument("host")
@_sentences
def boot(name: str | None, host: str) -> None:
    """Start a crashed host again, with a new boot id and its daemons."""
    _find(name).boot(host)


def _command(words: tuple[str, ...]) -> tuple[str, ...]:
    """The command after an optional `--`."""
    return words[1:] if words[:1] == ("--",) else words


def _find(name: str | None) -> Lab:
    return Lab.find(name or _only_name())


def _only_name() -> str:
    """The lab that `up` makes without a name, else the only one there is."""
    names = _all_names()
    if _DEFAULT_NAME in names or len(names) == 1:
        return _DEFAULT_NAME if _DEFAULT_NAME in names else names[0]
    raise LabError(
        "there is no lab; `lab up` makes one" if not names else f"which lab? --name one of {', '.join(names)}"
    )


def _all_names() -> list[str]:
    """Labs that left a directory or run, or both."""
    return sorted({*state.names(), *(mark.partition("/")[0] for mark in processes.marked().values())})


def _zones(text: str) -> dict[str, str]:
    """`h1=a,h2=a+b` → {"h1": "a", "h2": "a,b"}."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair]
    if any(not (host and sign and zones) for host, sign, zones in pairs):
        raise LabError(f"--zones {text!r}: wanted HOST=ZONE or HOST=ZONE+ZONE, separated by commas")
    return {host: zones.replace("+", ",") for host, _, zones in pairs}


def _bridge_of(lab: Lab, host: str, network: str) -> str:
    xml = lab.exec(host, ["virsh", "net-dumpxml", network]).stdout
    found = re.search(r"<bridge name='([^']+)'", xml)
    if not found:
        raise LabError(f"libvirt network {network} on {host} has no bridge")
    return found.group(1)


def _show(rows: list[dict[str, Any]], output: str) -> None:
    if output == "json":
        click.echo(json.dumps(rows, indent=1))
        return
    table = Table(box=None, pad_edge=False)
    for column in rows[0] if rows else ():
        table.add_column(column.upper())
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    Console(soft_wrap=True, emoji=False).print(table)


if __name__ == "__main__":
    main()

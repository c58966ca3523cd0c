"""`vmctl`: the command line, on top of the daemon's REST API.

Imports that cost time (HTTP, tables, the daemon) are made where they are used, so `--help` answers at once.
"""

from __future__ import annotations

from pathlib import Path

import click

from vmctl.cli.hosts import host, network, status
from vmctl.cli.moves import migrate, why_not
from vmctl.cli.placement import balance, maintenance, place, rule, settings
from vmctl.cli.serve import serve
from vmctl.cli.switches import portgroup, switch
from vmctl.cli.tasks import events, task
from vmctl.cli.vms import vm

__all__ = ["main"]


@click.group(context_settings={"auto_envvar_prefix": "VMCTL", "help_option_names": ["-h", "--help"]})
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    default=Path("/run/vmctl/vmctl.sock"),
    show_default=True,
    show_envvar=True,
    help="Unix socket of the daemon.",
)
@click.version_option(package_name="opaque-networks")
@click.pass_context
def main(ctx: click.Context, socket: Path) -> None:
    """Compute manager: starts VMs where their networks are, and moves them nowhere else.

    \b
    A daemon (vmctl serve) holds the connections to the hosts; every other command asks it.
    Opaque networks belong to the network manager: vmctl reads them and cannot change them.
    Traditional switches and their port groups are its own.

    \b
    From nothing to a moved VM:
      vmctl serve &
      vmctl host add h1 --libvirt qemu+tls://h1/system --agent h1:7445 --migration-address 192.0.2.11
      vmctl host add h2 --libvirt qemu+tls://h2/system --agent h2:7445 --migration-address 192.0.2.12
      vmctl network list
      vmctl vm define web --network blue --memory 1024 --disk /images/web.qcow2 --host h1
      vmctl vm start web
      vmctl why-not web h2
      vmctl place web --explain
      vmctl migrate web h2

    \b
    Exit codes: 0 done; 1 failed, or why-not, place: may not; 2 refused before anything was changed, or a wrong call.
    """
    ctx.obj = socket


host.add_command(maintenance)
for _command in (
    serve,
    host,
    network,
    switch,
    portgroup,
    vm,
    place,
    migrate,
    why_not,
    balance,
    rule,
    settings,
    task,
    events,
    status,
):
    main.add_command(_command)

"""`hostagent`: the agent of one host.

Heavy libraries are imported by the commands that need them, so that `--help` and the looking commands start fast.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hostagent.cli import look, manage, output, ports

__all__ = ["main"]

_CONTEXT = {"auto_envvar_prefix": "HOSTAGENT", "help_option_names": ["-h", "--help"], "show_default": True}


@click.group(context_settings=_CONTEXT)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/var/lib/hostagent"),
    help="Identity and memory of this host.",
)
@click.option(
    "--socket",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("/run/hostagent/hostagent.sock"),
    help="Where the agent answers libvirt's hooks and this program.",
)
@click.option(
    "--ovs-rundir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/run/openvswitch"),
    help="Where Open vSwitch has db.sock and BRIDGE.mgmt.",
)
@click.option(
    "--ovs-database",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("/etc/openvswitch/conf.db"),
    help="Open vSwitch's database. The agent wakes up when it is written; it reads nothing from it.",
)
@click.option("--libvirt-uri", default="qemu:///system", help='This host\'s libvirt; "none" on hosts without one.')
@click.pass_context
def cli(
    context: click.Context, state_dir: Path, socket: Path, ovs_rundir: Path, ovs_database: Path, libvirt_uri: str
) -> None:
    """Realizes the network manager's opaque networks on this host.

    \b
    A host's first steps:
      hostagent join --manager ADDRESS --token TOKEN --pnic eth1
      systemctl enable --now hostagent
      hostagent show

    Every option can be set in the environment: HOSTAGENT_STATE_DIR, HOSTAGENT_SOCKET, …
    """
    context.obj = output.Settings(
        state_dir=state_dir,
        socket=socket,
        ovs_rundir=ovs_rundir.absolute(),
        ovs_database=ovs_database.absolute(),
        libvirt_uri=libvirt_uri,
    )


for command in (*manage.COMMANDS, *look.COMMANDS, *ports.COMMANDS):
    cli.add_command(command)


def main() -> None:
    """Entry point; a failure that was foreseen is one sentence on standard error and exit status 1 or 2."""
    try:
        cli()
    except output.Failure as failure:
        click.echo(f"hostagent: {failure.sentence}", err=True)
        sys.exit(failure.status)

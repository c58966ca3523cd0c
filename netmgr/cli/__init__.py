"""`netmgr`: the operator's command line, on top of the REST API; `netmgr run` is the daemon itself.

Imports are lazy: what a command does not need, it does not load, so that `netmgr --help` and shell completion are
quick. Exit codes: 0 done; 1 done, but not realized on every host within `--wait`; 2 refused, or no manager reached.
"""

from __future__ import annotations

import sys

import click

from netmgr.cli.client import CliError, Connection
from netmgr.cli.operations import apply, cert, run, status
from netmgr.cli.resources import resource_groups
from netmgr.cli.rules import group_verbs
from netmgr.cli.trace import trace
from netmgr.cli.verbs import mac_group, network_verbs, port_verbs, vif

__all__ = ["cli", "main"]


@click.group(context_settings={"auto_envvar_prefix": "NETMGR", "help_option_names": ["-h", "--help"]})
@click.option(
    "--manager",
    default="127.0.0.1:7443",
    show_default=True,
    show_envvar=True,
    help="Address of the manager's REST API, HOST[:PORT].",
)
@click.option(
    "--identity",
    type=click.Path(),
    default="/var/lib/netmgr/operator",
    show_default=True,
    show_envvar=True,
    help="Directory with ca.pem, cert.pem and key.pem of an operator (or, to read only, a viewer).",
)
@click.version_option(package_name="opaque-networks")
@click.pass_context
def cli(context: click.Context, manager: str, identity: str) -> None:
    """Manage opaque networks: zones, switches, networks, hosts, ports, security groups.

    A transport zone is a set of hosts. An opaque switch carries zones on each of their hosts, over PNICs that match.
    An opaque network spans a zone. A port attaches one virtual NIC (VIF) to a network.
    A security group says what its ports may send and receive.

    \b
    From nothing to a network:
      netmgr zone create a
      netmgr switch create sw-a --zone a --vtep-pool 10.200.0.0/24 --pnic 'eth*'
      netmgr host token --name h1 --zone a            # then on h1: hostagent join … --token TOKEN
      netmgr network create blue --zone a --subnet 10.10.0.0/24 --wait realized
      netmgr status

    Or all of it from a file: netmgr apply -f examples/two-zones.yaml. Objects go by name or UUID.
    """
    context.obj = Connection(manager=manager, identity=identity)


for group in resource_groups():
    for verb in {"network": network_verbs(), "port": port_verbs(), "group": group_verbs()}.get(group.name or "", []):
        group.add_command(verb)
    cli.add_command(group)
cli.add_command(mac_group)
cli.add_command(vif)
cli.add_command(apply)
cli.add_command(cert)
cli.add_command(status)
cli.add_command(run)
cli.add_command(trace)


def main() -> None:
    """Entry point: runs the command line; errors are one sentence on standard error."""
    try:
        cli()
    except CliError as error:
        click.echo(f"netmgr: {error}", err=True)
        sys.exit(2)

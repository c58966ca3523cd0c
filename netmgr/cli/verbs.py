"""What only ports and networks have: attach, detach, failover; realization, withdraw, restore. And `netmgr vif`."""

from __future__ import annotations

import click

from netmgr.cli.client import Connection
from netmgr.cli.output import list_output_option, output_option, print_late_hosts, print_object, print_objects
from netmgr.cli.resources import force_option, pass_connection, path_of, wait_options, waiting

__all__ = ["mac_group", "network_verbs", "port_verbs", "vif"]


def port_verbs() -> list[click.Command]:
    """Commands of the group `port`."""
    return [attach, detach, failover]


def network_verbs() -> list[click.Command]:
    """Commands of the group `network`."""
    return [realization, withdraw, restore]


@click.group("mac")
def mac_group() -> None:
    """MACs and addresses: which are known, how, and where they are."""


@mac_group.command("list")
@click.option("--network", metavar="NETWORK", help="Only MACs of this network.")
@click.option("--host", metavar="HOST", help="Only MACs that this host holds.")
@list_output_option
@pass_connection
def list_macs(connection: Connection, network: str | None, host: str | None, output: str) -> None:
    """List MACs with their addresses, defined or learned from the guest, their ports and holders.

    \b
      netmgr mac list --network blue
      netmgr mac list --host h1 -o wide
    """
    found = connection.get("macs", network=network, host=host)
    columns = ("mac", "network", "port", "behind", "defined", "learned", "host", "vtep", "state")
    more = ("vif_uuid", "learned_from", "learned_since", "conflicts") if output == "wide" else ()
    print_objects(found, output=output, columns=(*columns, *more))


@click.group("vif")
def vif() -> None:
    """Virtual NICs, as hosts report them: plugged, with a port or without."""


@vif.command("list")
@click.option("--host", metavar="HOST", help="Only on this host.")
@click.option("--state", type=click.Choice(["lit", "dark", "incoming"]), help="Only in this state.")
@list_output_option
@pass_connection
def list_vifs(connection: Connection, host: str | None, state: str | None, output: str) -> None:
    """List the VIFs that are plugged, with why they are dark.

    \b
      netmgr vif list --state dark
    """
    columns = ("vif_uuid", "host", "state", "port", "network", "ovs_port", "vm_uuid", "reason")
    print_objects(connection.get("vifs", host=host, state=state), output=output, columns=columns)


@click.command("attach")
@click.argument("name")
@click.option("--vif", required=True, metavar="UUID", help="The virtual NIC's UUID (libvirt: interfaceid).")
@output_option
@pass_connection
def attach(connection: Connection, name: str, vif: str, output: str) -> None:
    """Attach a VIF to a port.

    \b
      netmgr port attach web1 --vif 0f6dbd3f-9c5b-4c0e-a0f7-52f6a4f2b0c1
    """
    print_object(connection.post(path_of("ports", name) + "/attach", {"vif_uuid": vif}), output=output)


@click.command("detach")
@click.argument("name")
@force_option
@output_option
@pass_connection
def detach(connection: Connection, name: str, force: bool, output: str) -> None:
    """Take the VIF off a port. Refused while its VM runs."""
    answer = connection.post(path_of("ports", name) + "/detach", force=True if force else None)
    print_object(answer, output=output)


@click.command("realization")
@click.argument("name")
@output_option
@pass_connection
def realization(connection: Connection, name: str, output: str) -> None:
    """Show, for each host that must carry the network, whether it does."""
    answer = connection.get(path_of("networks", name) + "/realization")
    print_objects(answer["realization"]["hosts"], output=output, columns=("host", "state", "reason"))


@click.command("failover")
@click.argument("name")
@click.option("--force", is_flag=True, help="Also when no host holds the shadow for a VM.")
@output_option
@pass_connection
def failover(connection: Connection, name: str, force: bool, output: str) -> None:
    """Let a shadow take its primary's place; NAME is either of the two. The former primary is the shadow then.

    \b
      netmgr port create web1-standby --shadow-of blue/web1 --vif UUID
      netmgr port failover web1
    """
    answer = connection.post(path_of("ports", name) + "/failover", force=True if force else None)
    print_object(answer, output=output)


@click.command("withdraw")
@click.argument("network")
@click.option("--host", metavar="HOST", help="Only from this host; else from all.")
@click.option("--reason", required=True, help="Why; those who are refused will read it.")
@wait_options
@output_option
@pass_connection
def withdraw(
    connection: Connection, network: str, host: str | None, reason: str, wait: str | None, timeout: float, output: str
) -> None:
    """Hide a network from a host, or from all: what runs there goes on, no VM is started on it or moved to it.

    \b
      netmgr network withdraw blue --host h1 --reason "uplink flaps, ticket 4711"
    """
    body = {"reason": reason} | ({"host": host} if host else {})
    answer = connection.post(path_of("networks", network) + "/withdraw", body, **waiting(wait, timeout))
    print_object({k: v for k, v in answer.items() if k != "realization" or output != "table"}, output=output)
    if not print_late_hosts(answer):
        raise SystemExit(1)


@click.command("restore")
@click.argument("network")
@click.option("--host", metavar="HOST", help="Only on this host; else everywhere.")
@output_option
@pass_connection
def restore(connection: Connection, network: str, host: str | None, output: str) -> None:
    """Show a network again that was withdrawn.

    \b
      netmgr network restore blue --host h1
    """
    print_object(connection.post(path_of("networks", network) + "/restore", host=host), output=output)

"""`vmctl host`, `vmctl network`, `vmctl status`."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from vmctl.cli.client import call
from vmctl.cli.output import output_option, show

__all__ = ["host", "network", "status"]

_HOST = (
    ("NAME", lambda row: row["host"]["name"]),
    ("STATE", lambda row: "maintenance" if row["maintenance"] else "in service"),
    ("LIBVIRT", lambda row: row["libvirt"] or "connected"),
    ("NETWORKS", lambda row: row["view"] or ",".join(sorted(n["name"] for n in row["networks"])) or "none"),
    ("ZONES", lambda row: [zone["name"] for zone in row["zones"]]),
    ("IN SYNC", lambda row: row["in_sync"]),
    ("VMS", lambda row: len(row["vms"])),
)


@click.group()
def host() -> None:
    """Hypervisors that vmctl manages."""


@host.command("add")
@click.argument("name")
@click.option("--libvirt", "libvirt_uri", required=True, metavar="URI", help="libvirt of the host, seen from here.")
@click.option(
    "--migration-address",
    default="",
    metavar="ADDRESS",
    help="Where guests' memory is sent to; default: the address in --libvirt.",
)
@click.option(
    "--agent", "agent_address", default="", metavar="ADDRESS:PORT", help="OpaqueView of hostagent (port 7445)."
)
@click.option(
    "--peer-libvirt", "peer_uri", default="", metavar="URI", help="libvirt of the host, seen from other hosts."
)
@click.option(
    "--migration-mbps", default=0, metavar="MBIT/S", help="Speed of the link that the migration address is on."
)
@click.option("--host-uuid", "uuid", default=None, type=click.UUID, help="The host's UUID in its certificate.")
@output_option
def add(output: str, **body: Any) -> None:
    """Add the host NAME.

    Its UUID is what its agent's certificate is checked against. Without --host-uuid it is learned from the network
    manager by NAME, where the daemon has --manager, and else from the certificate that the agent shows now, which must
    come from the same authority and be a host's.

    \b
      vmctl host add h1 --libvirt qemu+tls://h1/system --agent h1:7445 --migration-address 192.0.2.11
    """
    body["uuid"] = str(body["uuid"]) if body["uuid"] else None
    added = call("POST", "/hosts", body=body)
    show(added, output, rows=[(key, added[key]) for key in added])


@host.command("list")
@output_option
def list_hosts(output: str) -> None:
    """List hosts: libvirt, networks, zones."""
    show(call("GET", "/hosts"), output, columns=_HOST)


@host.command("show")
@click.argument("name")
@output_option
def show_host(name: str, output: str) -> None:
    """Show one host with its own word on switches and networks."""
    found = call("GET", f"/hosts/{quote(name, safe='')}")
    rows = [
        *found["host"].items(),
        ("state", f"maintenance since {found['maintenance']}" if found["maintenance"] else "in service"),
        ("libvirt", found["libvirt"] or "connected"),
        ("view", found["view"] or "up to date"),
        ("in sync", found["in_sync"]),
        ("manager connected", found["manager_connected"]),
        ("zones", [zone["name"] for zone in found["zones"]]),
        ("switches", [_line(switch) for switch in found["switches"]]),
        ("networks", [_line(item) for item in found["networks"]]),
        ("vms", found["vms"]),
    ]
    show(found, output, rows=rows)


@host.command("remove")
@click.argument("name")
def remove(name: str) -> None:
    """Forget a host; refused while it is home of a VM."""
    call("DELETE", f"/hosts/{quote(name, safe='')}")
    click.echo(f"{name} removed")


@click.group()
def network() -> None:
    """Opaque networks, read-only: they belong to the network manager."""


@network.command("list")
@output_option
def list_networks(output: str) -> None:
    """List networks with the hosts that carry them."""
    columns = [
        (key.upper(), lambda row, key=key: row[key]) for key in ("name", "uuid", "type", "zones", "hosts", "status")
    ]
    show(call("GET", "/networks"), output, columns=columns)


@click.command()
@output_option
def status(output: str) -> None:
    """Tell how the daemon is, and which hosts it cannot ask."""
    found = call("GET", "/status")
    unread = [f"{item['host']}: {item['reason']}" for item in found["unread"]]
    show(
        found, output, rows=[*((key, found[key]) for key in ("version", "networks_from", "hosts")), ("unread", unread)]
    )


def _line(item: dict[str, Any]) -> str:
    reasons = f" ({'; '.join(item['reasons'])})" if item["reasons"] else ""
    return f"{item['name']} {item['uuid']} {item['status']}{reasons}"

"""Commands for what is attached without libvirt: containers, interfaces of the host, physical hosts."""

from __future__ import annotations

from typing import Any

import click

from hostagent.cli.look import ask_agent
from hostagent.cli.output import Settings, format_option, print_table, print_value

__all__ = ["COMMANDS"]

_COLUMNS = ("ifname", "netns", "kind", "network", "port", "mac", "addresses", "device", "missing")
_ATTACH_S = 30.0


@click.group()
def port() -> None:
    """Endpoints that this host attaches itself: containers, interfaces of its own, physical hosts.

    Guests of libvirt need none of this: they attach when they start.
    """


@port.command("attach")
@click.argument("port", required=False, default="")
@click.option(
    "--network",
    default="",
    show_default=False,
    help="Opaque network, by name or UUID; a port is made on it if PORT is left out.",
)
@click.option(
    "--netns", default="", show_default=False, metavar="NS", help="Network namespace, by name or path: a container."
)
@click.option(
    "--ifname", default="", show_default=False, help="Name of the interface in the namespace.  [default: eth0]"
)
@click.option(
    "--internal",
    default="",
    show_default=False,
    metavar="IFNAME",
    help="An interface of this host, made with that name.",
)
@click.option(
    "--pnic",
    default="",
    show_default=False,
    metavar="NIC",
    help="An idle NIC with one physical host behind it, whose MAC is the port's.",
)
@click.option("--mac", default="", show_default=False, help="MAC of a port that is made.  [default: made of its VIF]")
@click.option(
    "--ip",
    "ips",
    multiple=True,
    metavar="CIDR",
    help="Address of the interface; again for more.  [default: the port's]",
)
@click.option("--name", default="", show_default=False, help="Name of a port that is made.")
@format_option
@click.pass_obj
def attach(
    settings: Settings,
    port: str,
    network: str,
    netns: str,
    ifname: str,
    internal: str,
    pnic: str,
    mac: str,
    ips: tuple[str, ...],
    name: str,
    form: str,
) -> None:
    """Attach a container, an interface of this host, or a physical host to a port. PORT is a name or UUID.

    \b
      hostagent port attach web1 --network blue --netns web1
      hostagent port attach --network blue --internal blue0 --ip 10.10.0.9/24
      hostagent port attach printer --network blue --pnic eth3

    It is remembered, and made again after a restart of the agent or of the host.
    """
    words = {
        "which": port,
        "network": network,
        "netns": netns,
        "ifname": ifname,
        "internal": internal,
        "pnic": pnic,
        "mac": mac.lower(),
        "addresses": ",".join(ips),
        "name": name,
    }
    answer = ask_agent(settings, "endpoint-attach", refused_status=1, deadline_s=_ATTACH_S, **words)
    _tell(answer, form, "attached to")


@port.command("detach")
@click.argument("which")
@format_option
@click.pass_obj
def detach(settings: Settings, which: str, form: str) -> None:
    """Take an endpoint away: by VIF, port, interface, namespace or name.

    A port that was made by attaching is deleted with it, as soon as a manager can be asked. One that was made at the
    manager stays there, parked at this host.
    """
    answer = ask_agent(settings, "endpoint-detach", refused_status=1, deadline_s=_ATTACH_S, which=which)
    _tell(answer, form, "detached from")


@port.command("list")
@format_option
@click.pass_obj
def list_endpoints(settings: Settings, form: str) -> None:
    """Endpoints that this host was told to attach, with what keeps them from being there."""
    endpoints = ask_agent(settings, "endpoints")["endpoints"]
    if form == "table":
        print_table("Endpoints", endpoints, _COLUMNS)
    else:
        print_value(endpoints, form)


def _tell(answer: dict[str, Any], form: str, verb: str) -> None:
    answer.pop("ok")
    if form != "table":
        print_value(answer, form)
        return
    where = f" in {answer['netns']}" if answer["netns"] else ""
    addresses = f", {', '.join(answer['addresses'])}" if answer["addresses"] else ""
    click.echo(
        f"{answer['ifname']}{where} {verb} port {answer['port']} of network {answer['network']}: VIF {answer['vif']},"
        f" MAC {answer['mac']}{addresses}"
    )


COMMANDS = (port,)

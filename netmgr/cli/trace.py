"""`netmgr trace`: follow a frame through the hosts."""

from __future__ import annotations

from typing import Any

import click

from netmgr.cli.client import Connection
from netmgr.cli.output import output_option, print_object
from netmgr.cli.resources import pass_connection

__all__ = ["trace"]

_EXIT = {"delivered": 0, "dropped": 1}


@click.command()
@click.option(
    "--from", "source", required=True, metavar="VIF", help="Port that sends: name, NETWORK/PORT, UUID or VIF."
)
@click.option("--to", "destination", required=True, metavar="VIF|IP", help="Port that shall get it, or its address.")
@click.option("--proto", type=click.Choice(["tcp", "udp", "icmp", "arp"]), default="icmp", show_default=True)
@click.option("--sport", type=int, help="Source port of TCP or UDP.  [default: 49152]")
@click.option("--dport", type=int, help="Destination port; TCP and UDP need it.")
@click.option("--source-mac", metavar="MAC", help="Another MAC than the port's: see what happens to a liar.")
@click.option("--source-ip", metavar="IP", help="Another address than the port's first.")
@click.option("--brief", is_flag=True, help="Hosts and ends, without the flows on the way.")
@output_option
@pass_connection
def trace(
    connection: Connection,
    source: str,
    destination: str,
    proto: str,
    sport: int | None,
    dport: int | None,
    source_mac: str | None,
    source_ip: str | None,
    brief: bool,
    output: str,
) -> None:
    """Follow a frame host by host, flow by flow, to where it is delivered or dropped, and say why. Nothing is sent.

    To the connection tracker the frame is the first of its connection.

    Exit status: 0 delivered, 1 dropped, 2 refused, or a host on the way could not be asked.

    \b
      netmgr trace --from web1 --to 10.10.0.12
      netmgr trace --from blue/web1 --to blue/web2 --proto tcp --dport 443 --brief
    """
    given = {
        "source_port": sport,
        "destination_port": dport,
        "source_mac": source_mac,
        "source_ip": source_ip,
    }
    body = {"source": source, "destination": destination, "protocol": proto}
    answer = connection.post("trace", body | {key: value for key, value in given.items() if value is not None})
    if output != "table":
        print_object(answer, output=output)
    else:
        _print_hop(answer["path"], "", brief=brief)
        click.echo(answer["sentence"])
    raise SystemExit(_EXIT.get(answer["result"], 2))


def _print_hop(hop: dict[str, Any], margin: str, *, brief: bool) -> None:
    click.echo(f"{margin}{hop['host']}, from {hop['via']}")
    inside = margin + "  "
    if hop["problem"]:
        click.echo(f"{inside}! {hop['problem']}")
    for step in () if brief else hop["steps"]:
        deeper = inside + "  " * step["depth"]
        click.echo(f"{deeper}{step['table']} {step['priority']}: {step['match'] or 'any'}")
        for action in step["actions"]:
            click.echo(f"{deeper}    {action}")
    for end in hop["ends"]:
        click.echo(f"{inside}→ {end['sentence']}")
        if end["next"] is not None:
            _print_hop(end["next"], inside + "  ", brief=brief)

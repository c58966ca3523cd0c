"""`netmgr group rule add|remove`: the rules of a security group, one by one."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

from netmgr.cli.client import Connection
from netmgr.cli.output import output_option, print_late_hosts, print_object
from netmgr.cli.resources import pass_connection, path_of, wait_options, waiting

__all__ = ["group_verbs"]


def group_verbs() -> list[click.Command]:
    """Commands of the group `group`."""
    return [rule]


class _Ports(click.ParamType):  # type: ignore[type-arg]
    """A port, or a range such as 8000-8080."""

    name = "ports"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", str(value))
        if found is None:
            self.fail(f"{value!r} is no port; write 80 or 8000-8080", param, context)
        return int(found[1]), int(found[2] or found[1])


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.argument("name"),
    click.option("--ingress/--egress", "ingress", required=True, default=None, help="To the group's ports, or from."),
    click.option("--ethertype", type=click.Choice(["ipv4", "ipv6"]), help="[default: what --cidr says, else ipv4]"),
    click.option("--protocol", help="any, tcp, udp, icmp, icmpv6 or a number.  [default: any]"),
    click.option("--port", "ports", type=_Ports(), metavar="PORT[-PORT]", help="Destination ports.  [default: any]"),
    click.option("--icmp-type", type=int, help="[default: any]"),
    click.option("--icmp-code", type=int, help="[default: any]"),
    click.option("--cidr", "remote_cidr", metavar="CIDR", help="Only with addresses of it.  [default: any]"),
    click.option("--remote-group", metavar="GROUP", help="Only with members of this group."),
)


@click.group("rule")
def rule() -> None:
    """What a group allows, rule by rule. `netmgr group show` lists them."""


def _command(verb: str, path: str, help: str) -> None:
    @wait_options
    @output_option
    @pass_connection
    def run(connection: Connection, /, name: str, output: str, wait: str | None, timeout: float, **fields: Any) -> None:
        answer = connection.post(f"{path_of('groups', name)}/{path}", _body(fields), **waiting(wait, timeout))
        print_object({k: v for k, v in answer.items() if k != "realization" or output != "table"}, output=output)
        if not print_late_hosts(answer):
            raise SystemExit(1)

    decorated: Any = run
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    rule.add_command(click.command(verb, help=help)(decorated))


def _body(fields: dict[str, Any]) -> dict[str, Any]:
    body = {name: value for name, value in fields.items() if value is not None}
    body["direction"] = "ingress" if body.pop("ingress") else "egress"
    if "ports" in body:
        body["port_min"], body["port_max"] = body.pop("ports")
    return body


_command(
    "add",
    "rules",
    "Allow more.\n\n\b\n"
    "  netmgr group rule add web --ingress --protocol tcp --port 80\n"
    "  netmgr group rule add db --ingress --protocol tcp --port 5432 --remote-group web",
)
_command("remove", "rules/remove", "Allow it no more, in open connections either. Takes what `add` took.")

"""`netmgr zone|switch|network|host|port|group`: list, show, create, set, delete, and what only some of them have.

What the six have in common is made from a description (`ResourceOptions`); what is special stands below as itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from netmgr.cli.client import Connection
from netmgr.cli.options import RESOURCE_OPTIONS, ResourceOptions, Seconds
from netmgr.cli.output import list_output_option, output_option, print_late_hosts, print_object, print_objects

__all__ = ["force_option", "pass_connection", "path_of", "resource_groups", "wait_options", "waiting"]

pass_connection = click.make_pass_decorator(Connection)


def resource_groups() -> list[click.Group]:
    """The command groups of all resources."""
    groups = {options.kind: _group(options) for options in RESOURCE_OPTIONS}
    groups["host"].add_command(_host_token)
    return list(groups.values())


def _group(options: ResourceOptions) -> click.Group:
    group = click.Group(options.kind, help=options.help)
    group.add_command(_list_command(options))
    group.add_command(_show_command(options))
    if options.create_help:
        group.add_command(_create_command(options))
    group.add_command(_set_command(options))
    group.add_command(_delete_command(options))
    return group


def _list_command(options: ResourceOptions) -> click.Command:
    @pass_connection
    def run(connection: Connection, /, output: str, **filters: str | bool | None) -> None:
        found = connection.get(options.path, **{name: value for name, value in filters.items() if value})
        more = options.wide_columns if output == "wide" else ()
        print_objects(found, output=output, columns=(*options.columns, *more))

    command = click.command("list", help=f"List {options.path}, with what their hosts say of them.")
    if options.kind == "port":
        run = click.option("--network", help="Only ports of this network.")(run)
        run = click.option("--parked", is_flag=True, help="Only ports whose guest is stopped, or gone.")(run)
    return command(list_output_option(run))


def _show_command(options: ResourceOptions) -> click.Command:
    @click.command("show", help=f"Show one {options.kind}, every field.")
    @click.argument("name")
    @output_option
    @pass_connection
    def show(connection: Connection, name: str, output: str) -> None:
        found = connection.get(path_of(options.path, name))
        if options.kind == "network":  # what a list would be too long with
            span = connection.get(path_of(options.path, name) + "/span")
            found |= {"span": span["span"], "bindings": span["bindings"]}
        print_object(found, output=output)

    return show


def _create_command(options: ResourceOptions) -> click.Command:
    @pass_connection
    def create(
        connection: Connection, /, name: str, output: str, wait: str | None = None, timeout: float = 10, **fields: Any
    ) -> None:
        body = {"name": name, **_body(fields)}
        if options.kind == "port":
            body |= _network_of_port(connection, body)
        _finish(connection.post(options.path, body, **waiting(wait, timeout)), output)

    decorated = wait_options(output_option(create)) if options.waits else output_option(create)
    for option in reversed(options.create_options):
        decorated = option(decorated)
    decorated = click.argument("name")(decorated)
    return click.command("create", help=options.create_help)(decorated)


def _network_of_port(connection: Connection, body: dict[str, Any]) -> dict[str, Any]:
    """A shadow is of the network of its primary."""
    if "shadow_of" in body:
        primary = connection.get(path_of("ports", body["shadow_of"]))
        return {"shadow_of": primary["uuid"], "network": body.get("network", primary["network_uuid"])}
    if "network" not in body:
        raise click.UsageError("name the port's network with --network")
    return {}


def _set_command(options: ResourceOptions) -> click.Command:
    @pass_connection
    def set_(
        connection: Connection,
        /,
        name: str,
        output: str,
        new_name: str | None,
        wait: str | None = None,
        timeout: float = 10,
        **fields: Any,
    ) -> None:
        body = _body(fields)
        if new_name is not None:
            body["name"] = new_name
        if not body:
            raise click.UsageError("nothing to set; see --help for what can be")
        _finish(connection.patch(path_of(options.path, name), body, **waiting(wait, timeout)), output)

    decorated = wait_options(output_option(set_)) if options.waits else output_option(set_)
    for option in reversed((click.option("--name", "new_name", help="New name."), *options.set_options)):
        decorated = option(decorated)
    decorated = click.argument("name")(decorated)
    return click.command("set", help=options.set_help)(decorated)


def _delete_command(options: ResourceOptions) -> click.Command:
    @pass_connection
    def delete(connection: Connection, names: tuple[str, ...], force: bool = False) -> None:
        for name in names:
            connection.delete(path_of(options.path, name), force=True if force else None)

    decorated: Any = delete
    if options.kind == "port":
        decorated = force_option(decorated)
    decorated = click.argument("names", nargs=-1, required=True, metavar="NAME…")(decorated)
    return click.command("delete", help=options.delete_help)(decorated)


def force_option(function: Callable[..., Any]) -> Any:
    return click.option(
        "--force", is_flag=True, help="Also while a host holds the port for a running VM, which is cut off then."
    )(function)


@click.command("token")
@click.option("--name", default="", help="Name the host shall have; otherwise it chooses.")
@click.option("--zone", "zones", multiple=True, help="Transport zone it shall be in; may be repeated.")
@click.option("--ttl", type=Seconds(), default="1h", show_default=True, help="How long it is good: 90s, 30m, 1h, 2d.")
@pass_connection
def _host_token(connection: Connection, name: str, zones: tuple[str, ...], ttl: int) -> None:
    """Print a join token: good for one host, once.

    Only the token goes to standard output. It holds the fingerprint of this manager's CA, so the host knows that it
    speaks to the right one.

    \b
      TOKEN=$(netmgr host token --name h1 --zone a)
      hostagent join --manager 192.0.2.1:7443 --token "$TOKEN" --pnic eth1        # on h1
    """
    answer = connection.post("tokens", {"name": name, "zones": list(zones), "ttl_s": ttl})
    click.echo(answer["token"])
    click.echo(f"good for one host until {answer['expires_at']}", err=True)


def wait_options(function: Callable[..., Any]) -> Any:
    wait = click.option(
        "--wait",
        type=click.Choice(["realized"]),
        help="Return when every reachable host has confirmed; hosts that are late are named, exit code 1.",
    )
    timeout = click.option("--timeout", type=float, default=10, show_default=True, help="Seconds to wait at most.")
    return wait(timeout(function))


def waiting(wait: str | None, timeout: float) -> dict[str, Any]:
    return {"wait": wait, "timeout_s": timeout} if wait else {}


def _finish(answer: dict[str, Any], output: str) -> None:
    shown = {name: value for name, value in answer.items() if name != "realization" or output != "table"}
    print_object(shown, output=output)
    if not print_late_hosts(answer):
        raise SystemExit(1)


def _body(options: dict[str, Any]) -> dict[str, Any]:
    """The fields that the given options ask for: `--no-LIST` empties it, `--down` and `--up` are `admin_up`."""
    body: dict[str, Any] = {}
    for name, value in options.items():
        if name == "admin_down":
            if value is not None:
                body["admin_up"] = not value
        elif name.startswith("no_"):
            if value:
                body[name.removeprefix("no_")] = []
        elif isinstance(value, tuple):
            if value:
                body[name] = list(value)
        elif value is not None:
            body[name] = value
    return body


def path_of(collection: str, name: str) -> str:
    from urllib.parse import quote

    return f"{collection}/{quote(name.replace('/', ':'), safe=':')}"

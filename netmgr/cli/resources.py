"""`netmgr zone|switch|network|host|port`: list, show, create, set, delete, and what only some of them have.

What the five have in common is made from a description (`ResourceOptions`); what is special stands below as itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from netmgr.cli.client import Connection
from netmgr.cli.options import RESOURCE_OPTIONS, ResourceOptions, Seconds
from netmgr.cli.output import output_option, print_late_hosts, print_object, print_objects

__all__ = ["pass_connection", "resource_groups", "wait_options", "waiting"]

pass_connection = click.make_pass_decorator(Connection)


def resource_groups() -> list[click.Group]:
    """The command groups of all resources."""
    groups = {options.kind: _group(options) for options in RESOURCE_OPTIONS}
    groups["host"].add_command(_host_token)
    groups["port"].add_command(_port_attach)
    groups["port"].add_command(_port_detach)
    groups["network"].add_command(_network_realization)
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
    def run(connection: Connection, /, output: str, **filters: str | None) -> None:
        found = connection.get(options.path, **filters)
        print_objects(found, output=output, columns=options.columns)

    command = click.command("list", help=f"List {options.path}, with what their hosts say of them.")
    if options.kind == "port":
        run = click.option("--network", help="Only ports of this network.")(run)
    return command(output_option(run))


def _show_command(options: ResourceOptions) -> click.Command:
    @click.command("show", help=f"Show one {options.kind}, every field.")
    @click.argument("name")
    @output_option
    @pass_connection
    def show(connection: Connection, name: str, output: str) -> None:
        print_object(connection.get(_path(options.path, name)), output=output)

    return show


def _create_command(options: ResourceOptions) -> click.Command:
    @pass_connection
    def create(
        connection: Connection, /, name: str, output: str, wait: str | None = None, timeout: float = 10, **fields: Any
    ) -> None:
        body = {"name": name, **_body(fields)}
        _finish(connection.post(options.path, body, **waiting(wait, timeout)), output)

    decorated = wait_options(output_option(create)) if options.waits else output_option(create)
    for option in reversed(options.create_options):
        decorated = option(decorated)
    decorated = click.argument("name")(decorated)
    return click.command("create", help=options.create_help)(decorated)


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
        _finish(connection.patch(_path(options.path, name), body, **waiting(wait, timeout)), output)

    decorated = wait_options(output_option(set_)) if options.waits else output_option(set_)
    for option in reversed((click.option("--name", "new_name", help="New name."), *options.set_options)):
        decorated = option(decorated)
    decorated = click.argument("name")(decorated)
    return click.command("set", help=options.set_help)(decorated)


def _delete_command(options: ResourceOptions) -> click.Command:
    @pass_connection
    def delete(connection: Connection, names: tuple[str, ...], force: bool = False) -> None:
        for name in names:
            connection.delete(_path(options.path, name), force=True if force else None)

    decorated: Any = delete
    if options.kind == "port":
        decorated = _force_option(decorated)
    decorated = click.argument("names", nargs=-1, required=True, metavar="NAME…")(decorated)
    return click.command("delete", help=options.delete_help)(decorated)


def _force_option(function: Callable[..., Any]) -> Any:
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


@click.command("attach")
@click.argument("name")
@click.option("--vif", required=True, metavar="UUID", help="The virtual NIC's UUID (libvirt: interfaceid).")
@output_option
@pass_connection
def _port_attach(connection: Connection, name: str, vif: str, output: str) -> None:
    """Attach a VIF to a port.

    \b
      netmgr port attach web1 --vif 0f6dbd3f-9c5b-4c0e-a0f7-52f6a4f2b0c1
    """
    print_object(connection.post(_path("ports", name) + "/attach", {"vif_uuid": vif}), output=output)


@click.command("detach")
@click.argument("name")
@_force_option
@output_option
@pass_connection
def _port_detach(connection: Connection, name: str, force: bool, output: str) -> None:
    """Take the VIF off a port. Refused while its VM runs."""
    answer = connection.post(_path("ports", name) + "/detach", force=True if force else None)
    print_object(answer, output=output)


@click.command("realization")
@click.argument("name")
@output_option
@pass_connection
def _network_realization(connection: Connection, name: str, output: str) -> None:
    """Show, for each host that must carry the network, whether it does."""
    answer = connection.get(_path("networks", name) + "/realization")
    print_objects(answer["realization"]["hosts"], output=output, columns=("host", "state", "reason"))


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


def _path(collection: str, name: str) -> str:
    from urllib.parse import quote

    return f"{collection}/{quote(name.replace('/', ':'), safe=':')}"

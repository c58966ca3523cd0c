"""What the command line prints: tables for people, JSON and YAML for programs.

Results go to standard output, remarks (such as hosts that are late) to standard error, so that output can be piped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

__all__ = ["list_output_option", "output_option", "print_late_hosts", "print_object", "print_objects"]

F = TypeVar("F", bound=Callable[..., Any])


def output_option(function: F) -> F:
    """The option -o of every command that prints something."""
    return _output_option(["table", "json", "yaml"], "Form of the result.")(function)


def list_output_option(function: F) -> F:
    """The option -o of commands that list: `wide` is a table with more columns."""
    return _output_option(["table", "wide", "json", "yaml"], "Form of the result; wide has more columns.")(function)


def _output_option(forms: list[str], help: str) -> Callable[[F], F]:
    return click.option(
        "-o",
        "--output",
        type=click.Choice(forms),
        default="table",
        envvar="NETMGR_OUTPUT",
        show_default=True,
        help=help,
    )


def print_objects(objects: Sequence[dict[str, Any]], *, output: str, columns: Sequence[str]) -> None:
    """A list; the table shows *columns* only."""
    if output not in ("table", "wide"):
        _print_data(objects, output)
        return
    _print_table(_rows(objects, columns))


def print_object(item: dict[str, Any], *, output: str) -> None:
    """One object, every field; a field that is a list of objects is a table of its own, below the others."""
    if output != "table":
        _print_data(item, output)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    below = {name: value for name, value in item.items() if _is_list_of_objects(value)}
    for name, value in item.items():
        if name not in below:
            table.add_row(name, _cell(value))
    _print_table(table)
    for name, objects in below.items():
        click.echo(f"\n{name}:")
        columns = tuple(dict.fromkeys(key for one in objects for key in one))  # some may lack what others have
        _print_table(_rows([{key: _brief(value) for key, value in one.items()} for one in objects], columns))


def _rows(objects: Sequence[dict[str, Any]], columns: Sequence[str]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in ("uuid", "name", "mac"))
    for item in objects:
        table.add_row(*(_cell(item.get(column)) for column in columns))
    return table


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) and one for one in value)


def _brief(value: Any) -> Any:
    """Objects within a row by their first field, which names them; -o json has the rest."""
    return [next(iter(one.values())) for one in value] if _is_list_of_objects(value) else value


def print_late_hosts(answer: dict[str, Any]) -> bool:
    """Name the hosts that have not realized what was asked; False when there are any."""
    realization = answer.get("realization")
    if realization is None or realization["realized"]:
        return True
    for host in realization["hosts"]:
        if host["state"] != "realized":
            click.echo(f"host {host['host']}: {host['state']}: {host['reason']}", err=True)
    return False


def _print_data(value: Any, output: str) -> None:
    if output == "json":
        import json

        click.echo(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        import yaml

        click.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), nl=False)


def _print_table(table: Any) -> None:
    from rich.console import Console

    if sys.stdout.isatty():
        Console(highlight=False, emoji=False).print(table)
        return
    # Not a terminal: never wrap, so that grep and awk see one line an object.
    console = Console(width=10_000, highlight=False, emoji=False)  # `:ab:` is a part of a MAC
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def _cell(value: Any) -> str:
    from rich.markup import escape

    return escape(_text(value))


def _text(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name}={_text(item)}" for name, item in value.items())
    return str(value)

"""How answers are shown: a table for people, JSON or YAML for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

__all__ = ["output_option", "show", "wide_output_option"]

F = TypeVar("F", bound=Callable[..., Any])
Column = tuple[str, Callable[[Any], Any]]


def output_option(command: F) -> F:
    """Adds `-o table|json|yaml`."""
    return _option(["table", "json", "yaml"])(command)


def wide_output_option(command: F) -> F:
    """Adds `-o table|wide|json|yaml`."""
    return _option(["table", "wide", "json", "yaml"])(command)


def show(
    value: Any, output: str, *, columns: Sequence[Column] = (), wide: Sequence[Column] = (), rows: Any = None
) -> None:
    """Prints *value*; as a table of *rows* (or of *value* itself) when people look."""
    if output == "json":
        click.echo(json.dumps(value, indent=2))
    elif output == "yaml":
        import yaml

        click.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), nl=False)
    else:
        _table(value if rows is None else rows, [*columns, *(wide if output == "wide" else ())])


def _option(choices: list[str]) -> Callable[[F], F]:
    return click.option(
        "-o", "--output", type=click.Choice(choices), default="table", show_default=True, help="Form of the answer."
    )


def _table(rows: Any, columns: Sequence[Column]) -> None:
    if isinstance(rows, Mapping):
        rows = [rows]
    if not columns:
        _pairs(rows)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold" if sys.stdout.isatty() else "")
    for title, _ in columns:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value(row)) for _, value in columns))
    # beside a pipe nothing is folded: programs cut columns at spaces
    width = None if sys.stdout.isatty() else 10_000
    Console(width=width, markup=False, highlight=False, emoji=False).print(table)


def _pairs(rows: Sequence[tuple[str, Any]]) -> None:
    width = max((len(title) for title, _ in rows), default=0)
    for title, value in rows:
        lines = value if isinstance(value, list) else [value]
        for index, line in enumerate(lines or ["-"]):
            click.echo(f"{title if index == 0 else '':<{width}}  {_cell(line)}")


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "-"
    return str(value)

"""What the commands share: settings, failures, values as table, JSON or YAML, and files for others to read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = ["Failure", "Settings", "format_option", "print_table", "print_value", "put_whole"]

F = TypeVar("F", bound=Callable[..., Any])


class Failure(Exception):
    """A foreseen failure: one sentence for the user, and the exit status."""

    def __init__(self, sentence: str, *, status: int = 1) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where things are on this host, from the options before the command."""

    state_dir: Path
    socket: Path
    ovs_rundir: Path
    ovs_database: Path
    libvirt_uri: str


def format_option(function: F) -> F:
    """`-o table|json|yaml`."""
    option = click.option(
        "-o",
        "--output",
        "form",
        type=click.Choice(["table", "json", "yaml"]),
        default="table",
        help="Form of the answer.",
    )
    return option(function)


def print_value(value: Any, form: str) -> None:
    """Print *value* (plain lists, dicts and scalars) as JSON or YAML."""
    if form == "json":
        click.echo(json.dumps(value, indent=2))
    else:
        import yaml

        click.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), nl=False)


def print_table(title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print *rows* under *columns*, which name keys of the rows."""
    if not rows:
        click.echo(f"{title}: none")
        return
    cells = [[_text(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(column), *(len(line[index]) for line in cells)) for index, column in enumerate(columns)]
    click.echo(f"{title}:")
    for line in ([column.upper() for column in columns], *cells):
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo(f"  {text.rstrip()}")


def put_whole(path: Path, text: str) -> None:
    """Make *text* the content of *path* for whoever may read; nobody meets half of it.

    Raises:
        OSError: it can't be written.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_text(text)
        fresh.chmod(0o644)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _text(value: Any) -> str:
    if value is None or value == "" or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return str(value)

"""`vmctl migrate` and `vmctl why-not`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import click

from vmctl.cli.client import Failure, call
from vmctl.cli.output import output_option, show

__all__ = ["migrate", "why_not"]

POLL_S = 0.2
Show = Callable[[dict[str, Any]], None]

_COLUMNS = [
    ("ID", lambda row: row["migration"]["id"]),
    ("VM", lambda row: row["migration"]["vm_name"]),
    ("FROM", lambda row: row["migration"]["source"]),
    ("TO", lambda row: row["migration"]["destination"]),
    ("STATE", lambda row: row["migration"]["state"]),
    ("BEGAN", lambda row: row["migration"]["started_at"]),
    ("TOTAL MS", lambda row: row["migration"]["total_ms"]),
    ("PAUSE MS", lambda row: row["migration"]["downtime_ms"]),
    ("SENTENCE", lambda row: row["migration"]["sentence"]),
]


@click.command()
@click.argument("vm", required=False)
@click.argument("host", required=False)
@click.option("--auto-converge", is_flag=True, help="Slow the guest down when it writes faster than memory is copied.")
@click.option("--bandwidth", "bandwidth_mib_s", default=0, metavar="MIB/S", help="Copy at most this fast.")
@click.option("--no-wait", is_flag=True, help="Come back at once; `vmctl migrate --list` tells how it went.")
@click.option("--cancel", is_flag=True, help="Stop the move of VM that is under way; it runs on where it is.")
@click.option("--list", "list_all", is_flag=True, help="List moves, newest first, of VM or of all.")
@output_option
def migrate(
    vm: str | None,
    host: str | None,
    auto_converge: bool,
    bandwidth_mib_s: int,
    no_wait: bool,
    cancel: bool,
    list_all: bool,
    output: str,
) -> None:
    """Move the running VM to HOST, live.

    Refused, with exit code 2 and before anything moves, when HOST lacks one of the VM's networks or is not fit to take
    it; `vmctl why-not VM HOST` asks without moving. When the move fails the VM runs on where it is. Ctrl-C stops the
    move; twice leaves it to itself.
    """
    if list_all:
        rows = [row for row in call("GET", "/migrations") if vm in (None, row["migration"]["vm_name"])]
        show(rows, output, columns=_COLUMNS)
        return
    if vm is None or (host is None and not cancel):
        raise click.UsageError("VM and HOST are wanted: vmctl migrate VM HOST")
    if cancel:
        found = _cancel(vm)
    else:
        body = {"host": host, "auto_converge": auto_converge, "bandwidth_mib_s": bandwidth_mib_s}
        found = call("POST", f"/vms/{quote(vm, safe='')}/migrate", body=body)
        if not no_wait:
            found = _follow(found, quiet=output != "table")
    _show(found, output, waited=not no_wait)


@click.command("why-not")
@click.argument("vm")
@click.argument("host")
@output_option
def why_not(vm: str, host: str, output: str) -> None:
    """Tell whether VM may move to HOST (or, being off, start there), and if not, why not.

    Exit code 0 when it may, 1 when it may not. Nothing is moved.
    """
    found = call("GET", f"/vms/{quote(vm, safe='')}/refusals", host=host)
    if output == "table":
        for line in [item["sentence"] for item in found["refusals"]] or [found["sentence"]]:
            click.echo(line)
    else:
        show(found, output)
    sys.exit(0 if found["eligible"] else 1)


def _show(found: dict[str, Any], output: str, *, waited: bool) -> None:
    row = found["migration"]
    if output != "table":
        show(found, output)
    elif row["state"] == "done":
        times = [
            f"{row['total_ms']} ms in all" if row["total_ms"] is not None else "",
            f"paused {row['downtime_ms']} ms (QEMU)" if row["downtime_ms"] is not None else "",
            f"{row['transferred_mib']} MiB copied" if row["transferred_mib"] is not None else "",
        ]
        click.echo(f"{row['sentence']}; " + ", ".join(filter(None, times)))
    elif row["state"] != "failed":
        click.echo(
            f"migration {row['id']}: {row['vm_name']} from {row['source']} to {row['destination']}, {row['state']}"
        )
    if row["state"] == "failed" and waited:
        raise Failure(row["sentence"])


def _cancel(vm: str) -> dict[str, Any]:
    which = next(
        (
            row["migration"]
            for row in call("GET", "/migrations")
            if vm in (row["migration"]["vm_name"], row["migration"]["vm_uuid"])
            and row["migration"]["state"] not in ("done", "failed")
        ),
        None,
    )
    if which is None:
        raise Failure(f"{vm} is not on the move; see vmctl migrate --list")
    found = call("POST", f"/migrations/{which['id']}/cancel")
    while found["migration"]["state"] == "migrating":
        time.sleep(POLL_S)
        found = call("GET", f"/migrations/{which['id']}")
    if found["migration"]["state"] == "failed":  # which is what was asked for
        click.echo(found["migration"]["sentence"])
        sys.exit(0)
    result: dict[str, Any] = found
    return result


def _follow(found: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    id = found["migration"]["id"]
    interrupted = False
    with _progress(quiet) as tell:
        while found["migration"]["state"] not in ("done", "failed"):
            try:
                time.sleep(POLL_S)
                found = call("GET", f"/migrations/{id}")
                tell(found)
            except KeyboardInterrupt:
                if interrupted:
                    raise Failure(f"left to itself; vmctl migrate --list tells how migration {id} ends") from None
                interrupted = True
                click.echo("stopping the move; once more leaves it to itself", err=True)
                try:
                    call("POST", f"/migrations/{id}/cancel")
                except Failure as error:
                    click.echo(error.message, err=True)
    return found


@contextmanager
def _progress(quiet: bool):  # type: ignore[no-untyped-def]
    if quiet:
        yield lambda _found: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[said]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("copying memory", total=None, said="")

            def tell(found: dict[str, Any]) -> None:
                p = found["progress"]
                if p and p["total_mib"] and p["remaining_mib"] is not None:
                    copied = p["total_mib"] - p["remaining_mib"]
                    bar.update(task, total=p["total_mib"], completed=copied, said=_said(p))

            yield tell
    else:
        last = ""

        def tell_line(found: dict[str, Any]) -> None:
            nonlocal last
            said = _said(found["progress"]) if found["progress"] else ""
            if said and said != last:
                click.echo(said, err=True)
                last = said

        yield tell_line


def _said(progress: dict[str, Any]) -> str:
    parts = [
        f"{progress['remaining_mib']} MiB left" if progress["remaining_mib"] is not None else "",
        f"{progress['rate_mib_s']:.0f} MiB/s" if progress["rate_mib_s"] is not None else "",
        f"pause {progress['downtime_ms']} ms expected" if progress["downtime_ms"] is not None else "",
    ]
    return ", ".join(filter(None, parts))

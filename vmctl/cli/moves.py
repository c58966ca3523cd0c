"""`vmctl migrate` and `vmctl why-not`.

A move is followed by asking for its row until it is over. What is asked for and what is said are the daemon's; here is
only how it is shown.
"""

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

__all__ = ["MOVE_COLUMNS", "follow_move", "migrate", "show_move", "why_not"]

POLL_S = 0.2
FAILED = ("failed", "undoing")
SETTLED = ("committed", "done", *FAILED)
Show = Callable[[dict[str, Any]], None]

MOVE_COLUMNS = [
    ("ID", lambda row: row["id"]),
    ("VM", lambda row: row["vm_name"]),
    ("FROM", lambda row: row["source"]),
    ("TO", lambda row: row["destination"]),
    ("KIND", lambda row: row["kind"]),
    ("STATE", lambda row: row["state"]),
    ("BEGAN", lambda row: row["started_at"]),
    ("TOTAL MS", lambda row: row["total_ms"]),
    ("PAUSE MS", lambda row: row["downtime_ms"]),
    ("GAP MS", lambda row: row["gap_ms"]),
    ("SENTENCE", lambda row: row["sentence"]),
]


@click.command()
@click.argument("vm", required=False)
@click.argument("host", required=False)
@click.option("--cold", is_flag=True, help="Move a VM that is off: its definition; its disks must be shared.")
@click.option(
    "--bandwidth", "bandwidth_mib_s", default=0, metavar="MIB/S", help="Copy at most this fast; default: its share."
)
@click.option("--auto-converge", is_flag=True, help="Slow the guest down when it writes faster than memory is copied.")
@click.option("--max-pause", "max_pause_ms", default=0, metavar="MS", help="Switch over once this pause is enough.")
@click.option(
    "--suspend-after", "suspend_after_s", default=0.0, metavar="S", help="Pause the guest if the copy takes longer."
)
@click.option("--timeout", "timeout_s", default=0.0, metavar="S", help="Give up if the copy takes longer.")
@click.option(
    "--post-copy",
    is_flag=True,
    help="After one pass let it run there and fetch the rest: ends for sure, but a link that breaks then ends the VM.",
)
@click.option("--dry-run", is_flag=True, help="Tell what would be done or why not; move nothing.")
@click.option("--no-wait", is_flag=True, help="Come back at once; `vmctl task list` tells how it went.")
@click.option("--cancel", is_flag=True, help="Stop the move of VM that is under way; it runs on where it is.")
@click.option("--list", "list_all", is_flag=True, help="List moves, newest first, of VM or of all.")
@output_option
def migrate(
    vm: str | None,
    host: str | None,
    dry_run: bool,
    no_wait: bool,
    cancel: bool,
    list_all: bool,
    output: str,
    **policy: Any,
) -> None:
    """Move VM to HOST: live while it runs, its definition when it is off.

    Refused, with exit code 2 and before anything moves, when HOST lacks one of the VM's networks or is not fit to take
    it; `--dry-run` asks without moving. Moves share the links of both ends and wait for room on them. When a network
    is withdrawn from HOST while memory is copied, the move stops. When a move fails the VM runs on where it was.
    Ctrl-C stops it; twice leaves it to itself. It goes on without this command, and without the daemon.
    """
    if list_all:
        moves = [row for row in call("GET", "/migrations") if vm in (None, row["migration"]["vm_name"])]
        show(moves, output, rows=[row["migration"] for row in moves], columns=MOVE_COLUMNS)
        return
    if vm is None or (host is None and not cancel):
        raise click.UsageError("VM and HOST are wanted: vmctl migrate VM HOST")
    path = f"/vms/{quote(vm, safe='')}"
    if dry_run:
        cold = "true" if policy["cold"] else "false"
        answer = call("GET", f"{path}/move-refusals", host=str(host), cold=cold)
        if not answer["eligible"]:
            raise Failure(answer["sentence"], refused=True)
        show(answer, output, rows=[("would", answer["sentence"])])
        return
    if cancel:
        found = _cancel(vm)
    else:
        found = call("POST", f"{path}/migrate", body={"host": host, **policy})
        if not no_wait:
            found = follow_move(found, quiet=output != "table")
    show_move(found, output, waited=not no_wait)


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


def show_move(found: dict[str, Any], output: str, *, waited: bool) -> None:
    """Prints how the move went; `Failure` when it failed and was waited for."""
    row = found["migration"]
    if output != "table":
        show(found, output)
    elif row["state"] == "done":
        times = [
            f"{row['total_ms']} ms in all" if row["total_ms"] is not None else "",
            f"paused {row['downtime_ms']} ms (QEMU)" if row["downtime_ms"] is not None else "",
            f"lit {row['gap_ms']} ms after the pause (network)" if row["gap_ms"] is not None else "",
            f"{row['transferred_mib']} MiB copied" if row["transferred_mib"] is not None else "",
        ]
        click.echo("; ".join(filter(None, [row["sentence"], ", ".join(filter(None, times))])))
    elif row["state"] not in FAILED:
        click.echo(
            f"migration {row['id']}: {row['vm_name']} from {row['source']} to {row['destination']}, {row['state']}"
        )
    if row["state"] in FAILED and waited:
        raise Failure(row["sentence"])


def _cancel(vm: str) -> dict[str, Any]:
    which = next(
        (
            row["migration"]
            for row in call("GET", "/migrations")
            if vm in (row["migration"]["vm_name"], row["migration"]["vm_uuid"])
            and row["migration"]["state"] not in SETTLED
        ),
        None,
    )
    if which is None:
        raise Failure(f"{vm} is not on the move; see vmctl migrate --list")
    found = call("POST", f"/migrations/{which['id']}/cancel")
    while not found["over"]:
        time.sleep(POLL_S)
        found = call("GET", f"/migrations/{which['id']}")
    if found["migration"]["state"] in FAILED:  # which is what was asked for
        click.echo(found["migration"]["sentence"])
        sys.exit(0)
    result: dict[str, Any] = found
    return result


def follow_move(found: dict[str, Any], *, quiet: bool, stops: bool = True) -> dict[str, Any]:
    """The move once it is over; Ctrl-C stops it, or with *stops* False only the following."""
    id = found["migration"]["id"]
    interrupted = False
    with _progress(quiet) as tell:
        while not found["over"]:
            try:
                time.sleep(POLL_S)
                found = call("GET", f"/migrations/{id}")
                tell(found)
            except KeyboardInterrupt:
                if not stops:
                    raise
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
                if found["waits"]:
                    bar.update(task, said=found["waits"])
                elif p and p["total_mib"] and p["remaining_mib"] is not None:
                    copied = p["total_mib"] - p["remaining_mib"]
                    bar.update(task, total=p["total_mib"], completed=copied, said=_said(p))

            yield tell
    else:
        last = ""

        def tell_line(found: dict[str, Any]) -> None:
            nonlocal last
            said = _said(found["progress"]) if found["progress"] else found["waits"]
            if said and said != last:
                click.echo(said, err=True)
                last = said

        yield tell_line


def _said(progress: dict[str, Any]) -> str:
    if not progress["total_mib"]:
        return ""  # QEMU is only starting there
    parts = [
        f"{progress['remaining_mib']} MiB left" if progress["remaining_mib"] is not None else "",
        f"{progress['rate_mib_s']:.0f} MiB/s" if progress["rate_mib_s"] is not None else "",
        f"pause {progress['downtime_ms']} ms expected" if progress["downtime_ms"] is not None else "",
    ]
    return ", ".join(filter(None, parts))

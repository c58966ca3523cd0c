"""`vmctl task`, `vmctl events`, `vmctl vm history`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from vmctl.cli.client import Failure, call
from vmctl.cli.moves import MOVE_COLUMNS, follow_move, show_move
from vmctl.cli.output import output_option, show
from vmctl.cli.vms import vm

__all__ = ["events", "task"]

POLL_S = 0.3
_COLUMNS = [
    ("ID", lambda row: row["id"]),
    ("KIND", lambda row: row["kind"]),
    ("SUBJECT", lambda row: row["subject"]),
    ("STATE", lambda row: row["state"]),
    ("BEGAN", lambda row: row["started_at"]),
    ("OF TASK", lambda row: row["parent_id"]),
    ("SENTENCE", lambda row: row["sentence"]),
]


@click.group()
def task() -> None:
    """What takes long: moves, evacuations."""


@task.command("list")
@click.option("--running", is_flag=True, help="Only those that run.")
@output_option
def list_tasks(running: bool, output: str) -> None:
    """List tasks, newest first."""
    found = [row for row in call("GET", "/tasks") if not running or row["state"] == "running"]
    show(found, output, columns=_COLUMNS)


@task.command("show")
@click.argument("id", type=int)
@output_option
def show_task(id: int, output: str) -> None:
    """Show one task with its steps."""
    found = call("GET", f"/tasks/{id}")
    steps = [" ".join(filter(None, (e["at"], e["what"], e["sentence"]))) for e in found["steps"]]
    rows = [*found["task"].items(), ("waits for", (found["move"] or {}).get("waits", "")), ("steps", steps)]
    show(found, output, rows=rows)


@task.command("watch")
@click.argument("id", type=int)
@output_option
def watch_task(id: int, output: str) -> None:
    """Follow a task to its end; exit code 1 when it fails. Ctrl-C only ends the watching."""
    found = call("GET", f"/tasks/{id}")
    try:
        if found["move"] is not None:
            moved = follow_move(found["move"], quiet=output != "table", stops=False)
            show_move(moved, output, waited=True)
            return
        while found["task"]["state"] == "running":
            time.sleep(POLL_S)
            found = call("GET", f"/tasks/{id}")
    except KeyboardInterrupt:
        raise Failure(f"task {id} goes on; vmctl task show {id} tells how it ends") from None
    if found["task"]["state"] == "failed":
        raise Failure(found["task"]["sentence"])
    show(found, output, rows=[(key, found["task"][key]) for key in ("kind", "subject", "state", "sentence")])


@click.command()
@click.option("--follow", "-f", is_flag=True, help="Go on with each event as it happens, until Ctrl-C.")
@click.option("--after", default=0, metavar="ID", help="Only events with a number above this.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="json: a line each.",
)
def events(follow: bool, after: int, output: str) -> None:
    """Tell what happened: steps of moves, tasks, VMs that changed, hosts lost and found."""
    import httpx

    socket: Path = click.get_current_context().find_root().obj
    transport = httpx.HTTPTransport(uds=str(socket))
    timeout = httpx.Timeout(10.0, read=60.0)
    query = {"after": str(after), "follow": "true" if follow else "false"}
    try:
        with (
            httpx.Client(transport=transport, base_url="http://vmctl/api/v1", timeout=timeout) as client,
            client.stream("GET", "/events", params=query) as answer,
        ):
            for line in filter(None, answer.iter_lines()):
                click.echo(line if output == "json" else _told(json.loads(line)))
    except KeyboardInterrupt:
        return
    except (httpx.ConnectError, FileNotFoundError) as error:
        raise Failure(f"no vmctl serves at {socket} ({error}); start it: vmctl serve") from None
    except httpx.HTTPError as error:
        raise Failure(f"the daemon at {socket} broke off: {error or type(error).__name__}; see its log") from None


@vm.command()
@click.argument("name")
@output_option
def history(name: str, output: str) -> None:
    """List the moves of a VM, newest first, with QEMU's pause and the network's gap."""
    show(call("GET", f"/vms/{quote(name, safe='')}/history"), output, columns=MOVE_COLUMNS)


def _told(event: dict[str, Any]) -> str:
    said = f": {event['sentence']}" if event["sentence"] else ""
    return f"{event['at']} {event['kind']} {event['subject']} {event['what']}{said}"

"""`vmctl place`, `vmctl balance`, `vmctl rule`, `vmctl settings` and `vmctl host maintenance`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import click

from vmctl.cli.client import call
from vmctl.cli.output import output_option, show

__all__ = ["balance", "maintenance", "place", "rule", "settings"]

POLL_S = 0.3

_MOVES = [
    ("VM", lambda row: row["vm_name"]),
    ("FROM", lambda row: row["source"]),
    ("TO", lambda row: row["destination"]),
    ("MIB", lambda row: row["memory_mib"]),
    ("SOURCE", lambda row: f"{row['source_load']:.0%} > {row['source_load_after']:.0%}"),
    ("DESTINATION", lambda row: f"{row['destination_load']:.0%} > {row['destination_load_after']:.0%}"),
]
_WORTH = [("BENEFIT", lambda row: row["benefit"]), ("COST", lambda row: row["cost"])]


@click.command()
@click.argument("vm")
@click.option("--explain", is_flag=True, help="Every host: its score, or every reason why not.")
@output_option
def place(vm: str, explain: bool, output: str) -> None:
    """Tell where VM would go: start, when it is off, or move.

    The answer is the best host's name; exit code 1, with the reasons, when no host may take it. Nothing is started or
    moved. Scores weigh load, PNIC bandwidth, health and free ports (`vmctl settings`); 100 is the most, and a VM that
    is off has a bonus at home.

    \b
      vmctl place web --explain
    """
    found = call("GET", f"/vms/{quote(vm, safe='')}/places")
    if output != "table":
        show(found, output)
    elif explain:
        rows = [
            {"host": host["host"], "score": host["score"] if index == 0 else "", "why": why}
            for host in found["hosts"]
            for index, why in enumerate([f"{r['code']}: {r['sentence']}" for r in host["refusals"]] or [""])
        ]
        columns: list[tuple[str, Callable[[Any], Any]]] = [
            ("HOST", lambda row: row["host"]),
            ("SCORE", lambda row: row["score"]),
            ("WHY NOT", lambda row: row["why"]),
        ]
        show(rows, output, columns=columns)
    elif found["best"]:
        click.echo(found["best"])
    else:
        for host in found["hosts"]:
            for refusal in host["refusals"]:
                click.echo(refusal["sentence"])
    sys.exit(0 if found["best"] else 1)


@click.command()
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Show the plan; mark nothing, move nothing.")
@click.option("--off", is_flag=True, help="End it: the host takes VMs again.")
@click.option("--yes", is_flag=True, help="Do not ask after the plan was shown.")
@click.option("--no-wait", is_flag=True, help="Come back once it has begun.")
@output_option
def maintenance(name: str, dry_run: bool, off: bool, yes: bool, no_wait: bool, output: str) -> None:
    """Take the host NAME out of service: no VM comes any more, those that run there are moved away.

    The plan comes first: which VM goes where, and which cannot go and why. The host stays in maintenance, also over
    restarts of the daemon, until `--off`; VMs do not come back by themselves. Exit code 1 when something still runs
    there at the end.

    \b
      vmctl host maintenance h1 --dry-run
      vmctl host maintenance h1
      vmctl host maintenance h1 --off
    """
    path = f"/hosts/{quote(name, safe='')}/maintenance"
    if off:
        call("DELETE", path)
        click.echo(f"{name} takes VMs again")
        return
    planned = call("POST", path, body={"dry_run": True})
    if dry_run or output == "table":
        _show_plan(planned, planned["run"]["plan"], output)
    if dry_run:
        sys.exit(1 if planned["run"]["plan"]["sentence"] else 0)
    if not yes and output == "table" and sys.stdin.isatty():
        click.confirm(f"empty {name}?", abort=True)
    found = call("POST", path, body={"dry_run": False})
    if not no_wait:
        found = _follow(lambda: call("GET", path), quiet=output != "table")
    _end(found, found["run"], output, waited=not no_wait)
    if not no_wait and not found["run"]["sentence"].endswith("runs nothing"):
        sys.exit(1)


@click.command()
@click.option("--dry-run", is_flag=True, help="Show what a pass would move; the default.")
@click.option("--apply", "apply_", is_flag=True, help="Make the moves.")
@click.option(
    "--policy", type=click.Choice(["spread", "consolidate"]), help="For this pass; default: `vmctl settings`."
)
@click.option("--auto", type=click.Choice(["on", "off"]), help="Let the daemon make a pass every few minutes, or not.")
@output_option
def balance(dry_run: bool, apply_: bool, policy: str | None, auto: str | None, output: str) -> None:
    """Show, or make, the moves that make the load of the hosts better.

    spread evens out what hosts give away of CPUs and memory; consolidate empties hosts while load is low, such that any
    one of the others may fail and every network keeps two hosts. A move is only made when it gains more than it costs.
    A VM that has just moved stays for a while, and does not go back to where it was for longer. No VM goes to a host
    where one of its networks is absent, unhealthy or not in sync.

    \b
      vmctl balance --dry-run
      vmctl balance --apply --policy consolidate
      vmctl balance --auto on --policy spread
    """
    if dry_run and (apply_ or auto):
        raise click.UsageError("--dry-run changes nothing, so it goes with neither --apply nor --auto")
    if auto:
        changed = {"balance_auto": auto == "on"} | ({"policy": policy} if policy else {})
        found = call("PATCH", "/placement/settings", body=changed)
        every = f", every {found['balance_every_s']:.0f} s" if found["balance_auto"] else ""
        show(found, output, rows=[("automatic", f"{auto}{every}"), ("policy", found["policy"])])
        if not apply_:
            return
    found = call("POST", "/balance", body={"policy": policy, "apply": apply_})
    run = found["run"]
    if not apply_ or output == "table":
        _show_plan(found, run["plan"], output, worth=True)
    if apply_:
        found = _follow(lambda: call("GET", "/balance"), quiet=output != "table")
        _end(found, found["run"], output, waited=True)
        if any(leg["state"] == "failed" for leg in found["run"]["legs"]):
            sys.exit(1)


@click.group()
def rule() -> None:
    """Rules that keep VMs together on one host, or apart."""


@rule.command("create")
@click.argument("name")
@click.argument("vms", nargs=-1)
@click.option("--kind", type=click.Choice(["affinity", "anti-affinity"]), required=True, help="Together, or apart.")
@output_option
def create_rule(name: str, vms: tuple[str, ...], kind: str, output: str) -> None:
    """Make the rule NAME for VMS. It holds from the next start or move on; nothing is moved for it.

    \b
      vmctl rule create web-ha web1 web2 --kind anti-affinity
    """
    _show_rules([call("POST", "/rules", body={"name": name, "kind": kind, "vms": list(vms)})], output)


@rule.command("list")
@output_option
def list_rules(output: str) -> None:
    """List rules with their VMs."""
    _show_rules(call("GET", "/rules"), output)


@rule.command("set")
@click.argument("name")
@click.option("--add", multiple=True, metavar="VM", help="Add this VM. Repeat for more.")
@click.option("--remove", multiple=True, metavar="VM", help="Take this VM out. Repeat for more.")
@output_option
def set_rule(name: str, add: tuple[str, ...], remove: tuple[str, ...], output: str) -> None:
    """Change which VMs the rule NAME is for."""
    body = {"add": list(add), "remove": list(remove)}
    _show_rules([call("PATCH", f"/rules/{quote(name, safe='')}", body=body)], output)


@rule.command("delete")
@click.argument("name")
def delete_rule(name: str) -> None:
    """Forget the rule NAME; its VMs stay where they are."""
    call("DELETE", f"/rules/{quote(name, safe='')}")
    click.echo(f"{name} deleted")


@click.command()
@click.argument("changes", nargs=-1, metavar="[KEY=VALUE]...")
@output_option
def settings(changes: tuple[str, ...], output: str) -> None:
    """Show how placement and balancing weigh hosts, or change it.

    \b
      vmctl settings
      vmctl settings cpu_ratio=4 memory_reserved_mib=2048 policy=consolidate
    """
    body = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise click.UsageError(f"{change!r}: KEY=VALUE is wanted")
        try:
            body[key] = json.loads(text)
        except ValueError:
            body[key] = text
    found = call("PATCH", "/placement/settings", body=body) if body else call("GET", "/placement/settings")
    show(found, output, rows=list(found.items()))


def _show_plan(whole: dict[str, Any], plan: dict[str, Any], output: str, *, worth: bool = False) -> None:
    if output != "table":
        show(whole, output)
        return
    if plan["moves"]:
        show(plan["moves"], output, columns=[*_MOVES, *(_WORTH if worth else [])])
    else:
        click.echo("nothing to move")
    for stay in plan["stays"]:
        click.echo(f"{stay['vm_name']} stays: {stay['sentence']}")
    if worth and plan["freed"]:
        click.echo(f"would run nothing: {', '.join(plan['freed'])}")
    if plan["sentence"]:
        click.echo(plan["sentence"])


def _follow(ask: Callable[[], dict[str, Any]], *, quiet: bool) -> dict[str, Any]:
    told: dict[int, str] = {}
    while True:
        found = ask()
        for index, leg in enumerate(found["run"]["legs"]):
            if not quiet and leg["state"] and told.get(index) != leg["state"]:
                told[index] = leg["state"]
                move = leg["move"]
                said = f": {leg['sentence']}" if leg["sentence"] else f" {move['source']} > {move['destination']}"
                click.echo(f"{move['vm_name']} {leg['state']}{said}", err=True)
        if found["run"]["over"]:
            return found
        time.sleep(POLL_S)


def _end(found: dict[str, Any], run: dict[str, Any], output: str, *, waited: bool) -> None:
    if output != "table":
        show(found, output)
    elif waited:
        click.echo(run["sentence"])


def _show_rules(rows: list[dict[str, Any]], output: str) -> None:
    columns: list[tuple[str, Callable[[Any], Any]]] = [
        ("NAME", lambda row: row["name"]),
        ("KIND", lambda row: row["kind"]),
        ("VMS", lambda row: row["vms"]),
    ]
    show(rows, output, columns=columns)

"""`netmgr apply`, `cert`, `status` and `run`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from netmgr.cli.client import CliError, Connection
from netmgr.cli.output import output_option, print_late_hosts, print_object, print_objects
from netmgr.cli.resources import pass_connection, wait_options, waiting

__all__ = ["apply", "cert", "run", "status"]


@click.command()
@click.option("-f", "--file", type=click.File("rb"), required=True, help="YAML or JSON; - reads standard input.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@click.option("--prune", is_flag=True, help="Delete what the file does not name, of the kinds it has. Never hosts.")
@wait_options
@output_option
@pass_connection
def apply(
    connection: Connection,
    file: Any,
    dry_run: bool,
    prune: bool,
    wait: str | None,
    timeout: float,
    output: str,
) -> None:
    """Make the manager's state what a file says: all of it, or nothing.

    Objects go by name: what is missing is created, what differs is set. Applying twice changes nothing. Hosts in the
    file must have joined; the file decides their zones.

    \b
      netmgr apply -f examples/two-zones.yaml --dry-run
      netmgr apply -f examples/two-zones.yaml --wait realized
    """
    answer = connection.post_raw(
        "apply", file.read(), dry_run=dry_run or None, prune=prune or None, **waiting(wait, timeout)
    )
    if output != "table":
        print_object(answer, output=output)
    else:
        for action in answer["actions"]:
            fields = "" if action["verb"] == "delete" else _fields(action["fields"])
            click.echo(f"{'would ' if dry_run else ''}{action['verb']} {action['kind']} {action['name']}{fields}")
        if not answer["actions"]:
            click.echo(f"nothing to do at revision {answer['revision']}")
        elif not dry_run:
            click.echo(f"done at revision {answer['revision']}")
    if not print_late_hosts(answer):
        raise SystemExit(1)


@click.group()
def cert() -> None:
    """Certificates of clients: operators and viewers. Hosts get theirs by joining."""


@cert.command("issue")
@click.option("--name", required=True, help="Who it is for; becomes the certificate's name.")
@click.option("--role", type=click.Choice(["operator", "viewer"]), required=True, help="A viewer may only read.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Directory to write.")
@pass_connection
def issue(connection: Connection, name: str, role: str, out: Path) -> None:
    """Make a client identity: ca.pem, cert.pem and key.pem in a directory. The key is made here and stays here.

    \b
      netmgr cert issue --role viewer --name vmctl --out /var/lib/vmctl/netmgr
    """
    from netmgr.identity import Identity, make_request, write_identity

    if (out / "key.pem").exists():
        raise CliError(f"{out} holds an identity already; name another directory, or remove it first")
    csr_pem, key_pem = make_request(name)
    answer = connection.post("certs", {"name": name, "role": role, "csr_pem": csr_pem})
    try:
        write_identity(out, Identity(ca_pem=answer["ca_pem"], cert_pem=answer["cert_pem"], key_pem=key_pem))
    except OSError as error:
        raise CliError(f"{out}: can't be written: {error}") from None
    click.echo(f"{role} {name}: written to {out}")


@click.command()
@output_option
@pass_connection
def status(connection: Connection, output: str) -> None:
    """Show the manager at a glance, and everything that is not up."""
    answer = connection.get("status")
    if output != "table":
        print_object(answer, output=output)
        return
    troubles = answer.pop("troubles")
    print_object(answer, output=output)
    if troubles:
        click.echo()
        print_objects(troubles, output=output, columns=("kind", "name", "status", "health", "reasons"))


@click.command()
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default="/var/lib/netmgr",
    show_default=True,
    envvar="NETMGR_STATE_DIR",
    help="Keys of the CA, the operator's identity, and the store unless --store says otherwise.",
)
@click.option(
    "--store",
    "store_url",
    envvar="NETMGR_STORE",
    help="postgresql+psycopg://USER@HOST/DATABASE, or sqlite:////PATH.  [default: SQLite in the state directory]",
)
@click.option("--listen", default="0.0.0.0", show_default=True, envvar="NETMGR_LISTEN", help="Address to listen on.")
@click.option("--api-port", type=int, default=7443, show_default=True, envvar="NETMGR_API_PORT", help="REST, HTTPS.")
@click.option("--sync-port", type=int, default=7444, show_default=True, envvar="NETMGR_SYNC_PORT", help="Hosts, gRPC.")
@click.option(
    "--log-format",
    type=click.Choice(["console", "json"]),
    default="console",
    show_default=True,
    envvar="NETMGR_LOG_FORMAT",
    help="Form of the log on standard error.",
)
def run(state_dir: Path, store_url: str | None, listen: str, api_port: int, sync_port: int, log_format: str) -> None:
    """Run the network manager in the foreground.

    At the first start it makes its CA, its store, and an operator's identity in STATE_DIR/operator, which this command
    line uses by default on the same machine.

    \b
      netmgr run
      netmgr run --store postgresql+psycopg://netmgr@db.example/netmgr --listen 192.0.2.1
    """
    from netmgr import daemon
    from netmgr.model import NetmgrError

    try:
        daemon.run(
            state_dir=state_dir,
            store_url=store_url,
            listen=listen,
            api_port=api_port,
            sync_port=sync_port,
            log_format=log_format,
        )
    except NetmgrError as error:
        raise CliError(error.sentence) from None


def _fields(fields: dict[str, Any]) -> str:
    shown = [f"{name}={value}" for name, value in fields.items() if value not in (None, "", [])]
    return f": {', '.join(shown)}" if shown else ""

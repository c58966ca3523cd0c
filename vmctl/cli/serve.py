"""`vmctl serve`."""

from __future__ import annotations

from pathlib import Path

import click

from vmctl.cli.client import Failure

__all__ = ["serve"]


@click.command()
@click.option(
    "--state-dir",
    envvar="VMCTL_STATE_DIR",
    show_envvar=True,
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/var/lib/vmctl"),
    show_default=True,
    help="Where the store is kept.",
)
@click.option(
    "--store",
    "store_url",
    envvar="VMCTL_STORE",
    show_envvar=True,
    default="",
    metavar="URL",
    help="Another store: sqlite:////PATH or postgresql+psycopg://USER@HOST/DATABASE; default: SQLite in the state "
    "directory.",
)
@click.option(
    "--identity",
    envvar="VMCTL_IDENTITY",
    show_envvar=True,
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/etc/vmctl/identity"),
    show_default=True,
    help="Directory with ca.pem, cert.pem and key.pem, as `netmgr cert issue --role viewer` writes it.",
)
@click.option(
    "--manager",
    envvar="VMCTL_MANAGER",
    show_envvar=True,
    default="",
    metavar="ADDRESS:PORT",
    help="OpaqueView of the network manager (port 7444).",
)
@click.option(
    "--networks-from",
    envvar="VMCTL_NETWORKS_FROM",
    show_envvar=True,
    type=click.Choice(["hosts", "manager"]),
    default="hosts",
    show_default=True,
    help="Whose view of the networks is watched; while the manager is away, that of the hosts. Before a move the host "
    "itself is asked either way.",
)
@click.option(
    "--virt",
    envvar="VMCTL_VIRT",
    show_envvar=True,
    type=click.Choice(["auto", "kvm", "qemu"]),
    default="auto",
    show_default=True,
    help="How VMs run that do not say: auto takes KVM where the host's libvirt offers it.",
)
@click.pass_obj
def serve(
    socket: Path, state_dir: Path, store_url: str, identity: Path, manager: str, networks_from: str, virt: str
) -> None:
    """Run the daemon until SIGTERM.

    \b
    REST over the unix socket of `vmctl --socket`, OpenAPI at /api/v1/openapi.json:
      curl --unix-socket /run/vmctl/vmctl.sock http://vmctl/api/v1/vms

    Under systemd it tells readiness and feeds the watchdog. A move that is under way when it stops is ended by libvirt;
    the next start reads how.
    """
    from vmctl.daemon import serve as run
    from vmctl.model import Virt, VmctlError

    try:
        run(
            state_dir=state_dir.absolute(),
            socket_path=socket,
            store_url=store_url,
            identity=identity,
            manager=manager,
            from_manager=networks_from == "manager",
            virt=Virt(virt),
        )
    except VmctlError as error:
        raise Failure(error.sentence) from None

"""Commands that change something: join, run, install-hooks, install-cni."""

from __future__ import annotations

import gc
import sys
import uuid as uuids
from pathlib import Path
from uuid import UUID

import click

from hostagent.cli.output import Failure, Settings
from hostagent.tracking.limits import CONNECTIONS_MAX

__all__ = ["COMMANDS"]

VIEW_PORT = 7445


@click.command()
@click.option(
    "--manager",
    "managers",
    multiple=True,
    required=True,
    help="Address of a network manager, HOST or HOST:PORT of its REST API. Give it again for further replicas.",
)
@click.option("--token", required=True, help="One-use token, as `netmgr host token` prints it.")
@click.option(
    "--pnic",
    "pnics",
    multiple=True,
    required=True,
    help="Physical NIC that this host offers to opaque switches; again for more. It must carry no address.",
)
@click.option("--name", default="", help="Name of the host; by default its hostname, unless the token names it.")
@click.option("--uuid", type=click.UUID, default=None, help="UUID of the host; by default a new one.")
@click.option(
    "--view-address",
    default="",
    help="HOST:PORT under which others reach this host's OpaqueView; by default the address used to reach the manager.",
)
@click.option(
    "--datapath",
    type=click.Choice(["auto", "system", "netdev"]),
    default="auto",
    help="Kernel (system) or userspace (netdev) forwarding; auto takes the kernel's where it is loaded.",
)
@click.option(
    "--hooks-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/etc/libvirt/hooks"),
    help="libvirt's hooks.",
)
@click.option("--force", is_flag=True, help="Join although this host has joined before; the old identity is replaced.")
@click.pass_obj
def join(
    settings: Settings,
    managers: tuple[str, ...],
    token: str,
    pnics: tuple[str, ...],
    name: str,
    uuid: UUID | None,
    view_address: str,
    datapath: str,
    hooks_dir: Path,
    force: bool,
) -> None:
    """Make this host a transport node of a network manager.

    Makes a key, presents the token, keeps the certificate it gets, and installs libvirt's hooks. Everything about this
    host is checked before the token is used. Nothing else is changed until the agent runs.
    """
    import socket

    from hostagent import join as joining
    from hostagent.hooks import install_hooks
    from hostagent.identity import IdentityError, load_identity

    earlier = None
    try:
        earlier = load_identity(settings.state_dir)
    except IdentityError as error:
        if (settings.state_dir / "identity" / "host.json").exists() and not force:
            raise Failure(str(error)) from None
    if earlier is not None and not force:
        raise Failure(
            f"this host has joined already, as {earlier.host_name} ({earlier.host_uuid}) of"
            f" {', '.join(earlier.managers)}; use --force to replace that identity"
        )
    try:
        missing, present = joining.missing_pnics(pnics)
        if missing:
            raise Failure(f"no interface {', '.join(missing)} on this host; it has {', '.join(present)}")
        chosen = joining.choose_datapath(datapath, run=joining.run_command)
        for manager in managers:
            joining.parse_address(manager)
        joining.parse_token(token)
        host = joining.parse_address(managers[0])
        request = joining.JoinRequest(
            managers=managers,
            token=token.strip(),
            pnics=tuple(dict.fromkeys(pnics)),
            host_uuid=uuid or (earlier.host_uuid if earlier is not None else uuids.uuid4()),
            name=name or socket.gethostname().split(".")[0],
            datapath=chosen,
            view_address=view_address or joining.local_view_address(host, port=VIEW_PORT),
        )
        identity = joining.join(settings.state_dir, request)
    except joining.JoinError as error:
        raise Failure(str(error)) from None
    click.echo(
        f"Joined as {identity.host_name} ({identity.host_uuid}); network manager {', '.join(identity.managers)}."
    )
    click.echo(
        f"PNICs offered: {', '.join(identity.pnics)}. Datapath: {identity.datapath}. View: {identity.view_address}."
    )
    try:
        installed = install_hooks(hooks_dir, socket=settings.socket)
    except OSError as error:
        click.echo(f"libvirt's hooks were not installed: {error}. Run `hostagent install-hooks` once that is mended.")
        return
    click.echo(f"Hooks installed: {', '.join(map(str, installed.paths))}.")
    click.echo("Next: start the agent (`systemctl enable --now hostagent`), then `hostagent show`.")
    if installed.new:
        click.echo("A libvirtd that runs already must be restarted once: it looks for hooks when it starts.")


@click.command()
@click.option("--view-port", type=click.IntRange(0, 65535), default=None, help="Port of OpaqueView; 0 serves none.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", help="Least level logged."
)
@click.option(
    "--mtu-every",
    type=click.FloatRange(1, 3600),
    default=30,
    metavar="SECONDS",
    help="How often the largest packet is tried again on a path; three times as often where it does not pass.",
)
@click.option(
    "--connections-max",
    type=click.IntRange(0, 100_000_000),
    default=CONNECTIONS_MAX,
    metavar="N",
    help="How many connections the tracker keeps of one port with stateful groups; 0 for any number.",
)
@click.pass_obj
def run(settings: Settings, view_port: int | None, log_level: str, mtu_every: float, connections_max: int) -> None:
    """Run the agent until SIGTERM. What it has built stays when it ends."""
    gc.disable()  # imports and the daemon's first seconds make much and drop little; then it enables it
    _log_plainly()
    from hostagent.daemon import DaemonError, run_daemon

    try:
        run_daemon(
            settings,
            view_port=view_port,
            log_level=log_level,
            mtu_again_s=mtu_every,
            connections_max=connections_max,
        )
    except DaemonError as error:
        raise Failure(str(error)) from None


def _log_plainly() -> None:
    """structlog dresses tracebacks with rich where that is installed: 5 MB and part of a second that an agent, whose
    log nobody watches in colour, does without."""
    sys.modules["rich"] = None  # type: ignore[assignment]
    import structlog.dev  # noqa: F401

    del sys.modules["rich"]


@click.command("install-hooks")
@click.option(
    "--hooks-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/etc/libvirt/hooks"),
    help="libvirt's hooks.",
)
@click.pass_obj
def install_hooks_command(settings: Settings, hooks_dir: Path) -> None:
    """Install libvirt's hooks (join does it too). Hooks of others stay as they are."""
    from hostagent.hooks import install_hooks

    try:
        installed = install_hooks(hooks_dir, socket=settings.socket)
    except OSError as error:
        raise Failure(f"the hooks can't be installed: {error}") from None
    for path in installed.paths:
        click.echo(f"{path}{' (new)' if path in installed.new else ''}")
    if installed.new:
        click.echo("A libvirtd that runs already must be restarted once: it looks for hooks when it starts.")


@click.command("install-cni")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/opt/cni/bin"),
    help="The container runtime's plug-ins.",
)
@click.pass_obj
def install_cni_command(settings: Settings, directory: Path) -> None:
    """Install the CNI plug-in `opaque`, which attaches containers to opaque networks."""
    from hostagent.cni import install_cni

    try:
        click.echo(install_cni(directory, socket=settings.socket))
    except OSError as error:
        raise Failure(f"the plug-in can't be installed: {error}") from None


COMMANDS = (join, run, install_hooks_command, install_cni_command)

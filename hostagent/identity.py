"""Who this host is: its certificate and what was said when it joined, as files in `<state-dir>/identity/`.

`ca.pem`, `cert.pem` and `key.pem` are the form every client of the manager uses; `host.json` keeps the rest. They lie
beside the database, not in it: the database can be rebuilt from the manager's stream, the identity can't.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import UUID

__all__ = ["Identity", "IdentityError", "load_identity", "read_boot_id", "save_identity"]

_VIEW_PORT = 7445
_FILES = ("ca.pem", "cert.pem", "key.pem")


class IdentityError(Exception):
    """No usable identity; the sentence says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a joined host knows of itself. `managers` are host:port of Sync; `pnics` those offered at join."""

    host_uuid: UUID
    host_name: str
    managers: tuple[str, ...]
    manager_name: str = "netmgr"
    pnics: tuple[str, ...] = ()
    datapath: str = "system"
    view_address: str = ""
    ca_pem: bytes = b""
    cert_pem: bytes = b""
    key_pem: bytes = b""

    @property
    def view_port(self) -> int:
        """Where others were told to look for this host's view."""
        _, _, text = self.view_address.rpartition(":")
        return int(text) if text.isdecimal() else _VIEW_PORT


def load_identity(state_dir: Path) -> Identity:
    """The identity kept in *state_dir*.

    Raises:
        IdentityError: never joined, or files are missing or damaged.
    """
    home = state_dir / "identity"
    if not (home / "host.json").exists():
        raise IdentityError(
            f"this host has not joined a network manager: {home} holds no identity; get a token with"
            " `netmgr host token` and run `hostagent join --manager ADDRESS --token TOKEN --pnic NAME`"
        )
    try:
        raw = json.loads((home / "host.json").read_text())
        ca, cert, key = ((home / name).read_bytes() for name in _FILES)
        return Identity(
            host_uuid=UUID(raw["host_uuid"]),
            host_name=str(raw["host_name"]),
            managers=tuple(raw["managers"]),
            manager_name=str(raw["manager_name"]),
            pnics=tuple(raw["pnics"]),
            datapath=str(raw["datapath"]),
            view_address=str(raw["view_address"]),
            ca_pem=ca,
            cert_pem=cert,
            key_pem=key,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IdentityError(
            f"the identity in {home} can't be read ({error}); join again with `hostagent join --force`"
        ) from None


def save_identity(state_dir: Path, identity: Identity) -> None:
    """Write the identity whole: either all of it is there afterwards, or what was before. Readable by root only."""
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    home, fresh, old = (state_dir / name for name in ("identity", "identity.new", "identity.old"))
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    facts = {
        name: value if not isinstance(value, UUID) else str(value)
        for name, value in asdict(identity).items()
        if not name.endswith("_pem")
    }
    for name, content in (
        ("ca.pem", identity.ca_pem),
        ("cert.pem", identity.cert_pem),
        ("key.pem", identity.key_pem),
        ("host.json", json.dumps(facts, indent=2).encode() + b"\n"),
    ):
        descriptor = os.open(fresh / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    if home.exists():
        home.rename(old)
    fresh.rename(home)
    _sync_directory(state_dir)
    shutil.rmtree(old, ignore_errors=True)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_boot_id(
    run_dir: Path, *, make: Callable[[], str], kernel: Path = Path("/proc/sys/kernel/random/boot_id")
) -> str:
    """An id of this boot of this host: the kernel's boot id, and one of ours kept in *run_dir*.

    The kernel's alone would be shared by hosts that are namespaces of one machine; a fresh /run makes a fresh id.
    *make* gives a new random text when the run directory holds none.
    """
    run_dir.mkdir(parents=True, exist_ok=True, mode=0o755)
    path = run_dir / "boot-id"
    kernel_id = kernel.read_text().strip()
    try:
        kept, own = path.read_text().split()
        if kept == kernel_id:
            return f"{kernel_id}/{own}"
    except (OSError, ValueError):
        pass  # none yet, or of another boot: make one
    own = make()
    fresh = path.with_suffix(".new")
    fresh.write_text(f"{kernel_id} {own}\n")
    fresh.rename(path)
    return f"{kernel_id}/{own}"

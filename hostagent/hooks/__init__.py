"""libvirt's hooks of the agent, and their installation beside hooks of others.

libvirt runs `/etc/libvirt/hooks/<driver>` and then everything in `/etc/libvirt/hooks/<driver>.d/`; ours go into the
directories, so that an administrator's own hooks stay untouched. libvirtd looks for hooks when it starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["DEFAULT_HOOKS_DIR", "DEFAULT_SOCKET", "Installed", "install_hooks", "refresh_hooks"]

DEFAULT_HOOKS_DIR = Path("/etc/libvirt/hooks")
DEFAULT_SOCKET = Path("/run/hostagent/hostagent.sock")
_HOOKS = ("network", "qemu")
_NAME = "50-opaque"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """Paths of the hooks, and which of them were not there in this form before: libvirtd must be restarted for new
    ones, not for changed ones."""

    paths: tuple[Path, ...]
    new: tuple[Path, ...]


def install_hooks(hooks_dir: Path = DEFAULT_HOOKS_DIR, *, socket: Path = DEFAULT_SOCKET) -> Installed:
    """Put both hooks in place, speaking to the agent on *socket*. Hooks of others are not touched.

    Raises:
        OSError: a directory can't be made or written.
    """
    paths, new = [], []
    for hook in _HOOKS:
        path = hooks_dir / f"{hook}.d" / _NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            new.append(path)
        _write(path, _text(hook, socket))
        paths.append(path)
    return Installed(paths=tuple(paths), new=tuple(new))


def refresh_hooks(hooks_dir: Path = DEFAULT_HOOKS_DIR, *, socket: Path = DEFAULT_SOCKET) -> tuple[Path, ...]:
    """Write those hooks again that an older version installed for the agent on *socket*, or somebody edited.

    What is not installed stays so, and so does what speaks to another agent's socket. libvirtd need not be restarted.

    Raises:
        OSError: one can't be read or written.
    """
    refreshed = []
    for hook in _HOOKS:
        path, text = hooks_dir / f"{hook}.d" / _NAME, _text(hook, socket)
        if path.exists() and (found := path.read_text()) != text and _socket_line(found) == _socket_line(text):
            _write(path, text)
            refreshed.append(path)
    return tuple(refreshed)


def _text(hook: str, socket: Path) -> str:
    text = (Path(__file__).parent / hook).read_text()
    return text.replace(f'SOCKET = "{DEFAULT_SOCKET}"', f"SOCKET = {str(socket)!r}", 1)


def _socket_line(text: str) -> str | None:
    return next((line for line in text.splitlines() if line.startswith("SOCKET = ")), None)


def _write(path: Path, text: str) -> None:
    """Whole or not at all; made outside of the .d directory, because libvirt runs all it finds there."""
    fresh = path.parent.parent / f".{path.parent.stem}-{_NAME}.new"
    fresh.write_text(text)
    fresh.chmod(0o755)
    fresh.rename(path)

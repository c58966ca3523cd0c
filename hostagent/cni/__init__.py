"""The CNI plug-in of the agent, and its installation among the container runtime's plug-ins."""

from __future__ import annotations

from pathlib import Path

from hostagent.hooks import DEFAULT_SOCKET

__all__ = ["DEFAULT_CNI_DIR", "install_cni"]

DEFAULT_CNI_DIR = Path("/opt/cni/bin")
_NAME = "opaque"


def install_cni(directory: Path = DEFAULT_CNI_DIR, *, socket: Path = DEFAULT_SOCKET) -> Path:
    """Put the plug-in into *directory*, speaking to the agent on *socket*; other plug-ins are not touched.

    Raises:
        OSError: the directory can't be made or written.
    """
    text = (Path(__file__).parent / _NAME).read_text()
    text = text.replace(f'SOCKET = "{DEFAULT_SOCKET}"', f"SOCKET = {str(socket)!r}", 1)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / _NAME
    fresh = directory / f".{_NAME}.new"
    fresh.write_text(text)
    fresh.chmod(0o755)
    return fresh.rename(path)

"""One machine, started and followed: virtiofsd and QEMU as processes of ours, and what the serial line says.

It ends with its context, and with us however we end.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from scripts.kernelkit.machine import BOOT_MODULES, READY, Machine, job, qemu, virtiofsd
from scripts.labkit import kernel
from scripts.labkit.errors import LabError
from scripts.labkit.kernel import Kernel
from scripts.labkit.node import REPOSITORY

__all__ = ["Booted", "boot", "kernel_and_initrd"]

_BOOT_S = 240.0
_SILENCE_S = 1500.0  # longer than the longest test may take: see the time-out of pytest there
_LAST_WORDS = 3000
_VIRTIOFSD = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")


def kernel_and_initrd(progress: Callable[[str], None]) -> tuple[Kernel, Path]:
    """What machines boot; fetched and built once, then kept. Raises LabError when something is missing."""
    _needed()
    found = kernel.fetch(progress=progress)
    init = Path(__file__).with_name("init")
    return found, kernel.initramfs(found, name="machine", modules=BOOT_MODULES, files={"init": init}, progress=progress)


class Booted:
    """A machine that runs."""

    def __init__(self, process: subprocess.Popen[bytes], place: Path) -> None:
        self.place = place
        self.log = place / "console.log"
        self._process = process
        self._kept = self.log.open("wb")
        self._began = self._heard = time.monotonic()
        self._up = False
        self._selector = selectors.DefaultSelector()
        assert process.stdout is not None
        self._selector.register(process.stdout, selectors.EVENT_READ)

    def runs(self, for_s: float, *, show: BinaryIO | None = None) -> bool:
        """Wait up to *for_s* for its words, keep them, *show* them; False once it has ended.

        Raises LabError when it does not come up, or has said nothing for long.
        """
        assert self._process.stdout is not None
        if self._selector.select(timeout=for_s):
            said = os.read(self._process.stdout.fileno(), 65536)
            if not said:
                return False
            self._heard = time.monotonic()
            self._kept.write(said)
            self._kept.flush()
            self._up = self._up or READY.encode() in self.log.read_bytes()
            if show is not None:
                show.write(said.replace(b"\r", b""))
                show.flush()
        limit_s = _SILENCE_S if self._up else _BOOT_S
        if time.monotonic() - (self._heard if self._up else self._began) > limit_s:
            what = "says nothing" if self._up else "does not come up"
            raise LabError(f"the machine {what} for {limit_s:g} s and was ended; its last words are in {self.log}")
        return True

    def status(self) -> int | None:
        """Exit status of what ran there; None where there is none."""
        try:
            return int((self.place / "status").read_text())
        except (OSError, ValueError):
            return None

    def end(self) -> None:
        """Switch it off."""
        self._process.kill()

    def last_words(self) -> str:
        return self.log.read_text(errors="replace").replace("\r", "")[-_LAST_WORDS:]

    def close(self) -> None:
        self._selector.close()
        self._kept.close()


@contextlib.contextmanager
def boot(
    command: Sequence[str],
    *,
    out: Path,
    place: Path,
    environment: Mapping[str, str],
    files: tuple[Kernel, Path],
) -> Iterator[Booted]:
    """A machine that runs *command* in this checkout and may write to *out*; *place* lies in there, and is its own."""
    program = _needed()
    place.mkdir(parents=True, exist_ok=True)
    (place / "job").write_text(job(command, directory=REPOSITORY, environment=environment, place=place))
    found, initrd = files
    with tempfile.TemporaryDirectory(prefix="test-kernel-") as temporary:
        machine = Machine(
            kernel=found.image,
            initrd=initrd,
            modules=found.modules.parent,
            out=out,
            place=place,
            socket=Path(temporary) / "files.sock",
        )
        with _process(virtiofsd(program, machine)) as served:
            _await(machine.socket, served)
            with _process(qemu(machine)) as process, contextlib.closing(Booted(process, place)) as booted:
                yield booted


def _needed() -> str:
    """Path of virtiofsd. Raises LabError when that or anything else is missing."""
    if os.geteuid() != 0:
        raise LabError("wanted root: the machine sees this one's files as they are")
    program = next((path for path in _VIRTIOFSD if os.access(path, os.X_OK)), None)
    missing = [name for name in ("qemu-system-x86_64", "setpriv") if shutil.which(name) is None]
    if program is None:
        missing.append("virtiofsd")
    if missing:
        raise LabError(f"{', '.join(missing)} not found; `make setup` installs what is missing")
    assert program is not None
    return program


@contextlib.contextmanager
def _process(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the context and with us, and that Ctrl-C does not reach before us."""
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "--", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _await(socket: Path, files: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while not socket.exists():
        if files.poll() is not None or time.monotonic() > deadline:
            files.kill()
            assert files.stdout is not None
            raise LabError(f"virtiofsd does not serve {socket}: {files.stdout.read().decode(errors='replace').strip()}")
        time.sleep(0.02)

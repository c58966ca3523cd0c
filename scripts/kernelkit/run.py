"""`make test-kernel`: run tests on Open vSwitch's kernel datapath, in a machine with a kernel of its own.

    scripts/test-kernel                          the tests of the data plane
    scripts/test-kernel -k tunnel -x             options of pytest
    scripts/test-kernel tests/lab/test_ports.py  some tests
    scripts/test-kernel --command ovs-vsctl -V   any command

What the machine says is shown as it comes and kept in build/test-kernel/console.log; results are in junit.xml there.
The exit status is that of pytest, or 3 where the machine gave none. Whatever ends us (an error, Ctrl-C, SIGKILL) ends
the machine.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from scripts.kernelkit.machine import BOOT_MODULES, READY, Machine, job, qemu, virtiofsd
from scripts.labkit import kernel
from scripts.labkit.errors import LabError
from scripts.labkit.node import REPOSITORY

__all__ = ["main", "run"]

NO_STATUS = 3
_OUT = REPOSITORY / "build/test-kernel"
_BOOT_S = 180.0
_SILENCE_S = 600.0  # longer than the longest test may take (pyproject.toml, `timeout`)
_LIMIT_S = 7200.0
_VIRTIOFSD = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")
_ENVIRONMENT = {
    "OPLAB_DATAPATH": "system",
    "OPLAB_DIR": "/var/oplab",  # the host's labs are none of this machine's
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
}


def main() -> None:
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments[:1]):
        print(__doc__.strip())
        return
    if arguments[:1] == ["--command"]:
        command = arguments[1:]
    else:
        colour = "yes" if sys.stdout.isatty() else "no"
        report = ["-v", "--durations=10", f"--color={colour}", f"--junitxml={_OUT / 'junit.xml'}"]
        chosen = [] if any(word.startswith("tests") for word in arguments) else ["-m", "datapath"]
        command = [str(REPOSITORY / ".venv/bin/python"), "-m", "pytest", "-p", "no:cacheprovider", *report]
        command += [*chosen, *arguments]
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        sys.exit(run(command))
    except LabError as error:
        _say(str(error))
        sys.exit(NO_STATUS)
    except KeyboardInterrupt:
        _say("interrupted; the machine is gone")
        sys.exit(130)


def run(command: Sequence[str], *, out: Path = _OUT) -> int:
    """Run *command* in a machine, in this checkout, to its end; its exit status. Raises LabError without one."""
    program = _needed()
    found = kernel.fetch(progress=_say)
    init = Path(__file__).with_name("init")
    initrd = kernel.initramfs(found, name="machine", modules=BOOT_MODULES, files={"init": init}, progress=_say)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    environment = {**_ENVIRONMENT, "COLUMNS": str(shutil.get_terminal_size((120, 24)).columns)}
    (out / "job").write_text(job(command, directory=REPOSITORY, environment=environment, out=out))
    with tempfile.TemporaryDirectory(prefix="test-kernel-") as temporary:
        machine = Machine(
            kernel=found.image,
            initrd=initrd,
            modules=found.modules.parent,
            out=out,
            socket=Path(temporary) / "files.sock",
        )
        with _process(virtiofsd(program, machine)) as files:
            _await(machine.socket, files)
            with _process(qemu(machine)) as process:
                _follow(process, out / "console.log")
    try:
        return int((out / "status").read_text())
    except (OSError, ValueError):
        raise LabError(
            f"the machine ended without an exit status; its last words are in {out / 'console.log'}"
        ) from None


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


def _follow(process: subprocess.Popen[bytes], log: Path) -> None:
    """Pass on what the machine says until it ends. Raises LabError when it hangs."""
    assert process.stdout is not None
    began = heard = time.monotonic()
    up = False
    with log.open("wb") as kept, selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if selector.select(timeout=1):
                said = os.read(process.stdout.fileno(), 65536)
                if not said:
                    return
                heard = time.monotonic()
                kept.write(said)
                kept.flush()
                up = up or READY.encode() in log.read_bytes()
                _show(said, sys.stdout.buffer)
            now = time.monotonic()
            for limit, since, what in (
                (_LIMIT_S, began, "has not ended"),
                (_SILENCE_S if up else _BOOT_S, heard if up else began, "says nothing" if up else "does not come up"),
            ):
                if now - since > limit:
                    raise LabError(f"the machine {what} for {limit:g} s and was ended; its last words are in {log}")


def _say(sentence: str) -> None:
    print(f"test-kernel: {sentence}", file=sys.stderr, flush=True)


def _show(said: bytes, stream: BinaryIO) -> None:
    stream.write(said.replace(b"\r", b""))
    stream.flush()


if __name__ == "__main__":
    main()

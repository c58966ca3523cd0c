"""`netmgr run` as a process of its own, to be asked, stopped and killed."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import httpx

__all__ = ["PROGRAM", "ROOT", "Daemon", "daemon"]

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from pathlib import Path
from netmgr.daemon import run
from netmgr.model import NetmgrError
try:
    run(state_dir=Path(sys.argv[1]), listen="127.0.0.1", api_port=int(sys.argv[2]), sync_port=0, log_format="json")
except NetmgrError as error:
    sys.exit(f"Error: {error.sentence}")
"""


@dataclass
class Daemon:
    process: subprocess.Popen[str]
    directory: Path
    ready: dict[str, object]

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.ready['api_port']}"

    def trust(self) -> ssl.SSLContext:
        """The operator's."""
        identity = self.directory / "operator"
        context = ssl.create_default_context(cafile=str(identity / "ca.pem"))
        context.load_cert_chain(identity / "cert.pem", identity / "key.pem")
        return context

    def client(self) -> httpx.Client:
        return httpx.Client(verify=self.trust(), base_url=self.url, timeout=10)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """Exit status, and the seconds between the signal's arrival and the end, by the log."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=10)
        events = [json.loads(line) for line in said.splitlines()]
        at = {event["event"]: datetime.fromisoformat(event["timestamp"]) for event in events}
        took = at.get("netmgr.stopped", datetime.max) - at.get("netmgr.stopping", datetime.min)
        return self.process.returncode, took.total_seconds()


@contextmanager
def daemon(directory: Path, *, port: int = 0, program: str = PROGRAM, **env: str) -> Iterator[Daemon]:
    """A manager that is ready; killed on exit, if it runs still. *program* may spoil it before it runs."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(directory), str(port)],
        cwd=ROOT,
        env={**os.environ, **env},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "netmgr.ready" in line:
                yield Daemon(process, directory, json.loads(line))
                return
        raise AssertionError("".join(lines))
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()

"""The PostgreSQL cluster of tests ends with the tests, even where nobody could tidy up."""

import signal
import subprocess
import sys
from pathlib import Path

from tests.support.postgresql import postgresql_cluster
from tests.support.waiting import within

HOLDER = """
from tests.support.postgresql import postgresql_cluster
with postgresql_cluster() as make_database:
    print(make_database().split("host=")[1], flush=True)
    input()
"""


def of_cluster(directory: Path) -> list[str]:
    """Command lines of running processes that name the directory."""
    lines = (path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())
    return [line.replace(b"\0", b" ").decode() for line in lines if str(directory).encode() in line]


def test_cluster_ends_with_a_killed_process() -> None:
    with postgresql_cluster():  # where PostgreSQL is not installed, this skips
        pass
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    directory = Path(holder.stdout.readline().strip())
    assert of_cluster(directory)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert within(20, lambda: not directory.exists() and not of_cluster(directory))

"""A PostgreSQL cluster for tests, in a temporary directory; it ends with the process that made it, SIGKILL included."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from tests.support.waiting import within


@contextmanager
def postgresql_cluster() -> Iterator[Callable[[], str]]:
    """Makes URLs of new databases on a cluster in a temporary directory, reached by a unix socket only."""
    binaries = _postgresql_bin()
    if binaries is None:
        if os.environ.get("CI") == "true":
            pytest.fail("PostgreSQL is not installed, and CI must test against it")
        pytest.skip("PostgreSQL is not installed")
    directory = Path(tempfile.mkdtemp(prefix="test-pg-", dir="/tmp"))  # short: unix socket paths are limited
    as_postgres: list[str] = []
    if os.geteuid() == 0:  # initdb refuses root
        as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
        shutil.chown(directory, "postgres", "postgres")
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    data, log = directory / "data", directory / "log"
    initdb = [str(binaries / "initdb"), "-D", str(data), "-A", "trust", "-U", "tester", "--no-sync", "-E", "UTF8"]
    subprocess.run(
        [*as_postgres, *initdb], check=True, cwd=directory, env=environment, stdout=subprocess.DEVNULL, timeout=60
    )
    keeper = subprocess.Popen(
        [*as_postgres, "sh", "-c", _KEEPER, "keeper", str(binaries / "postgres"), str(data), str(directory), str(log)],
        stdin=subprocess.PIPE,
        cwd="/",
        env=environment,
        start_new_session=True,  # Ctrl-C is for the tests
    )

    def connect() -> psycopg.Connection:
        return psycopg.connect(host=str(directory), user="tester", dbname="postgres", autocommit=True)

    def make_database() -> str:
        name = f"t{uuid4().hex}"
        with connect() as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return f"postgresql+psycopg://tester@/{name}?host={directory}"

    def answers() -> bool:
        with suppress(psycopg.OperationalError), connect():
            return True
        return False

    try:
        assert within(60, answers), log.read_text() if log.exists() else "PostgreSQL did not start"
        yield make_database
    finally:
        assert keeper.stdin is not None
        keeper.stdin.close()
        keeper.wait(timeout=60)


# Ends the cluster and removes its directory when its standard input ends: closed by the tests, or with their process,
# however that dies. Arguments: postgres, its data, the directory, its log.
_KEEPER = """
"$1" -D "$2" -c listen_addresses= -c unix_socket_directories="$3" -c fsync=off </dev/null >"$4" 2>&1 &
cat >/dev/null
kill -QUIT $!
wait
rm -rf "$3"
"""


def _postgresql_bin() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None

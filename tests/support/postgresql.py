"""A PostgreSQL cluster for tests, in a temporary directory, gone at the end."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest


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

    def call(*command: str) -> None:
        subprocess.run(
            [*as_postgres, *command], check=True, cwd=directory, env=environment, stdout=subprocess.DEVNULL, timeout=60
        )

    data = directory / "data"
    call(str(binaries / "initdb"), "-D", str(data), "-A", "trust", "-U", "tester", "--no-sync", "-E", "UTF8")
    options = f"-c listen_addresses='' -c unix_socket_directories={directory} -c fsync=off"
    log = str(directory / "log")
    call(str(binaries / "pg_ctl"), "-D", str(data), "-o", options, "-w", "-l", log, "start")

    def make_database() -> str:
        name = f"t{uuid4().hex}"
        with psycopg.connect(host=str(directory), user="tester", dbname="postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return f"postgresql+psycopg://tester@/{name}?host={directory}"

    try:
        yield make_database
    finally:
        call(str(binaries / "pg_ctl"), "-D", str(data), "-m", "immediate", "-w", "stop")
        shutil.rmtree(directory)


def _postgresql_bin() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None

"""Fixtures of netmgr's tests: stores on real databases, a World with hosts, a served API with real certificates."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from netmgr.store import Store
from tests.support.netmgr_builder import Builder


def _postgresql_bin() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Callable[[], str]]:
    """Makes URLs of new databases on a cluster in a temporary directory, reached by a unix socket only."""
    binaries = _postgresql_bin()
    if binaries is None:
        if os.environ.get("CI") == "true":
            pytest.fail("PostgreSQL is not installed, and CI must test against it")
        pytest.skip("PostgreSQL is not installed")
    directory = Path(tempfile.mkdtemp(prefix="netmgr-pg-", dir="/tmp"))  # short: unix socket paths are limited
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
    call(str(binaries / "initdb"), "-D", str(data), "-A", "trust", "-U", "netmgr", "--no-sync", "-E", "UTF8")
    options = f"-c listen_addresses='' -c unix_socket_directories={directory} -c fsync=off"
    log = str(directory / "log")
    call(str(binaries / "pg_ctl"), "-D", str(data), "-o", options, "-w", "-l", log, "start")

    def make_database() -> str:
        name = f"t{uuid4().hex}"
        with psycopg.connect(host=str(directory), user="netmgr", dbname="postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return f"postgresql+psycopg://netmgr@/{name}?host={directory}"

    try:
        yield make_database
    finally:
        call(str(binaries / "pg_ctl"), "-D", str(data), "-m", "immediate", "-w", "stop")
        shutil.rmtree(directory)


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database; each test that uses it runs on both kinds."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/netmgr.db"
    make_database: Callable[[], str] = request.getfixturevalue("postgresql")
    return make_database()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store on SQLite, for tests of what stands above the database."""
    store = Store.open(f"sqlite:///{tmp_path}/netmgr.db")
    yield store
    store.close()


@pytest.fixture
def build() -> Builder:
    return Builder()

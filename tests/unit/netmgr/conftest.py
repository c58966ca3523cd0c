"""Fixtures of netmgr's tests: stores on real databases, a World with hosts, a served API with real certificates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from netmgr.store import Store
from tests.support.netmgr_api import Api, ApiServer
from tests.support.netmgr_builder import Builder
from tests.support.netmgr_store import emptied_postgresql, migrated_sqlite


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
    store = Store.open(migrated_sqlite(tmp_path))
    yield store
    store.close()


@pytest.fixture(scope="session")
def migrated_postgresql(postgresql: Callable[[], str]) -> str:
    """One database for all tests that take `ready_url`."""
    url = postgresql()
    Store.open(url).close()
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def ready_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """As `store_url`, but migrated: for tests of what stands above the database, on both kinds."""
    if request.param == "sqlite":
        return migrated_sqlite(tmp_path)
    return emptied_postgresql(request.getfixturevalue("migrated_postgresql"))


@pytest.fixture
def build() -> Builder:
    return Builder()


@pytest.fixture(scope="module")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """One HTTPS server for the tests of a module."""
    server = ApiServer(tmp_path_factory.mktemp("api"))
    yield server
    server.close()


@pytest.fixture
def api(api_server: ApiServer, tmp_path: Path) -> Iterator[Api]:
    """The REST API with a store and a fleet of this test's own."""
    with api_server.fresh(tmp_path) as served:
        yield served

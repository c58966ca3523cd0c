"""What unit tests of several packages need."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.postgresql import postgresql_cluster


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Callable[[], str]]:
    """Makes URLs of new databases on a cluster in a temporary directory."""
    with postgresql_cluster() as make_database:
        yield make_database

"""Two replicas on one store, on each kind of store: what one does, the other sees."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from mcpsession import SessionLayer
from tests.sessions.replicas import Place


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "given(**settings): the settings that a test's replicas run with")


@pytest.fixture(params=["memory", "postgres"])
def place(request: pytest.FixtureRequest) -> Place:
    """One store."""
    url = request.getfixturevalue("database_url") if request.param == "postgres" else None
    marker = request.node.get_closest_marker("given")
    return Place(url, **(marker.kwargs if marker else {}))


@pytest.fixture
def postgres(database_url: str) -> Place:
    """A store whose rows can be looked at."""
    return Place(database_url)


@pytest.fixture
async def here(place: Place) -> AsyncIterator[SessionLayer]:
    """One replica."""
    async with place.replica() as replica:
        yield replica


@pytest.fixture
async def there(place: Place, here: SessionLayer) -> AsyncIterator[SessionLayer]:
    """A second replica, on the same store."""
    del here
    async with place.replica() as replica:
        yield replica

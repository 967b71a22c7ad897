"""A store of each kind, and two replicas on it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.control.replicas import ControlPlace, Replica


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "given(**settings): the settings that a test's replicas run with")


@pytest.fixture(params=["memory", "postgres"])
def place(request: pytest.FixtureRequest) -> ControlPlace:
    """One store."""
    url = request.getfixturevalue("database_url") if request.param == "postgres" else None
    marker = request.node.get_closest_marker("given")
    return ControlPlace(url, **(marker.kwargs if marker else {}))


@pytest.fixture
def postgres(database_url: str) -> ControlPlace:
    """A store whose rows can be looked at."""
    return ControlPlace(database_url)


@pytest.fixture
async def here(place: ControlPlace) -> AsyncIterator[Replica]:
    """One replica, that mostly sends."""
    async with place.new() as replica:
        yield replica


@pytest.fixture
async def there(place: ControlPlace, here: Replica) -> AsyncIterator[Replica]:
    """A second one, that mostly applies."""
    del here
    async with place.new() as replica:
        yield replica

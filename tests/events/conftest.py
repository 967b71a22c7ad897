"""Two replicas for a module, on a store of each kind, and a session for a test.

Starting replicas costs more than most tests, so they are shared; a test that wants its own makes them in a `place`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

import pytest

from mcpsession import following
from tests.conftest import _new_database
from tests.events.replicas import EventsPlace, Replica


class Pair(NamedTuple):
    place: EventsPlace
    here: Replica
    there: Replica


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "given(**settings): the settings that a test's replicas run with")


@pytest.fixture(scope="module")
def module_database(server_url: str, migrated_template: str) -> Iterator[str]:
    """A migrated database of the module's own; each place has a namespace in it."""
    yield from _new_database(server_url, f"TEMPLATE {migrated_template}")


@pytest.fixture(scope="module", params=["memory", "postgres"])
def store_url(request: pytest.FixtureRequest) -> str | None:
    """Of the store; None for memory."""
    url: str | None = request.getfixturevalue("module_database") if request.param == "postgres" else None
    return url


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Followers read three events at a time."""
    monkeypatch.setattr(following, "_PAGE", 3)


@pytest.fixture(scope="module")
async def pair(anyio_backend: str, store_url: str | None) -> AsyncIterator[Pair]:
    # What waits for a slow look need not wait for long.
    place = EventsPlace(store_url, poll=0.2)
    async with place.new() as here, place.new() as there:
        yield Pair(place, here, there)


@pytest.fixture
def place(store_url: str | None, request: pytest.FixtureRequest) -> EventsPlace:
    """A store of the test's own."""
    marker = request.node.get_closest_marker("given")
    return EventsPlace(store_url, **(marker.kwargs if marker else {}))


@pytest.fixture
def postgres(module_database: str, request: pytest.FixtureRequest) -> EventsPlace:
    """A store of the test's own whose rows can be looked at."""
    marker = request.node.get_closest_marker("given")
    return EventsPlace(module_database, **(marker.kwargs if marker else {}))


@pytest.fixture
def here(pair: Pair) -> Iterator[Replica]:
    """One replica, that mostly appends."""
    yield pair.here
    pair.here.reset()


@pytest.fixture
def there(pair: Pair) -> Iterator[Replica]:
    """A second one on the same store, that mostly reads."""
    yield pair.there
    pair.there.reset()


@pytest.fixture
async def session(here: Replica) -> str:
    """The id of a live session."""
    return (await here.sessions.create()).id

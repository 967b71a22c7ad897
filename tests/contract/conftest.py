"""The backends that the contract is tested against: the same tests, once for each."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import asyncpg
import pytest

from mcpsession.contracts import Backend, ReplicaRegistry
from mcpsession.memory.backend import MemoryBackend
from mcpsession.model import Replica, ReplicaId
from mcpsession.settings import Settings

Join = Callable[..., Awaitable[None]]
Rows = Callable[[], Awaitable[int]]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "given(**settings): the settings that a test's backends run with")


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> Settings:
    # A namespace for each test, so that they may share a database; little slack, so that sessions end when they should.
    settings: dict[str, object] = {
        "namespace": f"contract-{secrets.token_hex(4)}",
        "touch_flush": 0.001,
        "touch_step": 0.001,
    }
    marker = request.node.get_closest_marker("given")
    return Settings(**(settings | (marker.kwargs if marker else {})))


@pytest.fixture(params=["memory", "postgres"])
def store(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# Not async: AnyIO's plugin refuses getfixturevalue() of an async fixture inside another.
@pytest.fixture
def backend(store: str, request: pytest.FixtureRequest) -> Backend:
    """The backend under test, running."""
    backend: Backend = request.getfixturevalue(f"{store}_backend")
    return backend


@pytest.fixture
def neighbour(store: str, request: pytest.FixtureRequest) -> Backend:
    """A backend of another namespace on the same store."""
    backend: Backend = request.getfixturevalue(f"{store}_neighbour")
    return backend


@pytest.fixture
def other(store: str, request: pytest.FixtureRequest) -> Backend:
    """The same store as another process sees it; in memory there is no other process."""
    other: Backend = request.getfixturevalue(f"{store}_other" if store == "postgres" else "memory_backend")
    return other


@pytest.fixture
async def memory_backend(settings: Settings) -> AsyncIterator[Backend]:
    backend = MemoryBackend(settings)
    async with backend.running():
        yield backend


@pytest.fixture
async def memory_neighbour(settings: Settings) -> AsyncIterator[Backend]:
    backend = MemoryBackend(replace(settings, namespace=f"{settings.namespace}-neighbour"))
    async with backend.running():
        yield backend


@pytest.fixture
async def postgres_backend(database_url: str, settings: Settings) -> AsyncIterator[Backend]:
    from mcpsession.postgres.backend import PostgresBackend

    backend = PostgresBackend(database_url, None, settings)
    async with backend.running():
        yield backend


@pytest.fixture
async def postgres_other(database_url: str, settings: Settings) -> AsyncIterator[Backend]:
    from mcpsession.postgres.backend import PostgresBackend

    backend = PostgresBackend(database_url, None, settings)
    async with backend.running():
        yield backend


@pytest.fixture
async def postgres_neighbour(database_url: str, settings: Settings) -> AsyncIterator[Backend]:
    from mcpsession.postgres.backend import PostgresBackend

    backend = PostgresBackend(database_url, None, replace(settings, namespace=f"{settings.namespace}-neighbour"))
    async with backend.running():
        yield backend


@pytest.fixture
async def registry(backend: Backend) -> AsyncIterator[ReplicaRegistry]:
    async with backend.registry() as registry:
        yield registry


@pytest.fixture
def join(registry: ReplicaRegistry) -> Join:
    """Enter replicas: `await join("a", "b")`."""

    async def join(*replicas: ReplicaId) -> None:
        for replica in replicas:
            await registry.join(Replica(replica))

    return join


@pytest.fixture
def rows(store: str, backend: Backend, settings: Settings, request: pytest.FixtureRequest) -> Rows:
    """Counts the rows of events that there are, read or not."""
    if isinstance(backend, MemoryBackend):
        tables = backend._tables

        async def count() -> int:
            return sum(len(row.events) for streams in tables.streams.values() for row in streams.values())

        return count
    url: str = request.getfixturevalue("database_url")

    async def count_rows() -> int:
        connection = await asyncpg.connect(url)
        try:
            counted = await connection.fetchval(
                "SELECT count(*) FROM mcpsession.events WHERE namespace = $1", settings.namespace
            )
            return int(counted)
        finally:
            await connection.close()

    return count_rows

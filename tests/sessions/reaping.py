"""What the reaper's tests begin with: layers on one store, sessions that die soon, and counts of what is left."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import anyio
import asyncpg
import pytest

from mcpsession import SessionLayer
from mcpsession.contracts import Backend
from mcpsession.memory.backend import MemoryBackend
from mcpsession.model import Batch, NewEvent, OpenedStream, Replica, ReplicaId, SessionId
from mcpsession.records import Session
from mcpsession.settings import Settings
from tests.sdk.gates import Gated
from tests.sdk.gates import until as when

# Nothing is reaped but by hand, sessions end when they should, and the dead are soon known to be dead.
QUIET = {
    "reap_every": None,
    "touch_flush": 0.01,
    "touch_step": 0.001,
    "beat": 0.05,
    "dead_after": 0.4,
    "fence_margin": 0.1,
}
TABLES = ("sessions", "streams", "events", "subscriptions")
SOON = 0.01
OFTEN = 0.02
# A loop that is not to run is given the time of so many passes to show that it does.
LONG = 10 * OFTEN


class Store:
    """One store, and as many layers on it as a test wants, each a replica of its own."""

    def __init__(self, url: str | None) -> None:
        self.url = url
        """Of its Postgres; None for memory."""
        self.settings: Mapping[str, Any] = {**QUIET, "namespace": f"reaper-{secrets.token_hex(4)}"}
        self._memory = MemoryBackend(Settings(**self.settings))

    def backend(self, **settings: Any) -> Any:
        """A backend with gates around what the reaper uses."""
        backend: Any = self._memory
        if self.url is not None:
            from mcpsession.postgres.backend import PostgresBackend

            backend = PostgresBackend(self.url, None, Settings(**{**self.settings, **settings}))
        return _Gates(backend)

    def layer(self, backend: Any = None, **settings: Any) -> SessionLayer:
        """A layer that is to be entered."""
        chosen = Settings(**{**self.settings, **settings})
        return SessionLayer(self.backend(**settings) if backend is None else backend, chosen)

    async def fetch(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        connection = await self.connect()
        try:
            return await connection.fetch(query, *arguments)
        finally:
            await connection.close()

    async def connect(self) -> asyncpg.Connection[asyncpg.Record]:
        assert self.url is not None
        return await asyncpg.connect(self.url)

    async def rows(self, session_id: SessionId) -> Mapping[str, int]:
        """How many rows of each table are left of a session."""
        counts = ", ".join(
            f"(SELECT count(*) FROM mcpsession.{table} WHERE namespace = $1 AND {_key(table)} = $2) AS {table}"
            for table in TABLES
        )
        [row] = await self.fetch(f"SELECT {counts}", self.settings["namespace"], session_id)
        return dict(row)


class _Gates:
    """A backend whose stores can be held, or made to fail, on each side of each of their methods."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.sessions = Gated(backend.sessions)
        self.reaping = Gated(backend.reaping)
        self.log = Gated(backend.log)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def _key(table: str) -> str:
    return "id" if table == "sessions" else "session_id"


@pytest.fixture(params=["memory", "postgres"])
def store(request: pytest.FixtureRequest) -> Store:
    return Store(request.getfixturevalue("database_url") if request.param == "postgres" else None)


@pytest.fixture
def postgres_store(database_url: str) -> Store:
    return Store(database_url)


async def until(condition: Callable[[], Awaitable[object]], within: float = 5) -> None:
    """Wait for something that nothing announces, such as a row that expires."""
    with anyio.fail_after(within):
        while not await condition():  # noqa: ASYNC110
            await anyio.sleep(0.005)


async def passes(layer: SessionLayer, more: int = 1) -> None:
    """Wait until the loop has passed so often again."""
    before = layer.reaper.stats.passes
    with anyio.fail_after(5):
        await when(lambda: layer.reaper.stats.passes >= before + more)


async def expired(layer: SessionLayer, *session_ids: SessionId, **fields: Any) -> Sequence[Session]:
    """Create sessions, and see them expire."""
    created = [await layer.sessions.create(session_id, **{"ttl": SOON, **fields}) for session_id in session_ids]
    await all_dead(layer, *session_ids)
    return created


async def all_dead(layer: SessionLayer, *session_ids: SessionId) -> None:
    async def none_lives() -> bool:
        return not await layer.sessions.get_many(session_ids)

    await until(none_lives)


async def is_gone(layer: SessionLayer, session_id: SessionId) -> bool:
    """Whether not even the dead session is there any more."""
    return await layer.sessions.get(session_id, include_dead=True) is None


async def speak(backend: Any, session_id: SessionId, *, producer: ReplicaId = "p", stream_id: str = "stream") -> None:
    """Leave an unfinished request stream with an event, and one on the standalone stream."""
    stream = OpenedStream(session_id, stream_id, (f'"{stream_id}"',), [NewEvent("said")], finished=False)
    assert await backend.log.write(Batch(opened=[stream]), producer=producer)
    await backend.log.append_standalone([(session_id, NewEvent("said"))])


async def dead_replica(backend: Any, replica: ReplicaId = "dead") -> ReplicaId:
    """A replica that is recorded dead."""
    async with backend.registry() as registry:
        await registry.join(Replica(replica))
        await registry.leave(replica)
    return replica


class Told:
    """What an expiry handler of a layer was told of."""

    def __init__(self, layer: SessionLayer) -> None:
        self.sessions: list[Session] = []
        layer.on_expired(self._remember)

    async def _remember(self, session: Session) -> None:
        self.sessions.append(session)

    @property
    def reasons(self) -> list[tuple[SessionId, str | None]]:
        return [(session.id, session.end_reason) for session in self.sessions]

    @property
    def ids(self) -> list[SessionId]:
        return [session.id for session in self.sessions]


def tasks_beside(own: set[asyncio.Task[Any]]) -> set[str]:
    """The names of the tasks that came since."""
    return {task.get_name() for task in asyncio.all_tasks() - own}

"""What the tests of `layer.sessions` begin with: a store, replicas on it, and a way to make time pass for a session."""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from random import Random
from typing import Any

import anyio
import asyncpg
import pytest

from mcpsession import Session, SessionLayer
from mcpsession.contracts import Backend
from mcpsession.memory.backend import MemoryBackend
from mcpsession.memory.rows import Moment
from mcpsession.model import AppendedStream, Batch, NewEvent, OpenedStream, ReplicaId, SessionId, StreamId
from mcpsession.settings import Settings

# Nothing is reaped but by hand, and sessions end when they should.
QUIET = {"reap_every": None, "touch_flush": 0.05, "touch_step": 0.001}

EXPIRE = """
UPDATE mcpsession.sessions SET expires_at = now() - interval '1 second'
WHERE namespace = $1 AND id = ANY($2::text[]) AND status = 'live'
"""


def given(**settings: Any) -> pytest.MarkDecorator:
    """Run a test's replicas with these settings."""
    marker: pytest.MarkDecorator = pytest.mark.given(**settings)
    return marker


class Place:
    """One store, and as many replicas on it as a test wants, in a namespace of their own."""

    def __init__(self, url: str | None, *, yielding: int | None = None, **settings: Any) -> None:
        """`yielding`: others come between at every call of a store, more or less often by this seed."""
        self.url = url
        """Of its Postgres; None for memory."""
        self._random = None if yielding is None else Random(yielding)
        self.settings: Mapping[str, Any] = {**QUIET, "namespace": f"sessions-{secrets.token_hex(4)}", **settings}
        self._memories: dict[str, MemoryBackend] = {}

    def backend(self, **settings: Any) -> Backend:
        chosen = Settings(**{**self.settings, **settings})
        if self.url is None:
            return self._memories.setdefault(chosen.namespace, MemoryBackend(chosen))
        from mcpsession.postgres.backend import PostgresBackend

        return PostgresBackend(self.url, None, chosen)

    def replica(self, **settings: Any) -> SessionLayer:
        """A layer of its own that is to be entered; with Postgres it has its own pool."""
        backend: Any = self.backend(**settings)
        if self._random is not None:
            backend = _Yielding(backend, self._random)
        return SessionLayer(backend, Settings(**{**self.settings, **settings}))

    async def expire(self, *session_ids: SessionId) -> None:
        """Let the time of live sessions be over."""
        if self.url is not None:
            await self.fetch(EXPIRE, self.settings["namespace"], list(session_ids))
            return
        tables = self._memories[self.settings["namespace"]].sessions._tables
        with tables.lock:
            for session_id in session_ids:
                row = tables.sessions.get(session_id)
                if row is not None and row.session.status == "live":
                    row.expires = Moment.now().later(-1.0)

    async def fetch(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        assert self.url is not None
        connection = await asyncpg.connect(self.url)
        try:
            return await connection.fetch(query, *arguments)
        finally:
            await connection.close()

    async def row(self, session_id: SessionId) -> asyncpg.Record:
        """A session's row as it lies in Postgres."""
        query = "SELECT * FROM mcpsession.sessions WHERE namespace = $1 AND id = $2"
        [row] = await self.fetch(query, self.settings["namespace"], session_id)
        return row


class _Yielding:
    """A backend of memory's, or one of its stores, that lets others come between as one across a wire does."""

    def __init__(self, real: Any, random: Random) -> None:
        self._real = real
        self._random = random

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._real, name)
        if name in ("sessions", "initialization", "directory", "reaping"):
            return _Yielding(attribute, self._random)
        if not inspect.iscoroutinefunction(attribute):
            return attribute

        async def call(*args: Any, **kwargs: Any) -> Any:
            await self._let_others()
            result = await attribute(*args, **kwargs)
            await self._let_others()
            return result

        return call

    async def _let_others(self) -> None:
        for _ in range(self._random.randrange(4)):
            await anyio.lowlevel.checkpoint()


async def get(replica: SessionLayer, session_id: SessionId = "session", **options: Any) -> Session:
    """A session that must be there."""
    session = await replica.sessions.get(session_id, **options)
    assert session is not None
    return session


async def changes(replica: SessionLayer, since: Session) -> tuple[int, dict[str, Any]]:
    """How often the state of a session was changed since then, and what it is."""
    session = await get(replica, since.id)
    return session.version - since.version, dict(session.state)


def timeless(session: Session) -> Session:
    """A record without the one field that is another at each look."""
    return replace(session, remaining=None)


async def speak(replica: SessionLayer, session_id: SessionId, *, producer: ReplicaId = "producer") -> None:
    """Leave a running request stream with two messages, and a message on the standalone stream."""
    events = [NewEvent("one"), NewEvent("two")]
    opened = OpenedStream(session_id, "stream", ("1",), events, finished=False)
    assert await replica._backend.log.write(Batch(opened=[opened]), producer=producer)
    await replica._backend.log.append_standalone([(session_id, NewEvent("said"))])


async def append(replica: SessionLayer, session_id: SessionId, *, producer: ReplicaId = "producer") -> bool:
    """Add a third message to that request stream; False if nobody took it."""
    appended = AppendedStream(session_id, "stream", 2, [NewEvent("three")], finished=False)
    return bool(await replica._backend.log.write(Batch(appended=[appended]), producer=producer))


async def said(replica: SessionLayer, session_id: SessionId, stream_id: StreamId = "stream") -> list[str] | None:
    """The messages of a stream; None if it is not there."""
    state = await replica._backend.log.read(session_id, stream_id, 0, 1000)
    return None if state is None else [event.message for event in state.events]


async def all_at_once(*jobs: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Run them together; what each returned or raised, in their order."""
    outcomes: list[Any] = [None] * len(jobs)

    async def run(number: int, job: Callable[[], Awaitable[Any]]) -> None:
        try:
            outcomes[number] = await job()
        except Exception as error:  # an outcome like any other
            outcomes[number] = error

    async with anyio.create_task_group() as tasks:
        for number, job in enumerate(jobs):
            tasks.start_soon(run, number, job)
    return outcomes


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Wait, at most 5 s, for something that nothing announces, such as a row that expires."""
    with anyio.fail_after(5):
        while not await condition():  # noqa: ASYNC110
            await anyio.sleep(0.005)

"""What may be left of something that was cancelled: nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import asyncpg

from tests.attacks.cancelling import WAYS, Outcome, Way, Work, at_every_place
from tests.sdk.replicas import Replica

# Seconds. A second is what it may take on a machine that does nothing else.
GONE_WITHIN = 10.0
_LOOK = 0.005

_BUSY = """
SELECT a.pid || ' is ' || a.state || ': ' || left(a.query, 80)
FROM pg_stat_activity a
WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.backend_type = 'client backend'
    AND a.state <> 'idle'
UNION ALL
SELECT l.pid || ' holds ' || l.mode || ' on ' || l.locktype || ' ' || coalesce(l.relation::regclass::text, '')
FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE a.datname = current_database() AND l.pid <> pg_backend_pid() AND a.backend_type = 'client backend'
"""


class Leaks:
    """Compares a replica at rest with the same one later."""

    def __init__(self, here: Replica, bystander: asyncpg.Connection) -> None:
        self._here = here
        self._bystander = bystander
        self._tasks = asyncio.all_tasks()
        self.complaints: list[str] = []
        """What the event loop complained of meanwhile."""

    async def after(
        self,
        prepare: Callable[[], Awaitable[Work]],
        ways: tuple[Way, ...] = WAYS,
        *,
        at_rest: Callable[[], None] = lambda: None,
        finally_: Callable[[], Awaitable[None]] | None = None,
        **expected: int,
    ) -> AsyncIterator[Outcome]:
        """Cancel the work at each place where it waits; yields when nothing is left of it.

        `at_rest` and `finally_` end what the preparation has left running; `expected` is there all the time.
        """

        async def prepared() -> Work:
            work = await prepare()
            self._tasks = asyncio.all_tasks()
            return work

        async for outcome in at_every_place(prepared, ways):
            try:
                assert outcome.error is None, outcome.error
                at_rest()
                if finally_ is not None:
                    await finally_()
                await self.none(**expected)
            except BaseException as error:
                error.add_note(str(outcome))
                raise
            try:
                yield outcome
            except BaseException as error:
                error.add_note(str(outcome))
                raise

    def complain(self, context: Mapping[str, Any]) -> None:
        # The driver's, of a connection that was given up while it was being dialled; nothing of it is left.
        if str(context.get("exception")) != "unexpected connection_lost() call":
            self.complaints.append(str(context))

    async def none(self, *, subscribers: int = 0, standing: int = 0) -> None:
        """Wait until nothing is left of what was done since.

        Raises AssertionError that says what is.
        """
        left: list[str] = ["everything"]
        with anyio.move_on_after(GONE_WITHIN):
            while left:
                left = self._in_replica(subscribers, standing) or await self._in_database()
                if left:
                    await anyio.sleep(_LOOK)
        assert [] == left, left
        assert [] == self.complaints, self.complaints
        await self._pool_is_sound()

    def _in_replica(self, subscribers: int, standing: int) -> list[str]:
        parts, backend = self._here.parts, self._here.backend
        tasks = {task for task in asyncio.all_tasks() - self._tasks if not _is_of_pytest(task)}
        holders = [holder for holder in backend._database._pool._holders if holder._in_use is not None]
        counts = {
            "requests in flight": len(parts.in_flight),
            "requests arriving": len(parts.in_flight._arriving),
            "waiters": len(parts.waiters),
            "tails": len(parts.tails) - standing,
            "standalone streams": len(parts.standalones) - standing,
            "readers": len(parts.readers),
            "open writers": len(parts.journal._open),
            "unwritten characters": parts.journal.pending_bytes,
            "turns": len(self._here.layer.sessions._turns._locks),
            "subscribers": parts.broadcaster.subscriber_count - subscribers,
            "connections in use": len(holders) - len(backend._database._at_hand),
            "who waits for a connection": backend._database._waiting,
            "locked links": sum(link._turn.locked() for link in (backend._journal, backend._notifier)),
        }
        return [f"{number} {what}" for what, number in counts.items() if number] + [str(task) for task in tasks]

    async def _in_database(self) -> list[str]:
        return [row[0] for row in await self._bystander.fetch(_BUSY)]

    async def _pool_is_sound(self) -> None:
        """Every connection can be had, and answers its own question."""
        database = self._here.backend._database
        async with _all_connections(database) as connections:
            for number, connection in enumerate(connections):
                assert not connection.is_in_transaction()
                assert number == await connection.fetchval("SELECT $1::int", number)


def _is_of_pytest(task: asyncio.Task[Any]) -> bool:
    # One of AnyIO's plugin for each fixture and test, and the one that all run in.
    return task is asyncio.current_task() or "TestRunner" in str(task.get_coro())


@asynccontextmanager
async def _all_connections(database: Any) -> AsyncIterator[list[Any]]:
    async with anyio.create_task_group():
        contexts = [database.connection() for _ in range(database._settings.pool_size)]
        with anyio.fail_after(GONE_WITHIN):
            connections = [await context.__aenter__() for context in contexts]
        try:
            yield connections
        finally:
            for context in contexts:
                await context.__aexit__(None, None, None)


@asynccontextmanager
async def watching(here: Replica, url: str) -> AsyncIterator[Leaks]:
    """Begin with a replica at rest."""
    bystander = await asyncpg.connect(url)
    loop = asyncio.get_running_loop()
    leaks = Leaks(here, bystander)
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: leaks.complain(context))
    try:
        await leaks.none()
        yield leaks
    finally:
        loop.set_exception_handler(before)
        await bystander.close()

"""The revision that brought an application's events: what the one before cannot know goes."""

from __future__ import annotations

import anyio
import asyncpg
import pytest
from anyio import to_thread

from mcpsession.event_records import Entry
from mcpsession.model import STANDALONE, NewEvent
from mcpsession.postgres.migrate import downgrade, migrate
from tests.postgres.stores import appended, living, open_session, opened, running_backend

_STREAMS = "SELECT kind, id FROM mcpsession.streams ORDER BY kind"
_MESSAGES = "SELECT message FROM mcpsession.events ORDER BY message"


async def to(url: str, revision: str) -> None:
    with anyio.fail_after(30):
        await to_thread.run_sync(downgrade, url, revision)


async def test_going_back_takes_the_applications_events_and_leaves_the_clients(database_url: str) -> None:
    async with running_backend(database_url) as backend, living(backend) as me:
        session = await open_session(backend)
        await backend.log.write(opened(session, "call", "of a call"), producer=me)
        await backend.log.append_standalone([(session, NewEvent("of a client"))])
        await backend.events.append(session, "log", [Entry("of the application", id="a")])
        await backend.requests.track(session, "2", "work", 60, by=me)

        await to(database_url, "0003")
        connection = await asyncpg.connect(database_url)
        try:
            assert [("request", "call"), ("standalone", "s")] == [
                tuple(row) for row in await connection.fetch(_STREAMS)
            ]
            messages = [row["message"] for row in await connection.fetch(_MESSAGES)]
            assert ["of a call", "of a client"] == messages
        finally:
            await connection.close()
        await to_thread.run_sync(migrate, database_url)


@pytest.mark.parametrize("limit", [{"max_events": 2}, {"max_replay_bytes": 20}])
async def test_streams_of_before_are_written_and_trimmed_after_it(database_url: str, limit: dict[str, int]) -> None:
    """How much they hold was not counted then; nothing is counted as less than nothing now."""
    async with running_backend(database_url, **limit) as backend, living(backend) as me:
        session = await open_session(backend)
        await backend.log.write(opened(session, "call", "1"), producer=me)
        await backend.log.append_standalone([(session, NewEvent("x"))])
        await to(database_url, "0003")
        await to_thread.run_sync(migrate, database_url)

    async with running_backend(database_url, **limit) as backend:
        assert await backend.log.write(appended(session, "call", 1, "2", finished=True), producer=me)
        assert [1] == list(getattr(await backend.events.append(session, "log", [Entry("1")]), "numbers", ()))
        for _ in range(5):
            await backend.log.append_standalone([(session, NewEvent("x" * 10))])
        state = await backend.log.read(session, STANDALONE, 0, 100)
        assert state is not None
        assert ([5, 6], 4) == ([event.seq for event in state.events], state.trimmed_seq)

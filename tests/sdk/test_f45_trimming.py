"""A stream keeps its newest events: who resumes from among them has all, who resumes from before them is told so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import asyncpg
import pytest

from mcpsession import SessionLayer
from mcpsession.errors import StoreUnavailableError
from mcpsession.event_records import Entry
from mcpsession.memory.backend import MemoryBackend
from mcpsession.model import NewEvent
from mcpsession.settings import Settings
from tests.sdk.gates import until
from tests.sdk.replicas import Client, Replica, make_server, replica, stored, text_of

KEPT = 5


@asynccontextmanager
async def in_memory(**settings) -> AsyncIterator[Replica]:
    """A replica without a database."""
    chosen = Settings(**settings)
    backend = MemoryBackend(chosen)
    layer = SessionLayer(backend, chosen)
    scripts = {}
    server = make_server(layer, scripts)
    app = layer.streamable_http_app(server)
    async with app.router.lifespan_context(app), layer.running() as parts:
        yield Replica(app, layer, parts, backend, server, scripts)


@pytest.fixture(params=["postgres", "memory"])
def store(request):
    return request.param


@pytest.fixture
def url(store, request):
    return request.getfixturevalue("database_url") if store == "postgres" else None


def small(url, **settings):
    """A replica whose streams keep little."""
    settings = {"max_events": KEPT, **settings}
    return in_memory(**settings) if url is None else replica(url, **settings)


def talking(count, go_on=None):
    """A tool that reports its progress so often, and ends when it may."""

    async def script(ctx):
        for number in range(1, count + 1):
            await ctx.report_progress(number)
        if go_on is not None:
            await go_on.wait()
        return "done"

    return script


def progress(messages):
    return [message["params"]["progress"] for message in messages if "params" in message]


async def flushed(here, client, response):
    """Until all that a call has said is in the log; returns its stream's id."""
    stream_id = response.last_id.split(".")[0]
    await here.parts.journal.flushed()
    return stream_id


async def test_f45_a_call_resumed_from_before_what_is_left_ends_with_an_error_that_names_it(url):
    async with small(url) as here:
        client = await Client().initialize(here)
        here.scripts["talk"] = talking(20)
        with anyio.fail_after(20):
            async with client.call(here, "talk", id=7, token="t") as response:
                assert list(range(1, 21)) == progress(await response.messages())
                stream_id = await flushed(here, client, response)
            for cursor in (0, 1, 15):
                async with client.get(here, f"{stream_id}.{cursor}") as resumed:
                    assert 200 == await resumed.started()
                    [error] = await resumed.messages()
                assert (7, -32603) == (error["id"], error["error"]["code"])
                assert f"cannot be resumed after event {cursor}" in error["error"]["message"]
                assert "events up to 16 of 21 are gone" in error["error"]["message"]
                assert {"outcome": "unknown"} == error["error"]["data"]


async def test_f45_a_call_resumed_from_among_what_is_left_has_all_the_rest(url):
    async with small(url) as here:
        client = await Client().initialize(here)
        here.scripts["talk"] = talking(20)
        with anyio.fail_after(20):
            async with client.call(here, "talk", token="t") as response:
                await response.messages()
                stream_id = await flushed(here, client, response)
            for cursor in (16, 18, 20):
                async with client.get(here, f"{stream_id}.{cursor}") as resumed:
                    *rest, answer = await resumed.messages()
                assert list(range(cursor + 1, 21)) == progress(rest)
                assert "done" == text_of(answer)


async def test_f45_a_call_that_runs_on_is_trimmed_and_resumed_like_one_that_is_over(url):
    async with small(url) as here:
        client = await Client().initialize(here)
        go_on = anyio.Event()
        here.scripts["talk"] = talking(20, go_on)
        with anyio.fail_after(20):
            async with client.call(here, "talk", token="t") as response:
                while progress(message for frame in response.frames if (message := frame.message)) != [*range(1, 21)]:
                    await response.message()
                stream_id = await flushed(here, client, response)
                async with client.get(here, f"{stream_id}.3") as early:
                    [error] = await early.messages()
                assert "events up to 15 of 20 are gone" in error["error"]["message"]
                async with client.get(here, f"{stream_id}.15") as resumed:
                    assert [16, 17, 18, 19, 20] == [
                        (await resumed.message())["params"]["progress"] for _ in range(KEPT)
                    ]
                    go_on.set()
                    [answer] = await resumed.messages()
                    assert "done" == text_of(answer)


async def test_f45_a_calls_rows_are_those_that_it_keeps(database_url):
    async with small(database_url) as here:
        client = await Client().initialize(here)
        before = await stored(here, "events", client.session_id)
        here.scripts["talk"] = talking(200)
        with anyio.fail_after(20):
            async with client.call(here, "talk", token="t") as response:
                assert 200 == len(progress(await response.messages()))
                await flushed(here, client, response)
            assert KEPT == await stored(here, "events", client.session_id) - before


async def test_f46_a_call_that_says_more_than_it_may_keep_is_answered_and_keeps_its_answer(url):
    async with small(url, max_events=1000, max_replay_bytes=2000) as here:
        client = await Client().initialize(here)

        async def talk(ctx):
            for number in range(1, 11):
                await ctx.report_progress(number, message="x" * 300)
            return "y" * 5000

        here.scripts["talk"] = talk
        with anyio.fail_after(20):
            async with client.call(here, "talk", token="t") as response:
                *said, answer = await response.messages()
                assert (10, "y" * 5000) == (len(progress(said)), text_of(answer))
                stream_id = await flushed(here, client, response)
            async with client.get(here, f"{stream_id}.10") as resumed:
                assert [answer] == await resumed.messages()
            async with client.get(here, f"{stream_id}.9") as resumed:
                [error] = await resumed.messages()
            assert "events up to 10 of 11 are gone" in error["error"]["message"]


async def test_f45_a_standalone_stream_goes_on_with_the_newest_that_are_left(url):
    """Nothing on it is owed an answer, so a hole is passed over."""
    async with small(url) as here:
        client = await Client().initialize(here)
        notes = [f'{{"jsonrpc":"2.0","method":"notifications/note","params":{{"n":{n}}}}}' for n in range(1, 31)]
        with anyio.fail_after(20):
            for note in notes[:20]:
                here.parts.journal.append_standalone(client.session_id, note)
            await here.parts.journal.flushed()
            async with client.get(here) as stream:
                assert [16, 17, 18, 19, 20] == [(await stream.message())["params"]["n"] for _ in range(KEPT)]
                first = next(frame.id for frame in stream.frames if frame.message)
                here.parts.journal.append_standalone(client.session_id, notes[20])
                assert 21 == (await stream.message())["params"]["n"]
            await until(lambda: not len(here.parts.standalones))
            for note in notes[21:]:
                here.parts.journal.append_standalone(client.session_id, note)
            await here.parts.journal.flushed()
            async with client.get(here, first) as stream:
                assert [26, 27, 28, 29, 30] == [(await stream.message())["params"]["n"] for _ in range(KEPT)]


async def test_f51_a_client_cannot_read_the_applications_events(url):
    async with small(url) as here:
        client = await Client().initialize(here)
        with anyio.fail_after(20):
            assert await here.backend.events.append(client.session_id, "log", [Entry('"secret"')] * 3) is not None
            for cursor in ("a:log.1", "a:log.0", "log.1", "a:log"):
                async with client.get(here, cursor) as stream:
                    assert 400 == await stream.started()
                    assert b"secret" not in await stream.ended()


async def test_f51_a_client_that_guesses_what_is_tracked_reads_nothing_of_it(database_url):
    """A tracked request is a row beside those of the calls."""
    async with small(database_url) as here:
        client = await Client().initialize(here)
        with anyio.fail_after(20):
            assert await here.backend.requests.track(client.session_id, "1", "work", 60, by=here.id) is not None
            connection = await asyncpg.connect(database_url)
            [stream_id] = await connection.fetchrow("SELECT id FROM mcpsession.streams WHERE kind = 'tracked'")
            await connection.close()
            async with client.get(here, f"{stream_id}.0") as stream:
                assert 400 == await stream.started()


async def test_f32_a_call_with_an_id_that_is_tracked_is_refused_and_one_that_is_over_is_not(url):
    async with small(url) as here:
        client = await Client().initialize(here)
        with anyio.fail_after(20):
            for request_id, timeout in (("5", 60), ("6", 0.00001)):
                await here.backend.requests.track(client.session_id, request_id, "work", timeout, by=here.id)
            here.scripts["talk"] = talking(1)
            async with client.call(here, "talk", id=6, token="t") as response:
                assert "done" == text_of((await response.messages())[-1])
            # It runs until the log has said no; one that is answered before is answered.
            here.scripts["talk"] = talking(1, anyio.Event())
            async with client.call(here, "talk", id=5, token="t") as response:
                assert 400 == await response.started()
                assert b"Duplicate request id" in await response.ended()


async def test_the_reaper_forgets_requests_that_were_never_completed(url):
    async with small(url) as here:
        client = await Client().initialize(here)
        await here.backend.requests.track(client.session_id, "1", "work", 60, by="a replica that died")
        await here.backend.requests.track(client.session_id, "2", "work", 60, by=here.id)

        await here.layer.reaper.run_once()

        assert 0 == await here.backend.requests.sweep(10)
        assert [2] == [info.request_id for info in await here.backend.requests.running(limit=10)]


async def test_a_standalone_stream_that_cannot_be_trimmed_now_is_trimmed_later(database_url, caplog):
    """What was appended is there: it must not be appended again because of that."""
    async with replica(database_url, max_events=2) as here:
        client = await Client().initialize(here)
        log = here.backend.log._real
        link = log._writing._journal
        real, failing = link.execute, True

        async def execute(statement, *args):
            if failing:
                raise StoreUnavailableError("a test says so")
            await real(statement, *args)

        link.execute = execute
        for _ in range(4):
            await log.append_standalone([(client.session_id, NewEvent("{}"))])
        state = await log.read(client.session_id, "s", 0, 100)
        assert ([1, 2, 3, 4], 0) == ([event.seq for event in state.events], state.trimmed_seq)
        assert "are trimmed when they grow again" in caplog.text

        failing = False
        await log.append_standalone([(client.session_id, NewEvent("{}"))])
        state = await log.read(client.session_id, "s", 0, 100)
        assert ([4, 5], 3) == ([event.seq for event in state.events], state.trimmed_seq)

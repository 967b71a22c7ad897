"""A terminated session is over everywhere: its calls, its open streams, what it stored. A new one of its id is not."""

from __future__ import annotations

import anyio
import pytest

from mcpsession.errors import StoreUnavailableError
from mcpsession.model import AppendedStream, Batch, NewEvent
from tests.sdk.asgi_client import request
from tests.sdk.gates import settle, until
from tests.sdk.replicas import Client, hello, logged, replica, stored, text_of
from tests.sdk.test_asking_the_client import ask

ENDED = {"code": -32000, "message": "Session ended"}


async def forever(ctx):
    await ctx.report_progress(1)
    await anyio.sleep_forever()


async def begin(at, session_id):
    """A session of the application's own, with a client."""
    client = Client(session_id=session_id)
    async with client.post(at, hello()) as response:
        await response.ended()
        assert 200 == response.status, response.body
    assert 202 == await client.notify(at, "notifications/initialized")
    return client


async def test_f17_terminating_on_one_replica_ends_calls_and_streams_on_the_other_within_a_second(here, there, client):
    there.scripts["forever"] = forever
    with anyio.fail_after(10):
        async with (
            client.call(there, "forever", token="t") as call,
            client.get(there) as standing,
            client.call(there, "forever", token="u") as cut,
        ):
            await call.message()
            await cut.message()
            await until(lambda: len(there.parts.standalones))
            async with client.get(there, cut.last_id) as resumed:
                await until(lambda: len(there.parts.readers))
                with anyio.fail_after(1):
                    assert await here.layer.sessions.terminate(client.session_id)
                    assert ENDED == (await call.message())["error"]
                    assert ENDED == (await resumed.message())["error"]
                    await standing.ended()
                    await resumed.ended()
        assert [] == there.layer.running_here()
        async with client.echo(there) as response:
            await response.ended()
        assert 404 == response.status


async def test_f17_a_stream_that_is_resumed_elsewhere_than_its_call_runs_ends_too(here, there, client):
    here.scripts["forever"] = forever
    with anyio.fail_after(10):
        async with client.call(here, "forever", token="t") as cut:
            await cut.message()
        async with client.get(there, cut.last_id) as resumed:
            await until(lambda: len(there.parts.readers))
            assert await here.layer.sessions.terminate(client.session_id)
            assert ENDED == (await resumed.message())["error"]
            assert b"" == (await resumed.ended())[len(resumed.body) :]


async def test_f17_what_is_stored_for_a_terminated_session_afterwards_is_refused(here, there, client):
    there.scripts["forever"] = forever
    with anyio.fail_after(10):
        async with client.call(there, "forever", token="t") as call:
            await call.message()
            stream_id = call.last_id.split(".")[0]
            await there.parts.journal.flushed()
            base = (await logged(there, client, call.last_id)).last_seq
            assert await here.layer.sessions.terminate(client.session_id)
            await call.ended()
        await there.parts.journal.flushed()

        late = NewEvent('{"jsonrpc":"2.0","method":"notifications/late"}')
        assert {} == await there.layer._backend.log.append_standalone([(client.session_id, late)])
        batch = Batch(appended=[AppendedStream(client.session_id, stream_id, base, [late], False)])
        assert [] == list(await there.layer._backend.log.write(batch, producer=there.id))
        assert await logged(there, client, call.last_id) is None


async def test_f17_of_a_terminated_session_nothing_is_left_but_its_tombstone(here, there, client):
    async def talk(ctx):
        await ctx.session.send_resource_updated("test://1")
        return "talked"

    there.scripts["talk"] = talk
    with anyio.fail_after(10):
        async with client.call(there, "talk") as call:
            await call.messages()
        await there.parts.subscriptions.subscribe(client.session_id, "test://1", None, sender="a")
        await there.parts.journal.flushed()
        before = [await stored(here, table, client.session_id) for table in ("streams", "events", "subscriptions")]
        assert [3, 3, 1] == before

        assert await here.layer.sessions.terminate(client.session_id)
        await there.parts.journal.flushed()
        after = [await stored(here, table, client.session_id) for table in ("streams", "events", "subscriptions")]
        assert [0, 0, 0] == after
        assert "terminated" == (await here.layer.sessions.get(client.session_id, include_dead=True)).status


async def test_f17_a_delete_is_answered_before_what_belonged_to_the_session_is_cleared_away(here, there, client):
    gate = there.backend.reaping.before["remove"]
    gate.close()
    with anyio.fail_after(10):
        assert 200 == await client.delete(there)
        await gate.reached.wait()
        assert 404 == await client.delete(here)
        assert 2 == await stored(here, "streams", client.session_id)
        gate.open()
        while await stored(here, "streams", client.session_id):
            await settle()


async def test_f17_a_delete_that_its_server_cancels_is_finished_all_the_same(here, there, client):
    gate = there.backend.sessions.before["end"]
    gate.close()
    with anyio.fail_after(10):
        async with request(there.app, "DELETE", headers=client.headers) as response:
            await gate.reached.wait()
            response.task.cancel()
            await settle()
        gate.open()
        await until(lambda: there.parts.telemetry.counts["mcpsession_ended_sessions_total"])
        async with client.echo(here) as response:
            await response.ended()
        assert 404 == response.status
        while await stored(here, "streams", client.session_id):
            await settle()


async def test_f17_a_delete_while_the_store_is_away_is_a_503_and_the_session_lives(here, there, client):
    there.backend.sessions.failing["end"] = lambda *_: StoreUnavailableError("a test says so")
    with anyio.fail_after(10):
        assert 503 == await client.delete(there)
        for at in (here, there):
            async with client.echo(at) as response:
                assert "hello" == text_of(await response.message())


async def test_f17_a_delete_tells_the_expiry_handlers_once_while_the_reaper_looks_for_work(database_url):
    told = []

    async def remember(session):
        told.append((session.id, session.end_reason))

    async with replica(database_url) as here, replica(database_url) as there:
        here.layer.on_expired(remember)
        # It does not hear of the end, so the end waits for it.
        deaf = there.backend.mailbox.before["news"]
        with anyio.fail_after(10):
            client = await Client().initialize(here)
            deaf.close()
            # One read at a time: with one at the gate none is under way that could bring the end.
            there.parts.post_office.wake()
            await deaf.reached.wait()
            async with request(here.app, "DELETE", headers=client.headers) as response:
                await until(lambda: here.parts.telemetry.counts["mcpsession_ended_sessions_total"])
                await here.layer.sessions.cleanup_expired()
                assert [] == told
                deaf.open()
                await response.ended()
            assert 200 == response.status
            while await stored(here, "streams", client.session_id):
                await settle()
            await here.layer.sessions.cleanup_expired()
    assert [(client.session_id, "terminated")] == told


async def test_f17_a_new_session_with_the_id_of_an_ended_one_goes_on_when_the_end_is_heard_late(here, there):
    async def question(ctx):
        return (await ask(ctx))["action"]

    there.scripts.update(question=question, forever=forever)
    with anyio.fail_after(10):
        first = await here.layer.sessions.create("job-1")
        client = await begin(there, "job-1")
        async with client.call(there, "forever", id=7, token="t") as old:
            await old.message()
            second = await here.layer.sessions.register("job-1")
            assert first.incarnation != second.incarnation
            assert ENDED == (await old.message())["error"]

        await begin(there, "job-1")
        # The very id of the call that ended.
        async with client.call(there, "question", id=7) as call, client.get(there) as standing:
            asked = await call.message()
            await until(lambda: len(there.parts.standalones))
            there.parts.endings.apply("job-1", first.incarnation)
            await settle()
            assert not standing.complete
            assert 202 == await client.answer(here, asked, {"action": "accept"})
            assert "accept" == text_of(await call.message())


async def test_f17_a_call_whose_session_ends_while_it_is_being_loaded_finds_no_session(here, there, client):
    ran = anyio.Event()

    async def run(ctx):
        ran.set()

    there.scripts["run"] = run
    loaded = there.backend.sessions.after["get"]
    loaded.close()
    with anyio.fail_after(10):
        async with client.call(there, "run") as call:
            await loaded.reached.wait()
            assert await here.layer.sessions.terminate(client.session_id)
            loaded.open()
            await call.ended()
    assert (404, False) == (call.status, ran.is_set())


async def test_f17_a_call_whose_session_is_replaced_while_it_is_being_loaded_runs_in_the_new_one(here, there):
    with anyio.fail_after(10):
        await here.layer.sessions.create("job-1")
        client = await begin(here, "job-1")
        loaded = there.backend.sessions.after["get"]
        loaded.close()
        async with client.echo(there) as call:
            await loaded.reached.wait()
            await here.layer.sessions.register("job-1")
            await begin(here, "job-1")
            loaded.open()
            assert "hello" == text_of(await call.message())


async def test_f17_a_stream_whose_session_ends_while_it_is_taken_is_refused(here, there, client):
    taken = there.backend.holds.after["take"]
    taken.close()
    with anyio.fail_after(10):
        async with client.get(there) as standing:
            await taken.reached.wait()
            assert await here.layer.sessions.terminate(client.session_id)
            taken.open()
            await standing.ended()
    assert 404 == standing.status


async def test_f17_state_that_a_call_kept_for_itself_does_not_reach_a_new_session_with_its_id(here, there):
    from mcpsession import current_session

    changed = anyio.Event()

    async def change(ctx):
        state = await current_session().state()
        state["secret"] = 1
        changed.set()
        with anyio.CancelScope(shield=True):
            await release.wait()
        return "too late"

    release = anyio.Event()
    there.scripts["change"] = change
    with anyio.fail_after(10):
        await here.layer.sessions.create("job-1")
        client = await begin(here, "job-1")
        async with client.call(there, "change") as call:
            await changed.wait()
            await here.layer.sessions.register("job-1")
            release.set()
            assert ENDED == (await call.message())["error"]
        assert {} == await here.layer.sessions.state("job-1")
    assert 0 == there.backend.sessions.calls["save_state"]


async def test_f83_nothing_but_initialize_creates_a_session(here):
    rpc = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo", "arguments": {"text": "x"}}}
    bad = hello() | {"params": {"protocolVersion": 7}}
    with anyio.fail_after(10):
        for headers in ({}, {"mcp-session-id": "job-1"}):
            accept = {"accept": "application/json, text/event-stream", **headers}
            expected = 404 if headers else 400
            for method, body in (
                ("POST", rpc),
                ("POST", {"jsonrpc": "2.0", "method": "notifications/initialized"}),
                ("POST", bad),
                ("GET", None),
                ("DELETE", None),
            ):
                async with request(here.app, method, headers=accept, json_body=body) as response:
                    await response.ended()
                assert expected == response.status, (method, body)
        assert 0 == await stored(here, "sessions")
        assert 0 == await stored(here, "streams")
        await Client().initialize(here)
        assert 1 == await stored(here, "sessions")


@pytest.mark.parametrize("verb", ["call", "notify", "answer", "get", "delete", "initialize"])
async def test_a_session_that_has_failed_is_the_same_404_as_an_unknown_one(here, there, client, verb):
    def send(who):
        match verb:
            case "call":
                return who.echo(there)
            case "notify":
                return who.post(there, {"jsonrpc": "2.0", "method": "notifications/initialized"})
            case "answer":
                return who.post(there, {"jsonrpc": "2.0", "id": "x", "result": {}})
            case "initialize":
                return who.post(there, hello())
            case _:
                return request(there.app, verb.upper(), headers=who.headers)

    with anyio.fail_after(10):
        await here.layer.sessions.initialization.fail(client.session_id, "its file is gone")
        await until(lambda: there.parts.cache.peek(client.session_id) is None and not there.parts.post_office.behind)
        answers = []
        for who in (client, Client(session_id="never-was")):
            async with send(who) as response:
                answers.append((await response.ended(), response.status))
    assert answers[0] == answers[1]
    assert 404 == answers[0][1]


async def test_a_failed_session_stays_for_diagnosis(database_url):
    async with replica(database_url) as here:
        await here.layer.sessions.create("job-1")
        await here.layer.sessions.initialization.fail("job-1", "its file is gone")
        found = await here.layer.sessions.get("job-1")
    assert ("error", "its file is gone") == (found.phase, found.failure)

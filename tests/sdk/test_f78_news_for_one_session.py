"""News for one session goes to its stream, wherever that is held; without one, that is said, and it waits."""

from __future__ import annotations

import anyio
import asyncpg
import pytest

from mcpsession.errors import SessionNotFoundError
from mcpsession.model import News, NoStream, Published
from tests.sdk.gates import until
from tests.sdk.newsroom import END, TOOLS, heard, listening, numbered, standing, up_to
from tests.sdk.replicas import Client, hello, replica, stored


@pytest.mark.parametrize("at", ["the same replica", "another replica"])
async def test_f78_news_for_a_session_arrives_on_its_stream_and_on_no_other(here, there, client, at):
    target = there if at == "another replica" else here
    with anyio.fail_after(10):
        other = await Client().initialize(here)
        async with standing(client, target) as mine, standing(other, target) as others:
            publish = here.layer.broadcaster.publish
            assert Published() == await publish(numbered(1), session_id=client.session_id)
            assert Published() == await publish(TOOLS, session_id=client.session_id)
            await publish(END)
            assert [numbered(1), TOOLS] == await heard(mine)
            assert [] == await heard(others)


async def test_f78_it_says_when_no_stream_is_held_and_the_news_come_with_the_next_get(here, there, client):
    publish = here.layer.broadcaster.publish
    with anyio.fail_after(10):
        told = [await publish(numbered(n), session_id=client.session_id) for n in range(3)]
        assert [NoStream(client.session_id)] * 3 == told
        assert not any(told)
        async with standing(client, there) as stream:
            assert await publish(END, session_id=client.session_id)
            assert [numbered(n) for n in range(3)] == await heard(stream)
        # And not again.
        await until(lambda: not len(there.parts.standalones))
        assert not await publish(numbered(3), session_id=client.session_id)
        async with standing(client, here, stream.last_id) as stream:
            await publish(END)
            assert [numbered(3)] == await heard(stream)


@pytest.mark.parametrize("resumed", [True, False])
async def test_f78_what_an_earlier_session_with_the_same_id_was_to_hear_nobody_hears(
    database_url, here, there, resumed
):
    """In a transaction that was open while the one ended and the other began; or asked for with an old position."""
    sessions, publish = here.layer.sessions, here.layer.broadcaster.publish
    connection = await asyncpg.connect(database_url)
    with anyio.fail_after(10):
        await sessions.create("job-1")
        before = await here.parts.mailbox.position()
        async with connection.transaction():
            assert not await publish(numbered(1), session_id="job-1", conn=connection)
            await sessions.delete("job-1")
            await sessions.create("job-1")
            client = await introduced(there, "job-1")
            async with standing(client, there, f"s.0.{before}" if resumed else None) as stream:
                await connection.execute("COMMIT; BEGIN")
                await publish(numbered(2), session_id="job-1")
                await publish(END)
                assert [numbered(2)] == await heard(stream)
    await connection.close()


async def introduced(at, session_id):
    """A session of the application's own, with a client."""
    client = Client(session_id=session_id)
    async with client.post(at, hello()) as response:
        await response.ended()
    assert 202 == await client.notify(at, "notifications/initialized")
    return client


async def test_f78_a_dead_replica_holds_no_stream(database_url, here, client):
    async with replica(database_url) as doomed:
        with anyio.fail_after(10):
            async with standing(client, doomed):
                assert await here.layer.broadcaster.publish(numbered(1), session_id=client.session_id)
                # Declared dead by others, as if it had been killed: it holds the stream in the store, and nowhere else.
                beats = (await here.layer._backend._database.fetchrow(BEATS, doomed.id))["beats"]
                async with here.backend.registry() as registry:
                    doomed.parts.heartbeat.on_reborn = lambda _: None
                    assert await registry.declare_dead(doomed.id, beats)
                told = await here.layer.broadcaster.publish(numbered(2), session_id=client.session_id)
                assert NoStream(client.session_id) == told


BEATS = "SELECT beats FROM mcpsession.replicas WHERE id = $1"


@pytest.mark.parametrize("how", ["deleted", "never there"])
async def test_f78_for_a_session_that_is_not_live_nothing_is_recorded(here, there, client, how):
    if how == "deleted":
        await there.layer.sessions.delete(client.session_id)
        session_id = client.session_id
    else:
        session_id = "nobody"
    before = await stored(here, "mail", session_id)
    with pytest.raises(SessionNotFoundError), anyio.fail_after(5):
        await here.layer.broadcaster.publish(TOOLS, session_id=session_id)
    assert before == await stored(here, "mail", session_id)


async def test_f78_listen_streams_belong_to_no_session_and_never_hear_what_is_for_one(here, there, client):
    publish = here.layer.broadcaster.publish
    with anyio.fail_after(10):
        async with listening(there, toolsListChanged=True, promptsListChanged=True) as stream:
            await publish(TOOLS, session_id=client.session_id)
            await publish(TOOLS, topic="tools")
            await publish(News("notifications/prompts/list_changed"))
            assert ["notifications/subscriptions/acknowledged"] == [
                message["method"] for message in await up_to(stream, "notifications/prompts/list_changed")
            ]


async def test_f78_what_has_a_topic_or_is_no_notification_reaches_no_client(here, there, client):
    publish = here.layer.broadcaster.publish
    session_id = client.session_id

    async def all_that_is_not_for_clients():
        await publish(numbered(1), topic="orders")
        await publish(numbered(2), session_id=session_id, topic="orders")
        await publish(News("orders/changed"))
        await publish(News("orders/changed"), session_id=session_id)
        await publish(END)

    with anyio.fail_after(10):
        async with standing(client, there) as live:
            await all_that_is_not_for_clients()
            assert [] == await heard(live)
        await all_that_is_not_for_clients()
        async with standing(client, here, live.last_id) as caught_up:
            assert [] == await heard(caught_up)


async def test_f78_with_a_topic_besides_nobody_asks_for_a_stream(here, client):
    told = await here.layer.broadcaster.publish(numbered(1), session_id=client.session_id, topic="orders")
    assert Published() == told

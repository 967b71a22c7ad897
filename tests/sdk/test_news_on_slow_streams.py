"""News on standalone streams that lag, that have nothing to tell for long, and news that cannot be told."""

from __future__ import annotations

import json

import anyio
import asyncpg
import pytest

from mcpsession.errors import StoreUnavailableError
from mcpsession.model import News, has_seen
from mcpsession.sdk import wire
from tests.sdk.gates import settle, until
from tests.sdk.newsroom import (
    END,
    TOOLS,
    heard,
    messages_of,
    news_of,
    numbered,
    said,
    standing,
    subscribe,
    updated,
)
from tests.sdk.replicas import Client, replica

ONE, TWO = "test://1", "test://2"


# What lags behind


@pytest.mark.parametrize("settings", [{"outbound_frames": 4}, {"outbound_bytes": 300}], ids=["news", "bytes"])
async def test_a_stream_that_could_not_keep_up_hears_the_last_state_and_all_that_has_no_newer(
    database_url, here, settings
):
    publish = here.layer.broadcaster.publish
    async with replica(database_url, **settings) as there:
        with anyio.fail_after(20):
            client = await Client().initialize(here)
            await subscribe(client, here, ONE)
            async with standing(client, there) as stream:
                stream.stop_reading()
                for number in range(20):
                    await publish(numbered(number))
                    await publish(TOOLS)
                    await publish(updated(ONE))
                await until(lambda: not there.parts.post_office.behind)
                await settle()
                [held] = there.parts.standalones.of(client.session_id)
                assert len(held._news._queue) <= 4
                stream.read_on()
                await publish(END)
                told = await heard(stream)
    assert [numbered(number) for number in range(20)] == [news for news in told if news.method == numbered(0).method]
    assert 20 > told.count(TOOLS) >= 1 <= told.count(updated(ONE))
    assert [numbered(19), TOOLS, updated(ONE)] == told[-3:]


async def test_one_piece_of_news_may_be_larger_than_the_queue(database_url, here):
    async with replica(database_url, outbound_bytes=100) as there:
        with anyio.fail_after(10):
            client = await Client().initialize(here)
            big = News("notifications/x/big", {"text": "x" * 1000})
            async with standing(client, there) as stream:
                await here.layer.broadcaster.publish(big)
                assert big.method == (await stream.message())["method"]
                assert 1 == there.backend.news_log.calls["missed"]


async def test_a_stream_waits_while_the_store_is_away_and_loses_nothing(database_url, here):
    async with replica(database_url, poll=0.05) as there:
        publish = here.layer.broadcaster.publish
        with anyio.fail_after(10):
            client = await Client().initialize(here)
            await subscribe(client, here, ONE)
            away = StoreUnavailableError("a test says so")
            there.backend.news_log.failing["missed"] = lambda *_: away
            await publish(updated(ONE))
            await publish(numbered(1))
            async with client.get(there) as stream:
                await until(lambda: there.backend.news_log.calls["missed"] >= 2)
                del there.backend.news_log.failing["missed"]
                assert [updated(ONE), numbered(1)] == news_of([await stream.message() for _ in range(2)])
                there.backend.subscriptions.failing["uris"] = lambda *_: away
                await publish(updated(ONE))
                await publish(END)
                await until(lambda: there.backend.subscriptions.calls["uris"] >= 2)
                del there.backend.subscriptions.failing["uris"]
                assert [updated(ONE)] == await heard(stream)


# What cannot be told


INSERT = """
INSERT INTO mcpsession.mail (namespace, sender, kind, body, expires_at)
VALUES ('default', 'somebody', 'news', $1, now() + interval '1 hour')
"""

JUNK = [
    "junk",
    "[]",
    '"notifications/x"',
    '{"method": 7}',
    '{"method": "notifications/x", "params": [1]}',
    json.dumps({"method": "notifications/x", "params": {"text": "\ud800"}}),
    '{"method": "notifications/resources/updated", "params": {"uri": 7}}',
    '{"method": "notifications/resources/updated"}',
    "[" * 100_000,
]


@pytest.mark.parametrize("when", ["live", "caught up"])
async def test_f82_news_that_cannot_be_told_are_passed_over(here, there, client, when):
    async def post_junk():
        connection = await asyncpg.connect(here.backend._direct.url)
        try:
            for body in JUNK:
                await connection.execute(INSERT, body)
        finally:
            await connection.close()
        await here.layer.broadcaster.publish(TOOLS)
        await here.layer.broadcaster.publish(END)

    with anyio.fail_after(10):
        if when == "caught up":
            await post_junk()
        async with standing(client, there) as stream:
            if when == "live":
                await post_junk()
            assert [TOOLS] == await heard(stream)


# How long a position is good


async def test_the_place_of_a_stream_that_has_nothing_to_tell_does_not_grow_too_old(database_url, here):
    async with replica(database_url, keep_alive=0.05, mail_ttl=2.0, beat=0.2) as there:
        with anyio.fail_after(20):
            client = await Client().initialize(there)
            async with standing(client, there) as stream:
                first = stream.last_id
                # Nobody publishes, so only time can move it.
                await until(lambda: stream.last_id != first)
                second = stream.last_id
                await until(lambda: stream.last_id != second)
            assert 0 == len(messages_of(stream))
            assert wire.parse_cursor(stream.last_id).seq == wire.parse_cursor(first).seq
            await here.layer.broadcaster.publish(numbered(1))
            async with standing(client, there, stream.last_id) as stream:
                await here.layer.broadcaster.publish(END)
                assert [numbered(1)] == await heard(stream)


async def test_a_client_that_knows_no_frames_without_data_gets_none(database_url):
    async with replica(database_url, keep_alive=0.05, mail_ttl=2.0, beat=0.1) as here:
        with anyio.fail_after(20):
            client = await Client("2025-06-18").initialize(here)
            async with standing(client, here) as stream:
                await until(lambda: len(stream.frames) > 40)
                assert all(frame.comment is not None or frame.retry for frame in stream.frames)
            await here.layer.broadcaster.publish(numbered(1))
            # Its place went on all the same.
            async with standing(client, here) as stream:
                await here.layer.broadcaster.publish(END)
                assert [numbered(1)] == await heard(stream)


# The server's log


async def test_log_messages_come_live_and_caught_up(here, there, client):
    publish = here.layer.broadcaster.publish
    with anyio.fail_after(10):
        async with standing(client, there) as stream:
            await publish(said("debug", "all"))
            await publish(said("info", "you"), session_id=client.session_id)
            await publish(END)
            assert [said("debug", "all"), said("info", "you")] == await heard(stream)
        await publish(said("info", "one"), session_id=client.session_id)
        await publish(said("info", "two"), session_id=client.session_id)
        async with standing(client, here, stream.last_id) as stream:
            await publish(END)
            assert [said("info", "one"), said("info", "two")] == await heard(stream)


def test_positions_that_are_compared_mean_what_they_say():
    assert has_seen("5:7:5@1.0", 6)
    assert not has_seen("", 1)

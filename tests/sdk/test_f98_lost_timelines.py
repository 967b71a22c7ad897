"""A fail-over to a standby that had not everything: the numbers that a client has are another log's.

Only an asynchronous standby makes this; then nothing can bring back what is lost, but nothing new may be passed over.
"""

from __future__ import annotations

import anyio
import asyncpg
import pytest

from tests.sdk.gates import until
from tests.sdk.newsroom import PROMPTS, RESOURCES, TOOLS, standing

pytestmark = pytest.mark.filterwarnings("ignore:The logging capability is deprecated")

CHANGED = {news.method for news in (TOOLS, PROMPTS, RESOURCES)}
# What is left of the standalone stream when what came after some event is lost.
LOSE = """
WITH lost AS (DELETE FROM mcpsession.events WHERE session_id = $1 AND stream_id = 's' AND seq > $2)
UPDATE mcpsession.streams SET last_seq = $2, delivered_seq = $3 WHERE session_id = $1 AND id = 's'
"""


@pytest.fixture
async def tell(here, client):
    """Send a message of the session's own, which is in the log then."""

    async def say(text):
        async def script(ctx):
            await ctx.session.send_log_message("info", text)

        here.scripts[text] = script
        async with client.call(here, text) as response:
            await response.ended()
        await here.parts.journal.flushed()

    return say


@pytest.fixture
async def lose(database_url, client):
    connection = await asyncpg.connect(database_url)

    async def after(seq, *, delivered):
        await connection.execute(LOSE, client.session_id, seq, delivered)

    yield after
    await connection.close()


def texts(stream):
    return [
        frame.message["params"]["data"]
        for frame in stream.frames
        if frame.message and frame.message["method"] == "notifications/message"
    ]


def has_everything_changed(stream):
    return {frame.message["method"] for frame in stream.frames if frame.message} >= CHANGED


def numbers(stream):
    return [int(frame.id.split(".")[1]) for frame in stream.frames if frame.id]


async def test_f98_a_cursor_past_the_end_is_one_of_a_lost_log_and_hears_what_that_log_did_not_have(
    here, there, client, tell
):
    with anyio.fail_after(10):
        async with standing(client, there) as stream:
            await tell("one")
            await until(lambda: texts(stream) == ["one"])
        await tell("two")

        # Of the lost log it had seven.
        cursor = stream.last_id.replace("s.1.", "s.7.")
        async with client.get(there, cursor) as stream:
            await until(lambda: texts(stream) == ["two"])
            await until(lambda: has_everything_changed(stream))
            await tell("three")
            await until(lambda: texts(stream) == ["two", "three"])
    assert max(numbers(stream)) == 3


async def test_f98_an_open_stream_that_is_past_the_end_goes_back_and_misses_nothing_new(
    here, there, client, tell, lose
):
    with anyio.fail_after(10):
        async with standing(client, there) as stream:
            for text in ("one", "two", "three"):
                await tell(text)
            await until(lambda: texts(stream) == ["one", "two", "three"])
            await lose(1, delivered=1)

            await tell("another two")
            await until(lambda: texts(stream)[3:] == ["another two"])
            await until(lambda: has_everything_changed(stream))
            await tell("another three")
            await until(lambda: texts(stream)[4:] == ["another three"])


async def test_f98_where_more_is_noted_as_delivered_than_there_is_all_that_there_is_comes_again(
    here, there, client, tell, lose
):
    """The position was saved in the new log before the stream had looked at it."""
    with anyio.fail_after(10):
        for text in ("one", "two", "three"):
            await tell(text)
        await lose(2, delivered=3)
        async with client.get(there) as stream:
            await until(lambda: texts(stream) == ["one", "two"])
            await until(lambda: has_everything_changed(stream))


async def test_a_cursor_past_what_was_saved_is_believed_where_the_log_has_it(here, there, client, tell, lose):
    """The holder before was killed before it could say how far it came."""
    with anyio.fail_after(10):
        async with standing(client, there) as stream:
            for text in ("one", "two"):
                await tell(text)
            await until(lambda: texts(stream) == ["one", "two"])
        await lose(2, delivered=0)
        await tell("three")
        async with client.get(there, stream.last_id) as again:
            await until(lambda: texts(again) == ["three"])
    assert not has_everything_changed(again)

"""Each message goes to one stream of a session (2025-11-25), however many GETs there are."""

from __future__ import annotations

import anyio
import pytest

from tests.sdk.asgi_client import request
from tests.sdk.gates import until
from tests.sdk.newsroom import END, TOOLS, heard, news_of, numbered, standing, up_to


@pytest.mark.parametrize("at", ["the same replica", "another replica"])
async def test_f79_of_two_gets_of_one_session_one_hears_each_news(here, there, client, at):
    target = there if at == "another replica" else here
    publish = here.layer.broadcaster.publish
    with anyio.fail_after(10):
        async with standing(client, here) as old:
            await publish(numbered(1))
            assert [] == await up_to(old, numbered(1).method)
            # Without a cursor: it goes on where the stream is, and not where this client was.
            async with standing(client, target) as new:
                await publish(numbered(2))
                await publish(numbered(3), session_id=client.session_id)
                await publish(END)
                on_new = await heard(new)
                assert [] == await old.messages()
    assert [numbered(2), numbered(3)] == on_new


@pytest.mark.parametrize("round", range(5))
async def test_f79_news_that_come_while_the_stream_changes_hands_come_once(here, there, client, round):
    publish = there.layer.broadcaster.publish
    handed_over, published = anyio.Event(), []

    async def publish_on():
        while not handed_over.is_set():
            await publish(numbered(len(published)))
            published.append(numbered(len(published)))
        await publish(END)

    with anyio.fail_after(20):
        async with standing(client, here) as old, anyio.create_task_group() as tasks:
            tasks.start_soon(publish_on)
            for _ in range(1 + 3 * round):
                await old.message()
            async with standing(client, there) as new:
                before = news_of(await old.messages())
                handed_over.set()
                after = await heard(new)
    assert published[1 + 3 * round :] == before + after


async def test_f79_news_that_nobody_takes_are_not_counted_as_delivered(here, there, client):
    """The socket stands still, so its end comes before its news: the next one has them."""
    publish = there.layer.broadcaster.publish
    with anyio.fail_after(10):
        async with standing(client, here) as stuck:
            await publish(TOOLS)
            assert TOOLS.method == (await stuck.message())["method"]
            stuck.stop_reading()
            await publish(numbered(1))
            await publish(numbered(2))
            async with standing(client, there) as new:
                await publish(END)
                assert [numbered(1), numbered(2)] == await heard(new)


async def test_f79_a_get_whose_client_is_gone_before_it_began_holds_nothing(here, there, client):
    """Else the next ones would wait for it to let go, and be refused as rivals."""
    with anyio.fail_after(5):
        for _ in range(5):
            async with request(here.app, "GET", headers=client.headers, reading=False):
                await until(lambda: len(here.parts.standalones))
            assert await here.backend.holds.holder(client.session_id) is None
        async with standing(client, there) as stream:
            await here.layer.broadcaster.publish(END)
            assert [] == await heard(stream)

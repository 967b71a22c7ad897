"""News of the server's log pass the level of each session, on whichever replica it was set and holds the stream."""

from __future__ import annotations

import anyio
import pytest

from mcpsession import news_contracts
from mcpsession.news import LEVELS
from tests.sdk.newsroom import END, heard, said, set_level, standing
from tests.sdk.replicas import Client


async def test_f29_news_of_the_log_reach_each_session_from_its_own_level_on_whichever_replica_publishes(
    here, there, client
):
    with anyio.fail_after(10):
        other, third = await Client().initialize(here), await Client().initialize(there)
        await set_level(client, there, "error")
        await set_level(third, here, "emergency")
        async with (
            standing(client, here) as mine,
            standing(other, there) as others,
            standing(third, there) as thirds,
        ):
            for at in (here, there):
                for level in LEVELS:
                    await at.layer.broadcaster.log_message(level, "to all")
                    await at.layer.broadcaster.log_message(level, "to you", session_id=client.session_id)
                await at.layer.broadcaster.publish(END)
            wanted = [said(level, to) for level in LEVELS[LEVELS.index("error") :] for to in ("to all", "to you")]
            for _ in range(2):
                assert wanted == await heard(mine)
                assert [said(level, "to all") for level in LEVELS] == await heard(others)
                assert [said("emergency", "to all")] == await heard(thirds)


@pytest.mark.parametrize("gate", ["none", "the holder reads level and news at once", "the holder reads the level"])
async def test_f29_a_level_that_was_answered_before_some_news_was_published_counts_for_them(here, there, client, gate):
    """The level is set on one replica, the other holds the stream."""
    publish = here.layer.broadcaster.publish
    with anyio.fail_after(10):
        async with standing(client, there) as stream:
            await publish(said("info", "before"))
            await publish(END)
            assert [said("info", "before")] == await heard(stream)
            closed = {
                "none": None,
                "the holder reads level and news at once": there.backend.mailbox.before["news"],
                "the holder reads the level": there.backend.sessions.after["get"],
            }[gate]
            if closed is not None:
                closed.close()
            await set_level(client, here, "error")
            await publish(said("info", "after"))
            await publish(said("error", "after"))
            await publish(END)
            if closed is not None:
                await closed.reached.wait()
                closed.open()
            assert [said("error", "after")] == await heard(stream)


async def test_f29_a_level_that_changes_while_the_stream_reads_it_counts_for_the_news_after_that(here, there, client):
    publish = here.layer.broadcaster.publish
    with anyio.fail_after(10):
        await set_level(client, here, "info")
        async with standing(client, there) as stream:
            gate = there.backend.sessions.after["get"]
            gate.close()
            await publish(said("debug", "one"))
            await gate.reached.wait()
            # What the stream has read is the level before this.
            await set_level(client, here, "error")
            await publish(said("info", "two"))
            await publish(said("error", "three"))
            await publish(END)
            gate.open()
            assert [said("error", "three")] == await heard(stream)


async def test_f29_what_a_stream_catches_up_with_passes_the_level_that_the_store_has(here, there, client):
    """Its replica may not have heard of the level yet; the log has the news already."""
    with anyio.fail_after(10):
        # Known there, without a level.
        async with client.echo(there) as response:
            await response.messages()
        gate = there.backend.mailbox.before["news"]
        gate.close()
        await set_level(client, here, "error")
        await here.layer.broadcaster.log_message("info", "low", session_id=client.session_id)
        await here.layer.broadcaster.log_message("alert", "high", session_id=client.session_id)
        async with standing(client, there) as stream:
            await here.layer.broadcaster.publish(END)
            gate.open()
            assert [said("alert", "high")] == await heard(stream)


async def test_f29_a_level_that_is_set_while_a_stream_catches_up_counts_for_what_came_after_it(
    here, there, client, monkeypatch
):
    monkeypatch.setattr(news_contracts, "PAGE_MAILS", 1)
    session_id = client.session_id
    with anyio.fail_after(10):
        for number in range(2):
            await here.layer.broadcaster.log_message("info", number, session_id=session_id)
        mail, page = there.backend.mailbox.before["news"], there.backend.news_log.before["missed"]
        page.close()
        async with client.get(there) as stream:
            await page.reached.wait()
            mail.close()
            page.open()
            page.close()
            # The first page, for which the stream looks at the level.
            assert 0 == (await stream.message())["params"]["data"]
            await page.reached.wait()
            await set_level(client, here, "error")
            await here.layer.broadcaster.log_message("info", 2, session_id=session_id)
            await here.layer.broadcaster.publish(END)
            page.open()
            assert 2 not in [news.params["data"] for news in await heard(stream)]
            mail.open()


async def test_f29_a_client_that_was_away_gets_what_its_level_wants_though_less_came_after_it(here, there, client):
    with anyio.fail_after(10):
        await set_level(client, here, "error")
        for level in ("error", "critical", "info"):
            await here.layer.broadcaster.log_message(level, "1")
            await here.layer.broadcaster.log_message(level, "2")
        async with standing(client, there) as stream:
            await here.layer.broadcaster.publish(END)
            assert [said("error", "2"), said("critical", "2")] == await heard(stream)

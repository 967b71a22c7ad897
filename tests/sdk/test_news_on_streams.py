"""News on standalone streams: as they come, after an absence. None is lost."""

from __future__ import annotations

import anyio
import pytest

from mcpsession import news_contracts
from mcpsession.model import News
from mcpsession.sdk import wire
from tests.sdk.gates import until
from tests.sdk.newsroom import (
    END,
    PROMPTS,
    RESOURCES,
    TOOLS,
    heard,
    messages_of,
    news_of,
    numbered,
    standing,
    subscribe,
    up_to,
    up_to_end,
    updated,
)
from tests.sdk.replicas import Client

ONE, TWO = "test://1", "test://2"


# What is on the wire


@pytest.mark.parametrize("when", ["live", "caught up"])
@pytest.mark.parametrize(
    ("news", "expected"),
    [
        (TOOLS, b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{}}'),
        (
            News("notifications/x/y", {"b": [1, None], "a": {"\u00e9": True}}),
            '{"jsonrpc":"2.0","method":"notifications/x/y","params":{"b":[1,null],"a":{"é":true}}}'.encode(),
        ),
        (News("notifications/x/line", {"text": "a\nb\u2028c\r"}), None),
    ],
    ids=["without params", "with params", "with line breaks"],
)
async def test_f65_a_frame_is_a_notification_whose_params_are_always_there(here, there, client, when, news, expected):
    with anyio.fail_after(10):
        if when == "caught up":
            await here.layer.broadcaster.publish(news)
        async with standing(client, there) as stream:
            if when == "live":
                await here.layer.broadcaster.publish(news)
            await until(lambda: messages_of(stream))
            [frame] = messages_of(stream)
    sent = next(chunk for chunk in stream.chunks if b"\ndata: {" in chunk)
    if expected is not None:
        assert f"id: {frame.id}\nevent: message\ndata: ".encode() + expected + b"\n\n" == sent
    assert {"jsonrpc": "2.0", "method": news.method, "params": dict(news.params)} == frame.message


async def test_news_of_a_megabyte_arrive_whole_live_and_caught_up(here, there, client):
    big = News("notifications/x/big", {"text": "\u00e9" * 500_000})
    with anyio.fail_after(20):
        async with standing(client, there) as stream:
            await here.layer.broadcaster.publish(big)
            await here.layer.broadcaster.publish(END)
            assert [big] == await heard(stream)
        await here.layer.broadcaster.publish(big)
        async with standing(client, here, stream.last_id) as stream:
            await here.layer.broadcaster.publish(END)
            assert [big] == await heard(stream)


# After an absence


async def test_a_client_that_was_away_gets_the_newest_of_each_kind_and_all_that_has_no_newer(here, there, client):
    publish = here.layer.broadcaster.publish
    with anyio.fail_after(10):
        await subscribe(client, here, ONE)
        await subscribe(client, here, TWO)
        async with standing(client, here) as stream:
            await publish(END)
            assert [] == await heard(stream)
        for number in range(3):
            await publish(TOOLS)
            await publish(numbered(number))
            await publish(News(PROMPTS.method, {"_meta": {"n": number}}))
            await publish(updated(ONE))
            await publish(updated(TWO))
            await publish(updated("test://of nobody"))
            await publish(TOOLS, session_id=client.session_id)
        async with standing(client, there, stream.last_id) as stream:
            await publish(END)
            expected = [
                numbered(0),
                numbered(1),
                numbered(2),
                News(PROMPTS.method, {"_meta": {"n": 2}}),
                updated(ONE),
                updated(TWO),
                TOOLS,
            ]
            assert expected == await heard(stream)
        # A stream that nobody holds any more says where it ended.
        async with standing(client, here) as stream:
            await publish(END)
            assert [] == await heard(stream)


async def test_a_client_that_lost_the_last_frames_of_a_page_gets_them_again(here, there, client):
    """Only the page's last frame says that all of it has arrived."""
    publish = here.layer.broadcaster.publish
    with anyio.fail_after(10):
        for number in range(4):
            await publish(numbered(number))
        async with standing(client, there) as stream:
            await until(lambda: len(messages_of(stream)) == 4)
        frames = messages_of(stream)
        ids = [frame.id for frame in frames]
        assert ids[0] == ids[1] == ids[2] != ids[3]
        async with standing(client, here, ids[2]) as again:
            await until(lambda: len(messages_of(again)) == 4)
        async with standing(client, here, ids[3]) as again:
            await publish(END)
            assert [] == await heard(again)


async def test_of_news_that_a_replica_reads_at_once_only_the_last_frame_says_that_all_have_arrived(here, there, client):
    publish = here.layer.broadcaster.publish
    gate = there.backend.mailbox.before["news"]
    with anyio.fail_after(10):
        async with standing(client, there) as stream:
            gate.close()
            await publish(numbered(0))
            await gate.reached.wait()
            for number in range(1, 4):
                await publish(numbered(number))
            # For others, and after the last one for this client.
            await publish(updated("test://of nobody"))
            gate.open()
            await until(lambda: len(messages_of(stream)) == 4)
        ids = [frame.id for frame in messages_of(stream)]
        assert ids[0] == ids[1] == ids[2] != ids[3]
        async with standing(client, here, ids[2]) as again:
            await publish(END)
            assert [numbered(number) for number in range(4)] == await heard(again)
        async with standing(client, there, ids[3]) as again:
            await publish(END)
            assert [END] == news_of([await again.message()])


async def test_a_long_absence_is_caught_up_in_pages_while_news_go_on(here, there, client, monkeypatch):
    monkeypatch.setattr(news_contracts, "PAGE_MAILS", 3)
    publish = here.layer.broadcaster.publish
    gate = there.backend.news_log.before["missed"]
    with anyio.fail_after(20):
        for number in range(10):
            await publish(numbered(number))
            await publish(TOOLS)
        gate.close()
        async with client.get(there) as stream:
            for number in range(10, 14):
                await gate.reached.wait()
                gate.open()
                gate.close()
                await publish(numbered(number))
            gate.open()
            await publish(END)
            told = await heard(stream)
    assert [numbered(number) for number in range(14)] == [news for news in told if news != TOOLS]
    assert [TOOLS] == [news for news in told if news == TOOLS]


async def test_news_that_a_replica_hears_later_than_its_stream_caught_up_are_told_once(here, there, client):
    publish = here.layer.broadcaster.publish
    gate = there.backend.mailbox.before["news"]
    with anyio.fail_after(10):
        gate.close()
        for number in range(3):
            await publish(numbered(number))
        async with standing(client, there) as stream:
            await publish(numbered(3))
            gate.open()
            await publish(END)
            assert [numbered(number) for number in range(4)] == await heard(stream)


async def test_news_from_before_the_session_do_not_arrive(here, there):
    publish = here.layer.broadcaster.publish
    with anyio.fail_after(10):
        await publish(numbered(1))
        gate = there.backend.mailbox.before["news"]
        gate.close()
        await publish(numbered(2))
        client = await Client().initialize(there)
        async with standing(client, there) as stream:
            gate.open()
            await publish(END)
            assert [] == await heard(stream)


@pytest.mark.parametrize("lost", ["of another store", "too old"])
async def test_where_the_position_is_lost_everything_changed_and_each_subscribed_resource(here, there, client, lost):
    publish = here.layer.broadcaster.publish
    with anyio.fail_after(10):
        await subscribe(client, here, TWO)
        await subscribe(client, here, ONE)
        async with standing(client, here) as stream:
            await publish(numbered(1))
            await publish(END)
            await up_to_end(stream)
        cursor = wire.parse_cursor(stream.last_id)
        snapshot = cursor.position.partition("@")[0]
        position = f"{snapshot}@1.0" if lost == "too old" else "900000000:900000001:@2000000000"
        async with standing(client, there, f"s.{cursor.seq}.{position}") as stream:
            await publish(END)
            assert [TOOLS, PROMPTS, RESOURCES, updated(ONE), updated(TWO)] == await heard(stream)
        # And that was that.
        async with standing(client, there, stream.last_id) as stream:
            await publish(END)
            assert [] == await heard(stream)


async def test_a_stream_whose_replica_may_have_missed_something_looks_for_itself(here, there, client):
    publish = here.layer.broadcaster.publish
    with anyio.fail_after(10):
        await subscribe(client, here, ONE)
        async with standing(client, there) as stream:
            gate = there.backend.mailbox.before["news"]
            gate.close()
            await publish(numbered(1))
            await publish(TOOLS)
            await gate.reached.wait()
            # As after a fail-over: what the replica was about to read is passed over.
            there.parts.post_office.position = await there.backend.mailbox.position()
            there.parts.broadcaster.lose()
            assert [numbered(1)] == news_of(await up_to(stream, TOOLS.method))
            gate.open()
            await publish(END)
            assert [] == await heard(stream)


async def test_a_stream_whose_replica_lost_its_position_and_whose_own_is_lost_too_tells_that_everything_changed(
    here, there, client
):
    publish = here.layer.broadcaster.publish
    with anyio.fail_after(10):
        await subscribe(client, here, ONE)
        async with standing(client, there) as stream:
            [held] = there.parts.standalones.of(client.session_id)
            held._place.position = "900000000:900000001:@2000000000"
            there.parts.post_office.on_lost()
            assert [TOOLS, PROMPTS, RESOURCES] == news_of(await up_to(stream, updated(ONE).method))
            await publish(numbered(1))
            await publish(END)
            assert [numbered(1)] == await heard(stream)

"""A replica that dies between taking a standalone stream and telling its holder leaves two who know nothing of each
other. (The model of holds found this: tests/model/.)"""

from __future__ import annotations

import anyio

from mcpsession.model import News
from mcpsession.model import Replica as Row
from tests.sdk.replicas import Client, Replica


async def test_f79_who_takes_a_stream_from_one_that_died_while_taking_it_still_waits_for_the_one_before(
    here: Replica, there: Replica, client: Client
) -> None:
    news = News("notifications/tools/list_changed")
    with anyio.fail_after(10):
        async with client.get(here) as first:
            await first.frame()
            await there.layer.broadcaster.publish(news)
            assert (await first.message())["method"] == news.method

            async with here.backend.registry() as registry:
                await registry.join(Row("taker", ""))
                assert not (await here.backend.holds.take(client.session_id, "taker")).settled
                await registry.leave("taker")
            async with client.get(there) as second:
                # A stream that goes on from where the first one has come, once that one has said so.
                await first.ended()
                await second.frame()
                await there.layer.broadcaster.publish(News("notifications/prompts/list_changed"))
                assert (await second.message())["method"] == "notifications/prompts/list_changed"
        assert 1 == len([frame for frame in first.frames if frame.data])

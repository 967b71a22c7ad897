"""`subscriptions/listen` (2026-07-28): the acknowledgement first, then only what was asked for, from any replica."""

from __future__ import annotations

import anyio
import pytest

from mcpsession.model import News
from mcpsession.sdk.drain import drain
from tests.sdk.gates import until
from tests.sdk.newsroom import (
    ACKNOWLEDGED,
    END,
    PROMPTS,
    RESOURCES,
    SUBSCRIPTION_ID,
    TOOLS,
    heard,
    listening,
    numbered,
    said,
    standing,
    subscribe,
    up_to,
    updated,
)

ONE, TWO = "test://1", "test://2"


@pytest.mark.parametrize(
    ("wanted", "honored"),
    [
        ({"toolsListChanged": True}, {"toolsListChanged": True}),
        ({"toolsListChanged": True, "promptsListChanged": False}, {"toolsListChanged": True}),
        ({"resourceSubscriptions": [ONE]}, {"resourceSubscriptions": [ONE]}),
        ({"resourceSubscriptions": [], "resourcesListChanged": True}, {"resourcesListChanged": True}),
        ({}, {}),
    ],
)
async def test_f111_the_first_frame_acknowledges_what_will_be_sent(here, there, wanted, honored):
    with anyio.fail_after(10):
        async with listening(there, **wanted) as stream:
            for news in (TOOLS, PROMPTS, RESOURCES, updated(ONE)):
                await here.layer.broadcaster.publish(news)
            first = await stream.message()
    assert (ACKNOWLEDGED, honored) == (first["method"], first["params"]["notifications"])


async def test_f111_what_any_replica_publishes_arrives_and_nothing_that_was_not_asked_for(here, there):
    with anyio.fail_after(10):
        async with listening(there, id="mine", toolsListChanged=True, resourceSubscriptions=[ONE]) as stream:
            for replica_ in (here, there):
                publish = replica_.layer.broadcaster.publish
                for news in (PROMPTS, RESOURCES, updated(TWO), updated(ONE), said("error", "no"), numbered(1)):
                    await publish(news)
            await here.layer.broadcaster.publish(TOOLS)
            frames = await up_to(stream, TOOLS.method)
            frames_of_all = [frame.message for frame in stream.frames if frame.message]
    assert [ACKNOWLEDGED, updated(ONE).method, updated(ONE).method] == [frame["method"] for frame in frames]
    assert [ONE, ONE] == [frame["params"]["uri"] for frame in frames[1:]]
    assert ["mine"] * 4 == [frame["params"]["_meta"][SUBSCRIPTION_ID] for frame in frames_of_all]


@pytest.mark.parametrize("id", [7, "seven"])
async def test_f111_the_subscription_id_is_the_requests_own(here, id):
    with anyio.fail_after(10):
        async with listening(here, id=id, toolsListChanged=True) as stream:
            await here.layer.broadcaster.publish(TOOLS)
            for _ in range(2):
                assert id == (await stream.message())["params"]["_meta"][SUBSCRIPTION_ID]


async def test_f111_what_is_for_a_session_or_has_a_topic_never_arrives(here, there, client):
    publish = here.layer.broadcaster.publish
    with anyio.fail_after(10):
        async with listening(
            there, toolsListChanged=True, resourceSubscriptions=[ONE], promptsListChanged=True
        ) as stream:
            for news in (TOOLS, updated(ONE)):
                await publish(news, session_id=client.session_id)
                await publish(news, topic="orders")
                await publish(news, session_id=client.session_id, topic="orders")
            await publish(PROMPTS)
            assert [ACKNOWLEDGED] == [message["method"] for message in await up_to(stream, PROMPTS.method)]


async def test_f111_a_drain_ends_the_stream_with_its_result(here, there):
    with anyio.fail_after(10):
        async with listening(there, id="mine", toolsListChanged=True) as stream:
            await here.layer.broadcaster.publish(TOOLS)
            await up_to(stream, TOOLS.method)
            await drain(there.parts, 5.0)
            [last] = await stream.messages()
    assert ("mine", "mine") == (last["id"], last["result"]["_meta"][SUBSCRIPTION_ID])


async def test_f111_a_client_that_hangs_up_leaves_nothing_behind(here):
    listeners = len(here.parts.broadcaster._listeners)
    with anyio.fail_after(10):
        async with listening(here, toolsListChanged=True):
            assert listeners + 1 == len(here.parts.broadcaster._listeners)
        await until(lambda: listeners == len(here.parts.broadcaster._listeners))


async def test_f111_a_stream_whose_replica_may_have_missed_something_hears_that_everything_changed(here, there):
    """Everything that it asked for; the resources are in a variable of the SDK's listener (sdk/subscriptions.py)."""
    wanted = {"toolsListChanged": True, "promptsListChanged": True, "resourceSubscriptions": [ONE, TWO]}
    with anyio.fail_after(10):
        async with listening(there, **wanted) as stream, listening(there, resourcesListChanged=True) as other:
            for one in (stream, other):
                assert ACKNOWLEDGED == (await one.message())["method"]
            there.parts.broadcaster.lose()
            told = [await stream.message() for _ in range(4)]
            assert RESOURCES.method == (await other.message())["method"]
    assert [TOOLS.method, PROMPTS.method] == [message["method"] for message in told[:2]]
    assert [ONE, TWO] == sorted(message["params"]["uri"] for message in told[2:])


async def test_f111_one_publish_reaches_the_streams_of_both_eras_on_every_replica_once(here, there, client):
    kinds = {"toolsListChanged": True, "promptsListChanged": True, "resourceSubscriptions": [ONE]}
    with anyio.fail_after(10):
        other = type(client)()
        await other.initialize(there)
        await subscribe(client, there, ONE)
        await subscribe(other, here, ONE)
        async with (
            standing(client, here) as old_here,
            standing(other, there) as old_there,
            listening(here, **kinds) as new_here,
            listening(there, **kinds) as new_there,
        ):
            publish = there.layer.broadcaster.publish
            for news in (TOOLS, updated(ONE), updated(TWO), END, PROMPTS):
                await publish(news)
            for stream in (old_here, old_there):
                assert [TOOLS, updated(ONE)] == await heard(stream)
            for stream in (new_here, new_there):
                methods = [message["method"] for message in await up_to(stream, PROMPTS.method)]
                assert [ACKNOWLEDGED, TOOLS.method, updated(ONE).method] == methods


async def test_f111_what_the_sdks_bus_publishes_reaches_both_eras_too(here, there, client):
    from mcp.shared.subscriptions import ResourceUpdated, ToolsListChanged

    with anyio.fail_after(10):
        await subscribe(client, here, ONE)
        async with (
            standing(client, there) as old,
            listening(there, toolsListChanged=True, resourceSubscriptions=[ONE]) as new,
        ):
            await here.layer.subscriptions.publish(ResourceUpdated(ONE))
            await here.layer.subscriptions.publish(ToolsListChanged())
            await here.layer.broadcaster.publish(END)
            assert [updated(ONE), TOOLS] == await heard(old)
            methods = [message["method"] for message in await up_to(new, TOOLS.method)]
            assert [ACKNOWLEDGED, updated(ONE).method] == methods


async def test_f111_news_that_the_sdk_has_no_event_for_are_passed_over(here, there):
    with anyio.fail_after(10):
        async with listening(there, toolsListChanged=True) as stream:
            await here.layer.broadcaster.publish(News("notifications/subscriptions/acknowledged"))
            await here.layer.broadcaster.publish(News("orders/changed"))
            await here.layer.broadcaster.publish(TOOLS)
            assert [ACKNOWLEDGED] == [message["method"] for message in await up_to(stream, TOOLS.method)]

"""What can be published, and what is refused where it is published. F72, F76."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from mcpsession import News, NewsError, NoStream, SessionLayer
from mcpsession.errors import MCPSessionError, SessionNotFoundError
from tests.broadcast.hearing import END, hear_all, said
from tests.sessions.replicas import Place, given


async def test_f72_a_megabyte_arrives_whole(here: SessionLayer, there: SessionLayer) -> None:
    subscription = there.broadcaster.subscribe()
    news = News("test/much", {"text": "ä" * 500_000})
    await here.broadcaster.publish(news)
    with anyio.fail_after(10):
        assert news == await anext(subscription)


@given(max_news_bytes=1024)
async def test_f72_news_that_is_longer_than_the_setting_allows_is_refused(here: SessionLayer) -> None:
    await here.broadcaster.publish(News("test/fits", {"text": "x" * 900}))
    with pytest.raises(NewsError, match=r"at most 1024 are allowed \(max_news_bytes\)"):
        await here.broadcaster.publish(News("test/much", {"text": "x" * 1024}))


async def test_f76_each_helper_publishes_what_it_says(here: SessionLayer, there: SessionLayer) -> None:
    subscription = there.broadcaster.subscribe()
    await here.broadcaster.tools_list_changed()
    await here.broadcaster.prompts_list_changed()
    await here.broadcaster.resources_list_changed()
    await here.broadcaster.resource_updated("test://a")
    await here.broadcaster.resource_updated("test://a", "A")
    await here.broadcaster.log_message("warning", {"disk": "full"}, "disks")
    await here.broadcaster.log_message("info", "text")
    with anyio.fail_after(10):
        heard = [await anext(subscription) for _ in range(7)]
    assert heard == [
        News("notifications/tools/list_changed", {}),
        News("notifications/prompts/list_changed", {}),
        News("notifications/resources/list_changed", {}),
        News("notifications/resources/updated", {"uri": "test://a"}),
        News("notifications/resources/updated", {"uri": "test://a", "title": "A"}),
        News("notifications/message", {"level": "warning", "logger": "disks", "data": {"disk": "full"}}),
        News("notifications/message", {"level": "info", "data": "text"}),
    ]


async def test_f76_helpers_reach_one_session(here: SessionLayer, there: SessionLayer) -> None:
    await here.sessions.create("s")
    of_session, of_all = there.broadcaster.subscribe("s"), there.broadcaster.subscribe()
    assert NoStream("s") == await here.broadcaster.tools_list_changed(session_id="s")
    assert not await here.broadcaster.log_message("info", "text", session_id="s")
    await here.broadcaster.publish(END)
    assert ["notifications/tools/list_changed", "notifications/message"] == await hear_all(of_session)
    assert [] == await hear_all(of_all)


async def test_f78_news_for_a_session_that_does_not_live_is_refused(here: SessionLayer, there: SessionLayer) -> None:
    subscription = there.broadcaster.subscribe("nobody")
    for session_id in ("nobody", "no\x00body", "no\ud800body", ""):
        with pytest.raises(SessionNotFoundError):
            await here.broadcaster.publish(said(1), session_id)
    await here.broadcaster.publish(END)
    assert [] == await hear_all(subscription)


@pytest.mark.parametrize(
    ("news", "match"),
    [
        ("notifications/tools/list_changed", r"News\(method, params\) is wanted"),
        (News(""), "1 to 200 characters"),
        (News("x" * 201), "1 to 200 characters"),
        (News("notifications/progress", {}), "belongs to one request"),
        (News("mcpsession/gap"), "what the broadcaster itself tells"),
        (News("test/x", ["a"]), "must be a dict"),  # type: ignore[arg-type]
        (News("test/x", {"a": object()}), "JSON values"),
        (News("test/x", {"a": float("nan")}), "JSON values"),
        (News("test/x", {"a": "\ud800"}), "lone surrogate"),
        (News("test/\ud800", {}), "lone surrogate"),
        (News("notifications/resources/updated", {"uri": "test://\x00"}), "NUL"),
        (News("notifications/resources/updated", {}), "must name the resource"),
        (News("notifications/message", {"level": "loud", "data": 1}), "one of debug, info"),
        (News("notifications/message", {"level": "info"}), "must have data"),
    ],
)
async def test_what_could_not_reach_a_client_is_refused_where_it_is_published(
    here: SessionLayer, news: Any, match: str
) -> None:
    with pytest.raises(NewsError, match=match):
        await here.broadcaster.publish(news)
    with pytest.raises(NewsError, match=match):
        here.broadcaster.soon(news)


async def test_what_is_nested_too_deep_for_a_frame_is_refused(here: SessionLayer) -> None:
    nested: list[Any] = []
    for _ in range(250):
        nested = [nested]
    with pytest.raises(NewsError, match="200 levels"):
        await here.broadcaster.publish(News("test/deep", {"nested": nested}))
    for _ in range(10_000):
        nested = [nested]
    with pytest.raises(NewsError):
        await here.broadcaster.publish(News("test/deep", {"nested": nested}))


@pytest.mark.parametrize("topic", ["", "x" * 1001, "\x00", "\ud800", 1])
async def test_a_topic_that_cannot_be_is_refused(here: SessionLayer, topic: Any) -> None:
    with pytest.raises(NewsError):
        await here.broadcaster.publish(said(1), topic=topic)


async def test_publishing_on_a_layer_that_was_never_entered_says_so(postgres: Place) -> None:
    with pytest.raises(MCPSessionError, match="not running"):
        await postgres.replica().broadcaster.publish(said(1))

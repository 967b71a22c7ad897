"""ResourceSubscriptions: which sessions want to hear of which resources."""

from __future__ import annotations

import anyio
import pytest

from mcpsession.contracts import Backend
from mcpsession.errors import LimitExceededError
from tests.contract.given import a_session, end, expired, keys, terminate


async def test_a_session_hears_of_what_it_subscribed_to(backend: Backend) -> None:
    await a_session(backend)
    for uri in ("file:///b", "file:///a", "file:///ü"):
        assert await backend.subscriptions.subscribe("session", uri, None)

    assert ["file:///a", "file:///b", "file:///ü"] == list(await backend.subscriptions.uris("session"))
    assert ["session"] == list(await backend.subscriptions.subscribers("file:///a", "", 10))
    assert [] == list(await backend.subscriptions.subscribers("file:///", "", 10))


async def test_subscribing_again_is_free(backend: Backend) -> None:
    await a_session(backend)

    assert await backend.subscriptions.subscribe("session", "file:///a", 1)
    assert await backend.subscriptions.subscribe("session", "file:///a", 1)

    assert ["file:///a"] == list(await backend.subscriptions.uris("session"))
    assert ["session"] == list(await backend.subscriptions.subscribers("file:///a", "", 10))


async def test_unsubscribing_says_whether_it_was_subscribed(backend: Backend) -> None:
    await a_session(backend)
    await a_session(backend, "other")
    await backend.subscriptions.subscribe("session", "file:///a", None)
    await backend.subscriptions.subscribe("other", "file:///a", None)

    assert not await backend.subscriptions.unsubscribe("session", "file:///b")
    assert not await backend.subscriptions.unsubscribe("unknown", "file:///a")
    assert await backend.subscriptions.unsubscribe("session", "file:///a")
    assert not await backend.subscriptions.unsubscribe("session", "file:///a")

    assert ["other"] == list(await backend.subscriptions.subscribers("file:///a", "", 10))


async def test_one_more_than_its_limit_is_refused(backend: Backend) -> None:
    await a_session(backend)
    for number in range(3):
        await backend.subscriptions.subscribe("session", f"file:///{number}", 3)

    with pytest.raises(LimitExceededError) as caught:
        await backend.subscriptions.subscribe("session", "file:///3", 3)

    assert ("max_subscriptions_per_session", 3) == (caught.value.limit, caught.value.allowed)
    assert 3 == len(await backend.subscriptions.uris("session"))
    await a_session(backend, "other")
    assert await backend.subscriptions.subscribe("other", "file:///3", 3)
    await backend.subscriptions.unsubscribe("session", "file:///0")
    assert await backend.subscriptions.subscribe("session", "file:///3", 3)


async def test_of_many_who_subscribe_at_once_exactly_as_many_as_may_succeed(backend: Backend) -> None:
    await a_session(backend)
    refused: list[str] = []

    async def subscribe(uri: str) -> None:
        try:
            await backend.subscriptions.subscribe("session", uri, 5)
        except LimitExceededError:
            refused.append(uri)

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(subscribe, f"file:///{number}")

    assert 15 == len(refused)
    assert 5 == len(await backend.subscriptions.uris("session"))


async def test_subscribers_come_page_by_page_in_order(backend: Backend) -> None:
    names = ["B", "a", "_b", "c-1", "c1"]
    for name in names:
        await a_session(backend, name)
        await backend.subscriptions.subscribe(name, "file:///a", None)
    await a_session(backend, "stranger")
    await backend.subscriptions.subscribe("stranger", "file:///b", None)

    seen: list[str] = []
    while page := await backend.subscriptions.subscribers("file:///a", seen[-1] if seen else "", 2):
        assert len(page) <= 2
        seen.extend(page)

    assert sorted(names) == seen


async def test_subscriptions_go_with_their_session(backend: Backend) -> None:
    for name in ("living", "expired", "deleted", "terminated"):
        await a_session(backend, name, ttl=0.3 if name == "expired" else None)
        await backend.subscriptions.subscribe(name, "file:///a", None)
    gone = [*(await end(backend, "deleted")).sessions, *(await terminate(backend, "terminated")).sessions]
    await expired(backend, "expired")

    assert ["living"] == list(await backend.subscriptions.subscribers("file:///a", "", 10))
    for name in ("expired", "deleted", "terminated"):
        assert [] == list(await backend.subscriptions.uris(name))

    await backend.reaping.remove(keys(*gone), by="a")
    await backend.reaping.reap(10)
    for name in ("expired", "deleted"):
        await a_session(backend, name)
    assert ["living"] == list(await backend.subscriptions.subscribers("file:///a", "", 10))
    assert not await backend.subscriptions.unsubscribe("terminated", "file:///a")

"""ResourceSubscriptions: which sessions want to hear of which resources."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from mcpsession.contracts import Backend
from mcpsession.errors import LimitExceededError
from tests.contract.given import a_session, end, expired, keys, mail_since, terminate


async def test_a_session_hears_of_what_it_subscribed_to(backend: Backend) -> None:
    await a_session(backend)
    for uri in ("file:///b", "file:///a", "file:///ü"):
        assert await backend.subscriptions.subscribe("session", uri, None, sender="a")

    assert ["file:///a", "file:///b", "file:///ü"] == list(await backend.subscriptions.uris("session"))
    assert ["session"] == list(await backend.subscriptions.subscribers("file:///a", "", 10))
    assert [] == list(await backend.subscriptions.subscribers("file:///", "", 10))


async def test_subscribing_again_is_free(backend: Backend) -> None:
    await a_session(backend)

    assert await backend.subscriptions.subscribe("session", "file:///a", 1, sender="a")
    assert await backend.subscriptions.subscribe("session", "file:///a", 1, sender="a")

    assert ["file:///a"] == list(await backend.subscriptions.uris("session"))
    assert ["session"] == list(await backend.subscriptions.subscribers("file:///a", "", 10))


async def test_unsubscribing_says_whether_it_was_subscribed(backend: Backend) -> None:
    await a_session(backend)
    await a_session(backend, "other")
    await backend.subscriptions.subscribe("session", "file:///a", None, sender="a")
    await backend.subscriptions.subscribe("other", "file:///a", None, sender="a")

    assert not await backend.subscriptions.unsubscribe("session", "file:///b", sender="a")
    assert not await backend.subscriptions.unsubscribe("unknown", "file:///a", sender="a")
    assert await backend.subscriptions.unsubscribe("session", "file:///a", sender="a")
    assert not await backend.subscriptions.unsubscribe("session", "file:///a", sender="a")

    assert ["other"] == list(await backend.subscriptions.subscribers("file:///a", "", 10))


async def test_one_more_than_its_limit_is_refused(backend: Backend) -> None:
    await a_session(backend)
    for number in range(3):
        await backend.subscriptions.subscribe("session", f"file:///{number}", 3, sender="a")

    with pytest.raises(LimitExceededError) as caught:
        await backend.subscriptions.subscribe("session", "file:///3", 3, sender="a")

    assert ("max_subscriptions_per_session", 3) == (caught.value.limit, caught.value.allowed)
    assert 3 == len(await backend.subscriptions.uris("session"))
    await a_session(backend, "other")
    assert await backend.subscriptions.subscribe("other", "file:///3", 3, sender="a")
    await backend.subscriptions.unsubscribe("session", "file:///0", sender="a")
    assert await backend.subscriptions.subscribe("session", "file:///3", 3, sender="a")


async def test_of_many_who_subscribe_at_once_exactly_as_many_as_may_succeed(backend: Backend) -> None:
    await a_session(backend)
    refused: list[str] = []

    async def subscribe(uri: str) -> None:
        try:
            await backend.subscriptions.subscribe("session", uri, 5, sender="a")
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
        await backend.subscriptions.subscribe(name, "file:///a", None, sender="a")
    await a_session(backend, "stranger")
    await backend.subscriptions.subscribe("stranger", "file:///b", None, sender="a")

    seen: list[str] = []
    while page := await backend.subscriptions.subscribers("file:///a", seen[-1] if seen else "", 2):
        assert len(page) <= 2
        seen.extend(page)

    assert sorted(names) == seen


async def test_subscriptions_go_with_their_session(backend: Backend) -> None:
    for name in ("living", "expired", "deleted", "terminated"):
        await a_session(backend, name, ttl=0.3 if name == "expired" else None)
        await backend.subscriptions.subscribe(name, "file:///a", None, sender="a")
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
    assert not await backend.subscriptions.unsubscribe("terminated", "file:///a", sender="a")


# ---- What the other replicas hear of it ----------------------------------------------------------------------------


async def changes(backend: Backend, position: str) -> list[tuple[str, str, str | None]]:
    return [(mail.kind, mail.sender, mail.session_id) for mail in await mail_since(backend, position)]


async def test_f80_each_change_is_told_to_all(backend: Backend) -> None:
    await a_session(backend)
    position = await backend.mailbox.position()

    await backend.subscriptions.subscribe("session", "file:///a", None, sender="b")
    await backend.subscriptions.subscribe("session", "file:///b", None, sender="c")
    await backend.subscriptions.unsubscribe("session", "file:///a", sender="d")

    assert [("changed", sender, "session") for sender in "bcd"] == await changes(backend, position)


async def test_f80_what_changes_nothing_is_told_to_nobody(backend: Backend) -> None:
    await a_session(backend)
    await backend.subscriptions.subscribe("session", "file:///a", 1, sender="a")
    position = await backend.mailbox.position()

    await backend.subscriptions.subscribe("session", "file:///a", 1, sender="a")
    with pytest.raises(LimitExceededError):
        await backend.subscriptions.subscribe("session", "file:///b", 1, sender="a")
    await backend.subscriptions.unsubscribe("session", "file:///b", sender="a")
    await end(backend)
    assert not await backend.subscriptions.subscribe("session", "file:///b", None, sender="a")
    assert not await backend.subscriptions.unsubscribe("session", "file:///a", sender="a")

    assert ["ended"] == [kind for kind, _, _ in await changes(backend, position)]


async def test_f80_who_has_read_of_a_change_sees_it(backend: Backend) -> None:
    """However many change it at once: the mail and the change are one transaction."""
    await a_session(backend)
    position = await backend.mailbox.position()
    running = 2

    async def change(name: str) -> None:
        nonlocal running
        for number in range(15):
            await backend.subscriptions.subscribe("session", f"{name}{number}", None, sender=name)
        running -= 1

    async with anyio.create_task_group() as tasks:
        for name in "ab":
            tasks.start_soon(change, name)
        while running:
            before = len(await changes(backend, position))
            assert before <= len(await backend.subscriptions.uris("session"))
            await anyio.lowlevel.checkpoint()

    assert 30 == len(await changes(backend, position))


async def test_of_many_who_unsubscribe_at_once_one_did_it(backend: Backend) -> None:
    await a_session(backend)
    await backend.subscriptions.subscribe("session", "file:///a", None, sender="a")
    position = await backend.mailbox.position()
    done: list[bool] = []

    async def unsubscribe() -> None:
        done.append(await backend.subscriptions.unsubscribe("session", "file:///a", sender="a"))

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(unsubscribe)

    assert [False] * 7 + [True] == sorted(done)
    assert 1 == len(await changes(backend, position))

"""An application may cancel publishing and subscribing wherever that waits: nothing leaks, and news goes on."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from mcpsession import News
from tests.attacks.cancelling import Work
from tests.attacks.leaks import Leaks
from tests.attacks.served import borrowing
from tests.sdk.gates import until
from tests.sdk.replicas import Client, Replica

SAID = News("test/said", {"number": 1})


@pytest.mark.parametrize("how", ["to all", "to a session", "to a subscriber who has no room"])
async def test_publish(here: Replica, client: Client, leaks: Leaks, how: str) -> None:
    """It is heard once, or not at all; and no room stays kept for it."""
    broadcaster = here.layer.broadcaster
    heard: list[Any] = []

    async def prepare() -> Work:
        heard.clear()
        return lambda: broadcaster.publish(SAID, client.session_id if how == "to a session" else None)

    policy, buffer = ("block", 1) if how == "to a subscriber who has no room" else ("replay", 32)
    async for outcome in leaks.after(prepare):
        with broadcaster.subscribe(client.session_id, policy=policy, timeout=5, buffer=buffer) as subscription:
            await broadcaster.publish(SAID)
            with anyio.fail_after(10):
                assert SAID == await anext(subscription)
        assert outcome.cancelled or outcome.made is not None


async def test_publish_that_waits_for_room(here: Replica, leaks: Leaks) -> None:
    """A subscriber that holds publishers up holds none up for one that was cancelled."""
    broadcaster = here.layer.broadcaster
    subscriptions: list[Any] = []

    async def prepare() -> Work:
        subscriptions.append(broadcaster.subscribe(policy="block", timeout=0.05, buffer=1))
        await broadcaster.publish(SAID)
        await until(lambda: subscriptions[-1]._backlog.held)

        async def work() -> None:
            subscriptions[-1].is_stalled = False
            await broadcaster.publish(News("test/said", {"number": 2}))

        return work

    def at_rest() -> None:
        assert len(subscriptions[-1]._places) <= 1
        subscriptions[-1].close()

    async for _ in leaks.after(prepare, at_rest=at_rest):
        pass


@pytest.mark.parametrize("ends", ["COMMIT", "ROLLBACK"])
async def test_publish_in_a_transaction_of_the_application(
    here: Replica, leaks: Leaks, shared_url: str, ends: str
) -> None:
    """The transaction is the application's to end; heard is what it committed."""
    broadcaster = here.layer.broadcaster
    async with borrowing(shared_url) as connection:

        async def prepare() -> Work:
            await connection.execute("BEGIN")
            return lambda: broadcaster.publish(SAID, conn=connection)

        ended: list[Any] = []

        async def end() -> None:
            # A statement that was cancelled has failed its transaction, as any would.
            await connection.execute(ends)
            ended.append(connection.is_in_transaction())

        with broadcaster.subscribe(policy="replay") as subscription:
            published = 0
            async for outcome in leaks.after(prepare, finally_=end, subscribers=1):
                published += outcome.made is not None and ends == "COMMIT"
            await broadcaster.publish(News("test/end"))
            heard = 0
            with anyio.fail_after(10):
                while await anext(subscription) == SAID:
                    heard += 1
        assert not any(ended)
        assert heard >= published
        assert heard == 0 if ends == "ROLLBACK" else heard <= len(ended)


@pytest.mark.parametrize("policy", ["replay", "resync"])
async def test_a_subscription_that_reads(here: Replica, leaks: Leaks, policy: Any) -> None:
    """Cancelled, it has ended and hears no more."""
    broadcaster = here.layer.broadcaster

    async def prepare() -> Work:
        subscription = broadcaster.subscribe(policy=policy, buffer=1)
        # Two live, the rest from the log.
        for _ in range(4):
            await broadcaster.publish(SAID)
        await until(lambda: subscription._behind is not None)

        async def work() -> None:
            with subscription:
                heard = [await anext(subscription) for _ in range(2)]
                await broadcaster.publish(News("test/last"))
                while (news := await anext(subscription)).method != "test/last":
                    heard.append(news)

        return work

    async for _ in leaks.after(prepare):
        pass


async def test_what_is_published_soon_is_published_though_its_dispatcher_is_cancelled(
    here: Replica, leaks: Leaks
) -> None:
    broadcaster = here.layer.broadcaster
    subscriptions: list[Any] = []

    async def prepare() -> Work:
        subscriptions.append(broadcaster.subscribe(policy="replay"))
        broadcaster.soon(SAID)
        return broadcaster._debouncer.flush

    async def heard() -> None:
        # The layer's own dispatcher does what the cancelled one did not; a flush is the end, and drops what is left.
        subscriptions[-1].close()

    async for _ in leaks.after(prepare, finally_=heard):
        broadcaster.soon(SAID)
        with broadcaster.subscribe(policy="replay") as subscription, anyio.fail_after(10):
            assert SAID == await anext(subscription)

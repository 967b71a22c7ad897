"""Slow consumers with tiny buffers, several publishers, all at once, by a seed: nothing is lost or told twice."""

from __future__ import annotations

from collections import defaultdict
from random import Random
from typing import Any

import anyio
import asyncpg
import pytest

from mcpsession import Gap, News, SessionLayer, news_contracts
from mcpsession.subscription import Subscription
from tests.broadcast.hearing import END
from tests.sessions.replicas import Place, given

PUBLISHERS = 4
EACH = 60


def numbered(publisher: int, number: int, random: Random) -> News:
    """Some news of which none replaces another, and some of which the newest replaces the others."""
    params = {"publisher": publisher, "number": number}
    if random.random() < 0.3:
        return News("test/said", params)
    # One publisher a resource, so that it is clear which is the last.
    return News("notifications/resources/updated", {"uri": f"test://{publisher}/{number % 2}", **params})


async def publish(replica: SessionLayer, publisher: int, random: Random, place: Place, sent: list[News]) -> None:
    """One after the other, some of them in transactions that are rolled back, or stay open for a while."""
    connection = await asyncpg.connect(place.url) if place.url else None
    try:
        number = 0
        while number < EACH:
            await pause(random)
            if connection is None or random.random() < 0.7:
                sent.append(numbered(publisher, number, random))
                await replica.broadcaster.publish(sent[-1])
                number += 1
                continue
            transaction = connection.transaction()
            await transaction.start()
            some = [numbered(publisher, number + n, random) for n in range(random.randint(1, 4))]
            for news in some:
                await replica.broadcaster.publish(news, conn=connection)
                await pause(random, longest=0.05)
            if random.random() < 0.3:
                await transaction.rollback()
            else:
                await transaction.commit()
                sent.extend(some)
                number += len(some)
    finally:
        if connection is not None:
            await connection.close()


async def pause(random: Random, *, longest: float = 0.004) -> None:
    if random.random() < 0.5:
        await anyio.sleep(random.uniform(0, longest))


async def consume(subscription: Subscription, random: Random, heard: list[News]) -> None:
    async for news in subscription:
        if news == END:
            return
        heard.append(news)
        await pause(random, longest=0.01)


def by_publisher(heard: list[News]) -> dict[int, list[int]]:
    numbers: dict[int, list[int]] = defaultdict(list)
    for news in heard:
        numbers[news.params["publisher"]].append(news.params["number"])
    return dict(numbers)


def last_of_each(heard: list[News]) -> dict[Any, int]:
    return {news.params["uri"]: news.params["number"] for news in heard if "uri" in news.params}


@given(mail_ttl=60.0)
@pytest.mark.parametrize("seed", range(4))
async def test_f71_however_slow_they_are_subscribers_hear_all_or_the_last_state(
    place: Place, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(seed)
    if seed % 2:
        # A transaction or two a page.
        monkeypatch.setattr(news_contracts, "PAGE_MAILS", random.randint(1, 3))
    heard: list[tuple[str, list[News]]] = []
    sent: list[News] = []
    async with place.replica() as first, place.replica() as second, place.replica() as third:
        replicas = [first, second, third]
        with anyio.fail_after(60):
            async with anyio.create_task_group() as consumers:
                for replica in replicas:
                    policies: Any = ["replay", "replay", "resync", "block"]
                    for policy in policies:
                        heard.append((policy, []))
                        subscription = replica.broadcaster.subscribe(
                            policy=policy, buffer=random.randint(1, 3), timeout=0.01
                        )
                        consumers.start_soon(consume, subscription, Random(random.random()), heard[-1][1])
                async with anyio.create_task_group() as publishers:
                    for publisher in range(PUBLISHERS):
                        replica = random.choice(replicas)
                        publishers.start_soon(publish, replica, publisher, Random(random.random()), place, sent)
                # After all others: nobody hears anything after it.
                await random.choice(replicas).broadcaster.publish(END)
    said = [news for news in sent if "uri" not in news.params]
    for policy, all_heard in heard:
        without_gaps = [news for news in all_heard if not isinstance(news, Gap)]
        if policy == "replay":
            assert by_publisher(sent) == by_publisher(all_heard)
        else:
            assert last_of_each(sent) == last_of_each(without_gaps)
            assert by_publisher(said) == by_publisher([news for news in without_gaps if "uri" not in news.params])

"""A thousand publications from three processes to 150 streams, while the listening connections are killed at random."""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import asyncpg
import httpx2
import pytest

from examples.cluster import Cluster
from tests.cluster.client import Client, Stream, text_of
from tests.cluster.conftest import Connect, Files, http_client
from tests.cluster.crowd import Listener, Told, news_of, told_of
from tests.cluster.test_news import OTHER_URI, UPDATED, URI, subscribe
from tests.cluster.test_outage import LISTENERS
from tests.cluster.test_standalone import PROMPTS, RESOURCES, TOOLS

APP = "tests.cluster.newsroom:app"
FAULTS = True
REPLICAS = 3

PUBLICATIONS = 1000
# Of these some are published within the transaction, and the last one of every kind when all others were answered.
WITHIN = 3
OPEN = 2.0
"""Seconds that the transaction stays open."""
LONGEST_PAUSE = 0.02
KILL_EVERY = (0.05, 0.4)
CUT_EVERY = (0.0, 0.05)
WITHIN_SECONDS = 90.0

# Only the newest of a kind matters to who was away; of what has no kinds everything does.
LEVELS = (TOOLS, PROMPTS, RESOURCES, f"{UPDATED} {URI}")
CUSTOM = ("notifications/x/one", "notifications/x/two")
KINDS = (*LEVELS, *CUSTOM)
UNWANTED = f"{UPDATED} {OTHER_URI}"
END = "notifications/x/end"

KILL = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {LISTENERS} ORDER BY random() LIMIT $1"


class Plan:
    """What is published by whom, and in which order by each."""

    def __init__(self, chance: random.Random) -> None:
        each = (PUBLICATIONS - WITHIN - len(KINDS) - 1) // REPLICAS
        self.storms = [
            [Told(chance.choice((*KINDS, UNWANTED)), f"replica {replica}", n) for n in range(each)]
            for replica in range(REPLICAS)
        ]
        self.pauses = [[chance.uniform(0, LONGEST_PAUSE) for _ in storm] for storm in self.storms]
        self.within = [Told(chance.choice(KINDS), "transaction", n) for n in range(WITHIN)]
        last = [*chance.sample(KINDS, len(KINDS)), END]
        self.last = [Told(kind, "last", n) for n, kind in enumerate(last)]

    @property
    def all(self) -> list[Told]:
        return [*(told for storm in self.storms for told in storm), *self.within, *self.last]


@asynccontextmanager
async def fire(url: str, chance: random.Random) -> AsyncIterator[list[int]]:
    """End one, two or all listening connections, again and again; yields how many each time."""
    killed: list[int] = []

    async def kill_on(connection: asyncpg.Connection[asyncpg.Record]) -> None:
        while True:
            await anyio.sleep(chance.uniform(*KILL_EVERY))
            killed.append(len(await connection.fetch(KILL, chance.randint(1, REPLICAS))))

    connection = await asyncpg.connect(url)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(kill_on, connection)
            yield killed
            tasks.cancel_scope.cancel()
    finally:
        connection.terminate()


@asynccontextmanager
async def crowd(cluster: Cluster, streams: int, *, moving: bool) -> AsyncIterator[list[Listener]]:
    """So many clients on each replica, which subscribed to the resource and listen; `moving`: not always there."""
    listeners: list[Listener] = []
    urls = [replica.url for replica in cluster.replicas]

    async def join(http: httpx2.AsyncClient, replica: int) -> None:
        client = Client(http)
        await client.initialize()
        await subscribe(client, URI)
        listeners.append(Listener(client, urls[replica:] + urls[:replica] if moving else [urls[replica]]))

    async with AsyncExitStack() as stack:
        https = [await stack.enter_async_context(http_client(url)) for url in urls]
        for _ in range(streams):
            async with anyio.create_task_group() as joining:
                for replica, http in enumerate(https):
                    joining.start_soon(join, http, replica)
        async with anyio.create_task_group() as listening:
            for listener in listeners:
                listening.start_soon(listener.listen)
            for listener in listeners:
                await listener.ready()
            yield listeners
            listening.cancel_scope.cancel()


@asynccontextmanager
async def cutting(listeners: Sequence[Listener], chance: random.Random) -> AsyncIterator[None]:
    """Cut one client's stream after the other while inside."""

    async def cut_on() -> None:
        while listeners:
            await anyio.sleep(chance.uniform(*CUT_EVERY))
            chance.choice(listeners).cut()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cut_on)
        yield
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def subscribers(client: Client, files: Files, policy: str, pause: float) -> AsyncIterator[list[Stream]]:
    """One subscriber in each replica, which takes its time."""
    async with AsyncExitStack() as stack:
        calls = []
        for replica in range(REPLICAS):
            name = f"{policy}-{replica}"
            arguments = {"name": files(name), "last": END, "policy": policy, "pause": pause}
            calls.append(await stack.enter_async_context(client.calling("hear", arguments, replica=replica)))
            await files.wait_for(f"{name}.subscribed")
        yield calls


async def told(call: Stream) -> list[Told]:
    """What a subscriber had heard when it heard the end."""
    await call.end(WITHIN_SECONDS)
    return [told_of(method, params) for method, params in json.loads(text_of(call.finals[0]))]


def by_publisher(heard: Iterable[Told]) -> dict[str, list[int]]:
    """The numbers in the order in which they were heard."""
    numbers: dict[str, list[int]] = {}
    for one in heard:
        numbers.setdefault(one.publisher, []).append(one.number)
    return numbers


def newest(heard: Iterable[Told]) -> dict[str, Told]:
    """The last heard of each kind."""
    return {one.kind: one for one in heard if one.kind in KINDS}


async def publish(client: Client, files: Files, plan: Plan) -> None:
    """Publish from all replicas at once, with a transaction open meanwhile; then the last of each kind."""

    async def storm(replica: int) -> None:
        arguments = {"plan": [news_of(one) for one in plan.storms[replica]], "pauses": plan.pauses[replica]}
        async with client.calling("publish_all", arguments, replica=replica) as call:
            await call.end(WITHIN_SECONDS)
        assert "published" == text_of(call.finals[0])

    async def within_a_transaction() -> None:
        arguments = {"plan": [news_of(one) for one in plan.within], "end": "COMMIT", "seconds": OPEN}
        await client.call("publish_within", {**arguments, "name": files("within")}, replica=1)

    async with anyio.create_task_group() as tasks:
        for replica in range(REPLICAS):
            tasks.start_soon(storm, replica)
        tasks.start_soon(within_a_transaction)
    last = {"plan": [news_of(one) for one in plan.last], "pauses": [LONGEST_PAUSE] * len(plan.last)}
    assert "published" == await client.call("publish_all", last, replica=2)


@pytest.mark.parametrize(
    ("streams", "moving"), [pytest.param(50, False, id="clients-stay"), pytest.param(15, True, id="clients-move")]
)
async def test_a_thousand_publications_while_listeners_are_killed_reach_everyone(
    cluster: Cluster,
    connect: Connect,
    files: Files,
    capsys: pytest.CaptureFixture[str],
    streams: int,
    moving: bool,
) -> None:
    """Every stream hears the last state of every kind, and every subscriber that follows the log hears everything once
    and in each publisher's order. Streams that are cut hear the last state as well, and what has no kinds whole."""
    seed = int(os.environ.get("CLUSTER_SEED") or random.randrange(2**32))
    # Seen should this fail before its report.
    report(f"CLUSTER_SEED={seed}")
    plan = Plan(random.Random(seed))
    assert PUBLICATIONS == len(plan.all)
    client = await connect(replica=0)
    async with (
        crowd(cluster, streams, moving=moving) as listeners,
        subscribers(client, files, "replay", pause=0.001) as replaying,
        subscribers(client, files, "resync", pause=0.01) as resyncing,
    ):
        began = time.perf_counter()
        async with fire(cluster.database_url, random.Random(seed)) as killed:
            async with cutting(listeners if moving else [], random.Random(seed)):
                await publish(client, files, plan)
            published = time.perf_counter() - began
            with anyio.fail_after(WITHIN_SECONDS):
                for listener in listeners:
                    await listener.until(END)
        heard = time.perf_counter() - began
        replayed = [await told(call) for call in replaying]
        resynced = [await told(call) for call in resyncing]

    # The end is what they stop at.
    everything = Counter(plan.all[:-1])
    in_order = {publisher: sorted(numbers) for publisher, numbers in by_publisher(everything).items()}
    frames = [len(listener.heard) for listener in listeners]
    distinct = [list(dict.fromkeys(listener.heard)) for listener in listeners]
    with capsys.disabled():
        report(
            f"seed {seed}: {len(listeners)} streams, {PUBLICATIONS} publications in {published:.1f} s, "
            f"all heard after {heard:.1f} s, {sum(killed)} connections killed, {sum(frames)} frames, "
            f"{sum(frames) - sum(map(len, distinct))} of them again, "
            f"{sum(listener.cuts for listener in listeners)} streams cut, "
            f"{sum(listener.refused for listener in listeners)} refused, "
            f"{[len(one) + 1 for one in replayed]} replayed, {[len(one) + 1 for one in resynced]} resynchronised"
        )

    assert [everything] * REPLICAS == [Counter(one) for one in replayed]
    assert [in_order] * REPLICAS == [by_publisher(one) for one in replayed]
    last = newest(plan.last)
    assert [last] * REPLICAS == [newest(one) for one in resynced]
    for listener, once in zip(listeners, distinct, strict=True):
        assert last == newest(listener.heard), listener
        assert UNWANTED not in {one.kind for one in once}
        assert custom(plan.all) == custom(once)
        assert all(numbers == sorted(numbers) for numbers in by_publisher(once).values()), listener
    assert REPLICAS * streams == len(listeners)
    assert moving == (sum(listener.cuts for listener in listeners) > 0)
    assert sum(killed) >= 2 * REPLICAS


def custom(heard: Sequence[Told]) -> set[Told]:
    return {one for one in heard if one.kind in CUSTOM}


def report(line: str) -> None:
    print(f"\n{line}")  # noqa: T201 (what was counted is to be read)

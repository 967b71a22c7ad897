"""News over real processes: from any replica to every subscriber and every client's stream, and when nobody hears."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest

from examples.cluster import Cluster
from tests.cluster.client import Client, Message, Stream, text_of
from tests.cluster.conftest import Connect, Files, until_rows
from tests.cluster.test_outage import LISTENERS, deafen
from tests.cluster.test_standalone import PROMPTS, RESOURCES, TOOLS, heard, modern

APP = "tests.cluster.newsroom:app"
REPLICAS = 3

UPDATED = "notifications/resources/updated"
MARK = "notifications/x/mark"
END = "app/end"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
URI, OTHER_URI = "test://watched", "test://other"
MEGABYTE = 1_000_000
ALL_LISTEN = f"SELECT 1 FROM pg_stat_activity WHERE {LISTENERS} HAVING count(*) = {REPLICAS}"

Said = list[list[Any]]


async def publish(client: Client, method: str, params: Message | None = None, *, replica: int, **to: str) -> str:
    """Publish on a replica; names what came back."""
    return await client.call("publish", {"method": method, "params": params or {}, **to}, replica=replica)


async def subscribe(client: Client, uri: str, *, replica: int | None = None) -> None:
    async with client.requesting("resources/subscribe", {"uri": uri}, replica=replica) as stream:
        await stream.end()
    assert [{}] == [final["result"] for final in stream.finals], stream


@asynccontextmanager
async def subscribers(
    client: Client, files: Files, *, each: int, tool: str = "hear", **arguments: Any
) -> AsyncIterator[list[Stream]]:
    """So many subscribers in each process, which hear from here on."""
    names = [(f"{replica}-{number}", replica) for replica in range(REPLICAS) for number in range(each)]
    async with AsyncExitStack() as stack:
        calls = []
        for name, replica in names:
            wanted = {"name": files(name), "last": END, **arguments}
            calls.append(await stack.enter_async_context(client.calling(tool, wanted, replica=replica)))
        for name, _ in names:
            await files.wait_for(f"{name}.subscribed")
        yield calls


async def said(calls: Sequence[Stream]) -> list[Said]:
    """What each subscriber had heard at the end."""
    return [json.loads(text_of((await call.end()).finals[0])) for call in calls]


@asynccontextmanager
async def everywhere(connect: Connect, http: httpx2.AsyncClient) -> AsyncIterator[tuple[list[Stream], list[Stream]]]:
    """On each replica one client's standalone stream and one `subscriptions/listen` stream."""
    async with AsyncExitStack() as stack:
        standalone, listening = [], []
        for replica in range(REPLICAS):
            client = await connect(replica=replica)
            standalone.append(await stack.enter_async_context(client.listening(replica=replica)))
            listening.append(await stack.enter_async_context(modern(http, replica)))
        for one in standalone:
            await one.until(lambda one=one: one.ids)
        for one in listening:
            await heard(one, ACKNOWLEDGED)
        yield standalone, listening


@pytest.mark.parametrize("publisher", range(REPLICAS))
async def test_f64_news_of_one_process_reaches_three_subscribers_in_each_of_three_once(
    client: Client, files: Files, publisher: int
) -> None:
    async with subscribers(client, files, each=3) as calls:
        await publish(client, TOOLS, {"n": 1}, replica=publisher)
        await publish(client, END, replica=publisher)
        deliveries = await said(calls)
    assert [[[TOOLS, {"n": 1}]]] * 9 == deliveries


async def test_f64_a_topic_reaches_its_subscribers_in_every_process_and_no_client(
    client: Client, connect: Connect, http: httpx2.AsyncClient, files: Files
) -> None:
    async with (
        everywhere(connect, http) as (standalone, listening),
        subscribers(client, files, each=1, topic="orders") as on_topic,
    ):
        await publish(client, TOOLS, {"n": 1}, replica=0, topic="orders")
        await publish(client, PROMPTS, {"n": 2}, replica=0, topic="invoices")
        await publish(client, RESOURCES, {"n": 3}, replica=0)
        await publish(client, END, replica=0)
        assert [[[TOOLS, {"n": 1}], [RESOURCES, {"n": 3}]]] * 3 == await said(on_topic)
        for stream in standalone:
            await heard(stream, RESOURCES)
        # What comes later has come after it, had it come.
        await publish(client, TOOLS, replica=0)
        for stream in listening:
            await heard(stream, ACKNOWLEDGED, TOOLS)


async def test_f71_what_is_published_while_no_replica_hears_reaches_every_stream_after_it(
    cluster: Cluster, client: Client, connect: Connect, http: httpx2.AsyncClient, files: Files
) -> None:
    async with (
        everywhere(connect, http) as (standalone, listening),
        subscribers(client, files, each=1) as calls,
    ):
        await until_rows(cluster.database_url, ALL_LISTEN)
        assert REPLICAS == await deafen(cluster)
        for number, method in enumerate((TOOLS, PROMPTS, RESOURCES)):
            await publish(client, method, {"n": number}, replica=number)
        for stream in standalone:
            await stream.until(lambda stream=stream: len(stream.methods) >= 3)
        for stream in listening:
            await stream.until(lambda stream=stream: TOOLS in stream.methods)
        await publish(client, END, replica=0)
        subscribed = await said(calls)
        await publish(client, MARK, replica=0)
        for stream in standalone:
            await stream.until(lambda stream=stream: MARK in stream.methods)

    news = [(TOOLS, 0), (PROMPTS, 1), (RESOURCES, 2)]
    assert [Counter(news)] * 3 == [Counter((method, params["n"]) for method, params in one) for one in subscribed]
    assert [Counter([TOOLS, PROMPTS, RESOURCES, MARK])] * 3 == [Counter(stream.methods) for stream in standalone]
    assert [[ACKNOWLEDGED, TOOLS]] * 3 == [stream.methods for stream in listening]


async def test_f71_news_is_heard_in_its_order_when_every_listener_is_cut_again_and_again(
    cluster: Cluster, client: Client, connect: Connect, http: httpx2.AsyncClient, files: Files
) -> None:
    numbers = range(40)
    async with everywhere(connect, http) as (standalone, _), subscribers(client, files, each=1) as calls:
        for number in numbers:
            if number % 10 == 0:
                await deafen(cluster)
            await publish(client, MARK, {"n": number}, replica=1)
        await publish(client, END, replica=1)
        assert [[[MARK, {"n": number}] for number in numbers]] * 3 == await said(calls)
        for stream in standalone:
            await stream.until(lambda stream=stream: len(stream.methods) >= len(numbers))
    for stream in standalone:
        assert list(numbers) == [message["params"]["n"] for message in stream.messages]


async def test_f72_news_of_a_megabyte_reaches_streams_and_subscribers_of_other_processes_whole(
    client: Client, connect: Connect, http: httpx2.AsyncClient, files: Files
) -> None:
    async with (
        everywhere(connect, http) as (standalone, _),
        subscribers(client, files, each=1, tool="hear_sizes") as calls,
    ):
        await client.call("publish_text", {"method": MARK, "size": MEGABYTE}, replica=0)
        await publish(client, END, replica=0)
        for stream in standalone:
            await heard(stream, MARK)
            assert "x" * MEGABYTE == stream.messages[0]["params"]["text"]
        assert [[[MARK, {"size": MEGABYTE}]]] * 3 == await said(calls)


async def test_f73_what_a_transaction_published_is_heard_once_after_its_commit_and_never_after_its_rollback(
    client: Client, connect: Connect, http: httpx2.AsyncClient, files: Files
) -> None:
    async with (
        everywhere(connect, http) as (standalone, listening),
        subscribers(client, files, each=1) as calls,
        anyio.create_task_group() as tasks,
    ):

        async def within(method: str, end: str) -> None:
            arguments = {"plan": [(method, {"end": end})], "end": end, "name": files(end), "gate": files(f"{end}.gate")}
            assert end == await client.call("publish_within", arguments, replica=1)

        tasks.start_soon(within, PROMPTS, "ROLLBACK")
        tasks.start_soon(within, TOOLS, "COMMIT")
        await files.wait_for("ROLLBACK.published")
        await files.wait_for("COMMIT.published")
        # Published later, heard earlier: both are written down by now and nobody hears of them.
        await publish(client, MARK, replica=1)
        for stream in standalone:
            await heard(stream, MARK)
        files.touch("ROLLBACK.gate", "COMMIT.gate")
        for stream in standalone:
            await heard(stream, MARK, TOOLS)
        await publish(client, END, replica=1)
        assert [[[MARK, {}], [TOOLS, {"end": "COMMIT"}]]] * 3 == await said(calls)
        for stream in listening:
            await heard(stream, ACKNOWLEDGED, TOOLS)
        await publish(client, RESOURCES, replica=1)
        for stream in standalone:
            await heard(stream, MARK, TOOLS, RESOURCES)


async def test_a_client_that_was_away_hears_the_newest_of_each_kind_that_changed_and_of_its_resources(
    client: Client, connect: Connect
) -> None:
    publisher = await connect(replica=0)
    await subscribe(client, URI, replica=0)
    async with client.listening(replica=0) as before:
        await publish(publisher, TOOLS, {"n": 0}, replica=1)
        await heard(before, TOOLS)

    for number in range(1, 6):
        await publish(publisher, TOOLS, {"n": number}, replica=number % 3)
        await publish(publisher, UPDATED, {"uri": URI, "n": number}, replica=number % 3)
        await publish(publisher, UPDATED, {"uri": OTHER_URI, "n": number}, replica=number % 3)
        await publish(publisher, PROMPTS, {"n": number}, replica=number % 3)
    async with client.listening(before.last_id, replica=2) as after:
        await after.until(lambda: len(after.methods) >= 3)
        # One more, so that a further one would have come before it.
        await publish(publisher, RESOURCES, {"n": 6}, replica=1)
        await after.until(lambda: RESOURCES in after.methods)
    newest = [(TOOLS, 5), (UPDATED, 5), (PROMPTS, 5), (RESOURCES, 6)]
    assert newest == [(message["method"], message["params"]["n"]) for message in after.messages]
    assert [URI] == [message["params"]["uri"] for message in after.messages if message["method"] == UPDATED]


async def test_f78_news_for_one_session_reaches_its_stream_on_another_replica_and_says_so(
    client: Client, connect: Connect
) -> None:
    other = await connect(replica=1)
    async with client.listening(replica=2) as mine, other.listening(replica=2) as others:
        for stream in (mine, others):
            await stream.until(lambda stream=stream: stream.ids)
        assert "Published" == await publish(other, MARK, {"n": 1}, replica=0, session_id=client.session_id)
        await heard(mine, MARK)
        await publish(other, TOOLS, replica=0)
        await heard(others, TOOLS)
        await heard(mine, MARK, TOOLS)
    # The stream is let go of on its replica some moments after its client has gone.
    with anyio.fail_after(10):
        while await publish(other, MARK, {"n": 2}, replica=0, session_id=client.session_id) != "NoStream":
            pass
    async with client.listening(mine.last_id, replica=1) as back:
        await back.until(lambda: {"n": 2} in [message["params"] for message in back.messages])

"""News and the session's own messages reach its standalone stream, wherever it is held; and modern listeners."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2

from tests.cluster.client import ACCEPT, Client, Stream
from tests.cluster.conftest import Connect, until

TOOLS = "notifications/tools/list_changed"
PROMPTS = "notifications/prompts/list_changed"
RESOURCES = "notifications/resources/list_changed"
MODERN = "2026-07-28"


def texts(stream: Stream) -> list[str]:
    """What the session was told on it."""
    said = [message for message in stream.messages if message["method"] == "notifications/message"]
    return [message["params"]["data"] for message in said]


async def heard(stream: Stream, *methods: str) -> None:
    """Wait until exactly these have arrived."""
    await stream.until(lambda: stream.methods == list(methods))


async def test_a_change_on_replica_0_reaches_streams_held_by_all_three(connect: Connect) -> None:
    here, there, yonder = [await connect(replica=replica) for replica in (0, 1, 2)]
    async with (
        here.listening(replica=0) as a,
        there.listening(replica=1) as b,
        yonder.listening(replica=2) as c,
    ):
        for stream in (a, b, c):
            await stream.open()
        assert await here.call("announce", {"kind": "tools"}, replica=0) == "announced on 0"
        assert await here.call("announce", {"kind": "prompts"}, replica=0) == "announced on 0"
        for stream in (a, b, c):
            await heard(stream, TOOLS, PROMPTS)
            assert all(frame.id for frame in stream.frames if frame.message)


@asynccontextmanager
async def modern(http: httpx2.AsyncClient, replica: int) -> AsyncIterator[Stream]:
    """A `subscriptions/listen` of 2026-07-28."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    body = {
        "jsonrpc": "2.0",
        "id": f"listen-{replica}",
        "method": "subscriptions/listen",
        "params": {"notifications": {"toolsListChanged": True}, "_meta": meta},
    }
    headers = {
        "accept": ACCEPT,
        "content-type": "application/json",
        "mcp-protocol-version": MODERN,
        "mcp-method": "subscriptions/listen",
        "x-replica": str(replica),
    }
    async with Client(http).sending("POST", json.dumps(body).encode(), headers) as stream:
        yield stream


async def test_a_change_on_replica_0_reaches_modern_listeners_on_all_three(
    client: Client, http: httpx2.AsyncClient
) -> None:
    async with modern(http, 0) as a, modern(http, 1) as b, modern(http, 2) as c:
        for stream in (a, b, c):
            await heard(stream, "notifications/subscriptions/acknowledged")
        await client.call("announce", {"kind": "prompts"}, replica=0)
        await client.call("announce", {"kind": "tools"}, replica=0)
        for stream in (a, b, c):
            await heard(stream, "notifications/subscriptions/acknowledged", TOOLS)
            # Only what was asked for.
            assert PROMPTS not in stream.methods


async def test_news_between_two_connections_arrives_at_the_next_once_per_kind(client: Client) -> None:
    async with client.listening(replica=0) as before:
        await client.call("announce", {"kind": "tools"}, replica=1)
        await before.until(lambda: before.methods == [TOOLS])

    await client.call("announce", {"kind": "tools", "times": 5}, replica=1)
    await client.call("announce", {"kind": "resources", "times": 3}, replica=2)
    async with client.listening(before.last_id, replica=2) as after:
        await after.until(lambda: len(after.methods) >= 2)
        # One more, so that a further collapsed one would have come before it.
        await client.call("announce", {"kind": "prompts"}, replica=1)
        await after.until(lambda: PROMPTS in after.methods)
    assert sorted(after.methods) == sorted([TOOLS, RESOURCES, PROMPTS])

    async with client.listening(after.last_id, replica=1) as last:
        await client.call("tell", {"text": "nothing old"}, replica=0)
        await last.until(lambda: last.methods)
    assert last.methods == ["notifications/message"]


async def test_news_published_while_a_stream_begins_is_told_once(connect: Connect) -> None:
    """Its replica may hear the news after it was read from the store."""
    for _ in range(15):
        client = await connect(replica=0)
        async with client.listening(replica=0) as stream:
            await client.call("announce", {"kind": "tools", "times": 2}, replica=1)
            # Mail of one publisher keeps its order, so what is told twice comes before this.
            await client.call("announce", {"kind": "prompts"}, replica=1)
            await stream.until(lambda stream=stream: PROMPTS in stream.methods)  # type: ignore[misc]
        assert stream.methods.count(TOOLS) <= 2, stream
        assert stream.methods[-1] == PROMPTS, stream
        assert stream.methods.count(PROMPTS) == 1, stream


async def test_news_from_before_the_first_connection_arrives_and_older_than_the_session_does_not(
    client: Client, connect: Connect
) -> None:
    await client.call("announce", {"kind": "prompts"}, replica=0)
    late = await connect(replica=1)
    await client.call("announce", {"kind": "tools"}, replica=0)
    async with late.listening(replica=2) as stream:
        await stream.until(lambda: stream.methods)
        await late.call("tell", {"text": "end"}, replica=1)
        await stream.until(lambda: texts(stream) == ["end"])
    assert stream.methods == [TOOLS, "notifications/message"]


async def test_a_message_to_the_own_session_reaches_its_stream_from_any_replica(
    client: Client, connect: Connect
) -> None:
    other = await connect(replica=2)
    async with client.listening(replica=2) as mine, other.listening(replica=2) as others:
        await mine.open()
        await others.open()
        for replica in (0, 1, 2):
            await client.call("tell", {"text": f"from {replica}"}, replica=replica)
            await heard(mine, *["notifications/message"] * (replica + 1))
        await other.call("tell", {"text": "own"}, replica=0)
        await others.until(lambda: texts(others))
    assert texts(mine) == ["from 0", "from 1", "from 2"]
    assert texts(others) == ["own"]


async def test_messages_told_while_nobody_listens_arrive_in_order_at_the_next_connection(client: Client) -> None:
    for number in range(5):
        await client.call("tell", {"text": str(number)}, replica=0)
    async with client.listening(replica=1) as stream:
        await stream.until(lambda: len(texts(stream)) == 5)
    assert stream.methods == ["notifications/message"] * 5
    assert texts(stream) == list("01234")

    # The first id is the priming event's.
    async with client.listening(stream.ids[2], replica=2) as again:
        await again.until(lambda: texts(again)[-1:] == ["4"])
    assert texts(again) == list("234")


async def test_a_new_connection_on_another_replica_takes_the_stream_over(client: Client) -> None:
    async with client.listening(replica=0) as old:
        await old.open()
        await client.call("tell", {"text": "to the old"}, replica=1)
        await old.until(lambda: texts(old))
        async with client.listening(old.last_id, replica=1) as new:
            await new.open()
            await old.end()
            await client.call("tell", {"text": "to the new"}, replica=2)
            await new.until(lambda: texts(new))
    assert (texts(old), texts(new)) == (["to the old"], ["to the new"])


async def test_two_clients_that_fight_for_a_stream_are_told_so(client: Client) -> None:
    async with client.listening(replica=0) as first:
        await first.open()
        async with client.listening(replica=1) as second, client.listening(replica=2) as third:
            await first.end()
            # Whichever of the two came first.
            await until(lambda: second.ended or third.ended)
            holder = third if second.ended else second
            refused = await client.get(replica=0, headers={"accept": "text/event-stream"})
            assert refused.status_code == 409
            assert "close one of the clients" in refused.json()["error"]["message"]
            await client.call("tell", {"text": "still here"}, replica=0)
            await holder.until(lambda: texts(holder) == ["still here"])


async def test_a_delete_elsewhere_ends_the_stream(client: Client) -> None:
    async with client.listening(replica=1) as stream:
        await stream.open()
        assert (await client.delete(replica=0)).status_code == 200
        await stream.end(5)
    assert (await client.get(replica=1, headers={"accept": "text/event-stream"})).status_code == 404

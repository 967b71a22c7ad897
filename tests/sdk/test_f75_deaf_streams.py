"""F75: a client whose stream is held by a replica that hears no bells gets everything, a little later."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from mcpsession.model import NewEvent, News
from mcpsession.postgres.address import Address
from tests.postgres.ears import cut_listeners, free_port
from tests.sdk.gates import settle, until
from tests.sdk.replicas import Client, Replica, replica, text_of

# A poll's second, and two statements on a busy machine.
POLLED = 2.0

OWN = '{"jsonrpc":"2.0","method":"notifications/own"}'


@asynccontextmanager
async def deaf(at: Replica) -> AsyncIterator[None]:
    """While inside, a running replica's listener finds no server."""
    [ear] = at.backend.doorbell._ears
    address = ear._address
    ear._address = Address(f"postgresql://user@127.0.0.1:{free_port()}/x", at.parts.settings)
    await cut_listeners(at.backend._direct.url)
    await until(lambda: at.parts.listening.state == "failed")
    yield
    ear._address = address
    await until(lambda: at.parts.listening.hears)


async def own_message(at: Replica, client: Client) -> None:
    """A message to one session, as a replica posts it that has not the stream."""
    for session_id, holder in (await at.backend.log.append_standalone([(client.session_id, NewEvent(OWN))])).items():
        at.parts.post_office.ring_stream(holder, session_id, "s")


async def test_f75_a_standalone_stream_gets_its_own_messages_and_news_while_its_replica_is_deaf(
    here: Replica, there: Replica, client: Client
) -> None:
    with anyio.fail_after(20):
        async with client.get(here) as stream:
            await stream.frame()
            async with deaf(here):
                for _ in range(2):
                    began = time.monotonic()
                    await own_message(there, client)
                    message = await stream.message()
                    assert message is not None
                    assert "notifications/own" == message["method"]
                    assert time.monotonic() - began < POLLED

                    began = time.monotonic()
                    await there.layer.broadcaster.publish(News("notifications/tools/list_changed"))
                    message = await stream.message()
                    assert message is not None
                    assert "notifications/tools/list_changed" == message["method"]
                    assert time.monotonic() - began < POLLED


async def test_f75_so_does_one_that_was_opened_there_meanwhile(here: Replica, there: Replica, client: Client) -> None:
    with anyio.fail_after(20):
        async with deaf(here), client.get(here) as stream:
            await stream.frame()
            began = time.monotonic()
            await own_message(there, client)
            assert await stream.message() is not None
            assert time.monotonic() - began < POLLED


async def test_f75_a_resumed_stream_goes_on_where_its_reader_is_deaf(
    here: Replica, there: Replica, client: Client
) -> None:
    gate = anyio.Event()

    async def wait(_: object) -> str:
        await gate.wait()
        return "answered"

    there.scripts["wait"] = wait
    with anyio.fail_after(20):
        async with deaf(here):
            async with client.call(there, "wait", token="t") as cut:
                first = await cut.frame()
                assert first is not None
            async with client.get(here, first.id) as stream:
                await stream.started()
                began = time.monotonic()
                gate.set()
                message = await stream.message()
                assert time.monotonic() - began < POLLED
    assert "answered" == text_of(message)


async def test_f79_a_stream_that_is_taken_from_a_deaf_replica_ends_there_and_goes_on_here_alone(
    here: Replica, there: Replica, client: Client
) -> None:
    """Its bell is not heard, so it asks."""
    with anyio.fail_after(20):
        async with client.get(here) as before:
            await before.frame()
            async with deaf(here), client.get(there) as after:
                began = time.monotonic()
                await after.frame()
                await before.ended()
                assert time.monotonic() - began < POLLED
                await there.layer.broadcaster.publish(News("notifications/tools/list_changed"))
                message = await after.message()
                assert message is not None
                assert "notifications/tools/list_changed" == message["method"]
    assert b"list_changed" not in before.body


async def test_f79_a_stream_that_was_taken_in_a_gap_ends_after_it(
    here: Replica, there: Replica, client: Client
) -> None:
    """The replica hears again before it would have asked."""
    with anyio.fail_after(10):
        async with client.get(here) as before:
            await before.frame()
            # The bell of it is lost.
            assert await there.backend.holds.take(client.session_id, there.id) is not None
            await settle()
            assert not before.complete
            await cut_listeners(here.backend._direct.url)
            await before.ended()


async def test_f75_a_replica_that_hears_asks_nobody_whether_its_streams_are_its_own(
    here: Replica, client: Client
) -> None:
    with anyio.fail_after(10):
        async with client.get(here) as stream:
            await stream.frame()
            for _ in range(3):
                await own_message(here, client)
                assert await stream.message() is not None

    assert 0 == here.backend.holds.calls["holder"]


@pytest.mark.parametrize("deaf_one", ["the one that ends it", "the other"])
async def test_f75_a_session_that_ends_while_somebody_is_deaf_is_gone_everywhere_when_the_answer_comes(
    database_url: str, deaf_one: str
) -> None:
    with anyio.fail_after(20):
        async with replica(database_url) as here, replica(database_url) as there:
            client = await Client().initialize(here)
            async with client.echo(there) as response:
                await response.ended()
            async with deaf(here if deaf_one == "the one that ends it" else there):
                began = time.monotonic()
                assert await client.delete(here) in (200, 204)
                took = time.monotonic() - began
                for at in (there, here):
                    async with client.echo(at) as response:
                        await response.ended()
                        assert 404 == response.status
    assert took < here.parts.settings.cache_lease + 1.0

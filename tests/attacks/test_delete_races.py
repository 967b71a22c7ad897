"""A DELETE against everything that its session does at that moment, on three replicas."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from typing import Any

import anyio
import asyncpg
import pytest

from tests.attacks.sockets import Socket, calling
from tests.sdk.gates import until
from tests.sdk.replicas import Client, Replica, hello, replica

ROUNDS = 15
LIVES = "SELECT status FROM mcpsession.sessions WHERE id = $1"
LEFT = """
SELECT (SELECT count(*) FROM mcpsession.streams t WHERE t.session_id = ANY($1) AND t.expires_at IS NULL),
    (SELECT count(*) FROM mcpsession.streams t WHERE t.session_id = ANY($1)),
    (SELECT count(*) FROM mcpsession.events e WHERE e.session_id = ANY($1) AND NOT EXISTS (
        SELECT FROM mcpsession.streams t WHERE t.session_id = e.session_id AND t.id = e.stream_id)),
    (SELECT count(*) FROM mcpsession.subscriptions u WHERE u.session_id = ANY($1))
"""


@pytest.fixture
async def replicas(database_url: str) -> AsyncIterator[list[Replica]]:
    async with replica(database_url) as one, replica(database_url) as two, replica(database_url) as three:
        yield [one, two, three]


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def talk(ctx: Any) -> str:
    for step in itertools.count():
        await ctx.report_progress(step)
        await anyio.sleep(0.001)
    return "never"


async def test_a_delete_races_a_call_a_cached_session_and_open_streams(
    replicas: list[Replica], connection: asyncpg.Connection
) -> None:
    """After its 200 every replica says 404, the calls have ended with an error, the streams have ended."""
    sessions: list[str] = []
    for at in replicas:
        at.scripts["talk"] = talk
    for number in range(ROUNDS):
        one, two, three = replicas[number % 3 :] + replicas[: number % 3]
        with anyio.fail_after(20):
            client = await Client().initialize(one)
            sessions.append(client.session_id)
            await race(client, one, two, three, number)
        assert ["terminated"] == [row[0] for row in await connection.fetch(LIVES, client.session_id)]
    # What was on its way into the log when its session ended has an end of its own, and goes with its ttl.
    await until(lambda: not any(at.parts.journal.pending_bytes for at in replicas))
    unfinished, _, without_stream, subscriptions = (await connection.fetch(LEFT, sessions))[0]
    assert (0, 0, 0) == (unfinished, without_stream, subscriptions)
    await connection.execute("UPDATE mcpsession.streams SET expires_at = now() WHERE expires_at IS NOT NULL")
    await replicas[0].layer.reaper.run_once()
    assert (0, 0, 0, 0) == tuple((await connection.fetch(LEFT, sessions))[0])


async def race(client: Client, one: Replica, two: Replica, three: Replica, number: int) -> None:
    """The call runs on one, its stream is read on two, three holds the standalone stream; each has it cached."""
    call, resumed, standing = (
        Socket(client, "POST", calling("talk", 1_000_000)),
        Socket(client, "GET"),
        Socket(client, "GET"),
    )
    start, over = anyio.Event(), anyio.Event()
    seen: dict[str, list[int]] = {"before": [], "after": []}

    async def ask(at: Replica) -> None:
        await start.wait()
        while True:
            is_over = over.is_set()
            async with client.echo(at) as response:
                await response.ended()
            seen["after" if is_over else "before"].append(response.status)
            if is_over:
                return

    async def open_late(at: Replica) -> None:
        """A stream that is being opened while the session ends."""
        await start.wait()
        late = Socket(client, "GET")
        assert await late.run(at) in (200, 404, 409)

    async def delete() -> None:
        await start.wait()
        # A little later each time.
        await anyio.sleep(0.001 * (number % 5))
        assert 200 == await client.delete([one, two, three][number % 2])
        over.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call.run, one)
        await until(lambda: len(call.messages) > 2)
        resumed = Socket(client, "GET", last_event_id=call.frames[0].id or "")
        tasks.start_soon(resumed.run, two)
        tasks.start_soon(standing.run, three)
        await until(lambda: resumed.messages and standing.body)
        for at in (one, two, three):
            assert 200 == await ping(client, at)
            tasks.start_soon(ask, at)
        tasks.start_soon(open_late, [two, three][number % 2])
        tasks.start_soon(delete)
        start.set()
    # All have ended: the group is left. The call's own socket was cut in favour of the resumed one.
    assert {404} == set(seen["after"]), seen
    assert set(seen["before"]) <= {200, 404}, seen
    finals = [message for message in resumed.messages if "method" not in message]
    assert ["Session ended"] == [final["error"]["message"] for final in finals]
    steps = [message["params"]["progress"] for message in resumed.messages if "method" in message]
    assert list(range(len(steps))) == steps
    for at in (one, two, three):
        assert [] == at.layer.running_here(client.session_id)
        assert 404 == await ping(client, at)


async def ping(client: Client, at: Replica) -> int:
    return await client.send(at, {"jsonrpc": "2.0", "id": "ping", "method": "ping"})


async def test_a_stream_that_is_opened_while_its_session_ends_holds_nothing_of_the_next_one_with_its_id(
    replicas: list[Replica],
) -> None:
    here, sessions = replicas[0], replicas[0].layer.sessions
    await sessions.create("again")
    client = Client(session_id="again")
    async with client.post(here, hello()) as response:
        await response.ended()
    take = here.backend.holds.before["take"]
    take.close()
    socket = Socket(client, "GET")
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(socket.run, here)
            await take.reached.wait()
            await sessions.delete("again")
            await sessions.create("again")
            take.open()
    assert 404 == socket.status
    assert await here.backend.holds.holder("again") is None

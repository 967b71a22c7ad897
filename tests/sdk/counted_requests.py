"""Requests of every kind, to two replicas that count what they ask Postgres for."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import asyncpg

from mcpsession import current_session
from tests.counting import BACKGROUND, BEAT, PING, Statements, asked_by
from tests.sdk.gates import settle
from tests.sdk.newsroom import TOOLS, ask, standing
from tests.sdk.replicas import Client, Replica, replica, text_of
from tests.sdk.test_asking_the_client import ask as question

REQUEST = "the request"

# What comes at rest is counted where nothing else is; here it would come in now and then.
AT_REST = {BEAT, PING, "holds.CHANGED"}
RARELY = {"touch_flush": 600.0, "reap_every": None}


class World:
    """Two replicas that are counted, and a client whose session both know."""

    def __init__(self, here: Replica, there: Replica, statements: Statements, client: Client) -> None:
        self.here, self.there, self.client = here, there, client
        self._statements = statements

    async def cost_of(self, scenario: Scenario, is_all: Callable[[Cost], bool]) -> Cost:
        """What it waits for, and what comes besides, until that is all and nothing is under way any more."""
        steps = scenario(self)
        await anext(steps)
        await self.quiet()
        self._statements.clear()
        with asked_by(REQUEST):
            await anext(steps, None)
        with anyio.move_on_after(5):
            # A bell, and who it wakes, announce themselves in no other way.
            while not is_all(self._counted()):
                await self.quiet()
        # And nothing more than that.
        await self.quiet()
        counted = self._counted()
        async for _ in steps:
            pass
        return counted

    async def quiet(self) -> None:
        for at in (self.here, self.there):
            await at.parts.journal.flushed()
        await settle()

    def _counted(self) -> Cost:
        waited, besides = self._statements.of(REQUEST), self._statements.of(BACKGROUND)
        return waited, Counter({name: count for name, count in besides.items() if name not in AT_REST})


Cost = tuple[Counter[str], Counter[str]]
Scenario = Callable[[World], AsyncIterator[None]]
"""Prepares, yields, does what is counted, and yields again if something is to be left after that."""


async def called(world: World, name: str, *, token: str | None = None) -> None:
    async with world.client.call(world.here, name, token=token) as response:
        *_, last = await response.messages()
        assert "done" == text_of(last)


async def asked(world: World, answer_at: Replica) -> None:
    async with world.client.call(world.here, "ask") as response:
        question = await response.message()
        assert question is not None
        assert 202 == await world.client.answer(answer_at, question, {"action": "accept"})
        assert "done" == text_of(await response.message())


async def a_short_call(world: World) -> AsyncIterator[None]:
    yield
    async with world.client.echo(world.here) as response:
        assert "hello" == text_of(await response.message())


async def another_request(world: World) -> AsyncIterator[None]:
    yield
    assert (await ask(world.client, world.here, "tools/list", {}))["result"]["tools"]


async def a_ping(world: World) -> AsyncIterator[None]:
    yield
    assert {} == (await ask(world.client, world.here, "ping", {}))["result"]


async def a_notification(world: World) -> AsyncIterator[None]:
    yield
    assert 202 == await world.client.notify(world.here, "notifications/roots/list_changed")


async def a_cancellation(world: World) -> AsyncIterator[None]:
    yield
    assert 202 == await world.client.notify(world.here, "notifications/cancelled", {"requestId": "nobody's"})


async def ten_words_at_once(world: World) -> AsyncIterator[None]:
    yield
    await called(world, "talk", token="t")


async def ten_words_now_and_then(world: World) -> AsyncIterator[None]:
    yield
    await called(world, "talk slowly", token="t")


async def answered_here(world: World) -> AsyncIterator[None]:
    yield
    await asked(world, world.here)


async def answered_there(world: World) -> AsyncIterator[None]:
    yield
    await asked(world, world.there)


async def a_state(world: World) -> AsyncIterator[None]:
    yield
    await called(world, "remember")


async def a_message_to_there(world: World) -> AsyncIterator[None]:
    async with standing(world.client, world.there) as stream:
        yield
        await called(world, "say")
        assert await stream.message() is not None
        yield


async def a_stranger(world: World) -> AsyncIterator[None]:
    stranger = await Client().initialize(world.there)
    yield
    async with stranger.echo(world.here) as response:
        assert "hello" == text_of(await response.message())


async def a_beginning(world: World) -> AsyncIterator[None]:
    yield
    await Client().initialize(world.here)


async def a_resumption(world: World) -> AsyncIterator[None]:
    async with world.client.echo(world.here) as response:
        await response.ended()
    priming = response.frames[0].id
    yield
    async with world.client.get(world.there, priming) as response:
        assert "hello" == text_of(await response.message())
        await response.ended()


async def a_standalone_stream(world: World) -> AsyncIterator[None]:
    yield
    async with standing(world.client, world.here):
        # One that is left in the middle of a statement costs another.
        await world.quiet()


async def news(world: World) -> AsyncIterator[None]:
    yield
    await world.here.layer.broadcaster.publish(TOOLS)


async def an_end(world: World) -> AsyncIterator[None]:
    client = await Client().initialize(world.here)
    async with client.echo(world.here) as response:
        await response.ended()
    yield
    assert 200 == await client.delete(world.here)


SCENARIOS: dict[str, Scenario] = {
    "a tool call that is answered at once": a_short_call,
    "any other request (`tools/list`)": another_request,
    "a ping": a_ping,
    "a notification": a_notification,
    "a cancellation": a_cancellation,
    "a call that reports progress ten times at once": ten_words_at_once,
    "a call that reports progress ten times, now and then": ten_words_now_and_then,
    "a call that asks its client, answered at the same replica": answered_here,
    "a call that asks its client, answered at another replica": answered_there,
    "a call that reads and changes its session's state": a_state,
    "a call that says something on a standalone stream held elsewhere": a_message_to_there,
    "a call of a session that this replica does not know yet": a_stranger,
    "`initialize`, and `notifications/initialized`": a_beginning,
    "a GET that resumes a finished call at another replica": a_resumption,
    "a standalone GET, and its end": a_standalone_stream,
    "news for all": news,
    "a DELETE": an_end,
}


# ---- What its tools do ---------------------------------------------------------------------------------------------


async def talk(ctx: Any) -> str:
    for number in range(10):
        await ctx.report_progress(number)
    return "done"


async def talk_slowly(ctx: Any) -> str:
    for number in range(10):
        await ctx.report_progress(number)
        await anyio.sleep(0.01)
    return "done"


async def put_a_question(ctx: Any) -> str:
    await question(ctx, timeout=10)
    return "done"


async def remember(ctx: Any) -> str:
    state = await current_session().state()
    state["calls"] = state.get("calls", 0) + 1
    return "done"


async def say(ctx: Any) -> str:
    await ctx.session.send_log_message("info", "said")
    return "done"


TOOLS_OF_ALL = {"talk": talk, "talk slowly": talk_slowly, "ask": put_a_question, "remember": remember, "say": say}


async def call_each(clients: Sequence[Client], at: Replica) -> None:
    """One call of each client, all at once."""

    async def call(client: Client) -> None:
        async with client.echo(at) as response:
            assert "hello" == text_of(await response.message())

    async with anyio.create_task_group() as tasks:
        for client in clients:
            tasks.start_soon(call, client)


class Barrier:
    """While inside, no statement that writes to streams goes on."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._connection = connection

    async def __aenter__(self) -> None:
        await self._connection.execute("BEGIN; LOCK TABLE mcpsession.streams IN EXCLUSIVE MODE")

    async def __aexit__(self, *_: object) -> None:
        await self._connection.execute("ROLLBACK")


@asynccontextmanager
async def barrier(url: str) -> AsyncIterator[Barrier]:
    connection = await asyncpg.connect(url)
    try:
        yield Barrier(connection)
    finally:
        await connection.close()


@asynccontextmanager
async def counted_replicas(url: str, statements: Statements) -> AsyncIterator[tuple[Replica, Replica]]:
    async with (
        replica(url, wrap=statements.watch, **RARELY) as here,
        replica(url, wrap=statements.watch, **RARELY) as there,
    ):
        for at in (here, there):
            at.scripts.update(TOOLS_OF_ALL)
        yield here, there

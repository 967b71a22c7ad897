"""What else the layer does for an application, and its ways to Postgres, cancelled wherever they wait."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from mcpsession.errors import StoreError
from mcpsession.sdk.drain import drain
from mcpsession.sdk.kernel import RequestConnection
from tests.attacks.cancelling import Work
from tests.attacks.leaks import Leaks
from tests.attacks.served import borrowing
from tests.attacks.sockets import Socket, calling
from tests.sdk.gates import until
from tests.sdk.replicas import Client, Replica


async def test_control_messages(here: Replica, there: Replica, leaks: Leaks) -> None:
    """It has a version of its own or none; none is left out, and the log goes on."""
    control = here.layer.control

    async def prepare() -> Work:
        return lambda: control.send("reload", {"a": 1})

    async for outcome in leaks.after(prepare):
        version = await control.send("reload", {"a": 2})
        assert outcome.made is None or version == outcome.made + 1
        with anyio.fail_after(10):
            await until(lambda version=version: there.layer.control.applied == version)

    async def prepare_to_forget() -> Work:
        await control.send("forget-me")
        return lambda: control.forget("forget-me")

    async for _ in leaks.after(prepare_to_forget):
        assert isinstance(await control.forget("forget-me"), bool)


@pytest.mark.parametrize("runs", [False, True], ids=["at rest", "with a call that takes longer"])
async def test_a_drain(here: Replica, client: Client, leaks: Leaks, runs: bool) -> None:
    """Whoever drains after it, drains: it neither waits for ever nor returns too early."""
    parts = here.parts
    calls: list[Socket] = []

    async def forever(ctx: Any) -> str:
        await anyio.sleep_forever()
        return "never"

    here.scripts["forever"] = forever

    async with anyio.create_task_group() as tasks:

        async def prepare() -> Work:
            parts.drain.reset()
            if runs:
                calls.append(call := Socket(client, "POST", calling("forever", 10_000 + len(calls))))
                tasks.start_soon(call.run, here)
                with anyio.fail_after(10):
                    await until(lambda: call.body)
            return lambda: drain(parts, 0.05)

        async def drained() -> None:
            with anyio.fail_after(10):
                await here.layer.drain(0.05)
            assert 0 == len(parts.in_flight)
            assert 0 == parts.journal.pending_bytes

        async for _ in leaks.after(prepare, finally_=drained):
            assert parts.drain.over
        tasks.cancel_scope.cancel()
    parts.drain.reset()


async def test_close_here(here: Replica, client: Client, leaks: Leaks) -> None:
    async def forever(ctx: Any) -> str:
        await anyio.sleep_forever()
        return "never"

    here.scripts["forever"] = forever
    calls: list[Socket] = []

    async with anyio.create_task_group() as tasks:

        async def prepare() -> Work:
            calls.append(call := Socket(client, "POST", calling("forever", 20_000 + len(calls))))
            tasks.start_soon(call.run, here)
            with anyio.fail_after(10):
                await until(lambda: call.body)
            return lambda: here.layer.close_here(client.session_id)

        async for _ in leaks.after(prepare):
            with anyio.fail_after(10):
                await until(lambda: calls[-1].messages)


async def test_a_question_on_the_standalone_stream(here: Replica, client: Client, leaks: Leaks) -> None:
    """Nobody waits for its answer any more, and its client is told that."""
    session = await here.parts.cache.load(client.session_id)
    stream = Socket(client, "GET")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.run, here)
        await until(lambda: stream.body)
        asked = len(stream.messages)

        async def answer_all() -> None:
            answered: set[str] = set()
            while True:
                for message in stream.messages:
                    if message.get("method") == "ping" and message["id"] not in answered:
                        answered.add(message["id"])
                        await client.answer(here, message, {})
                await anyio.sleep(0.005)

        tasks.start_soon(answer_all)

        async def prepare() -> Work:
            return lambda: RequestConnection(here.parts, session).send_raw_request("ping", None, {"timeout": 5})

        async for outcome in leaks.after(prepare, standing=1):
            assert outcome.cancelled or {} == outcome.made
        assert len(stream.messages) > asked
        tasks.cancel_scope.cancel()


async def test_a_transaction(here: Replica, leaks: Leaks, shared_url: str) -> None:
    """It was committed whole, or rolled back; its connection and its locks are free."""
    database = here.backend._database
    async with borrowing(shared_url) as connection:
        await connection.execute("CREATE TABLE IF NOT EXISTS public.pairs (number int)")

    async def work() -> None:
        async with database.transaction() as connection:
            await connection.execute("LOCK TABLE public.pairs IN EXCLUSIVE MODE")
            await connection.execute("INSERT INTO public.pairs VALUES (1)")
            await connection.fetch("INSERT INTO public.pairs VALUES (2) RETURNING number")

    async def prepare() -> Work:
        return work

    places = 0
    async for _ in leaks.after(prepare):
        places += 1
    assert places >= 15
    async with borrowing(shared_url) as connection:
        [[ones, twos]] = await connection.fetch(
            "SELECT count(*) FILTER (WHERE number = 1), count(*) FILTER (WHERE number = 2) FROM public.pairs"
        )
    assert ones == twos


@pytest.mark.parametrize("name", ["_journal", "_notifier"])
async def test_a_link(here: Replica, leaks: Leaks, name: str) -> None:
    """Cancelled in the middle, it is dialled anew by the next; its turn is free."""
    link = getattr(here.backend, name)

    async def work() -> None:
        await link.fetch("SELECT $1::int", 1)
        await link.execute("SELECT pg_sleep(0)")

    async def prepare() -> Work:
        if link._connection is not None:
            link._connection.terminate()
        return work

    async for _ in leaks.after(prepare):
        with anyio.fail_after(10):
            assert [(2,)] == [tuple(row) for row in await link.fetch("SELECT $1::int", 2)]


@pytest.mark.parametrize("waits", [False, True], ids=["with room", "when all are taken"])
async def test_a_statement_of_the_pool(here: Replica, leaks: Leaks, waits: bool) -> None:
    database = here.backend._database
    taken: list[Any] = []

    async def prepare() -> Work:
        # New connections, and statements that they have not seen.
        await database._empty_hands(database._pool)
        await database._pool.expire_connections()
        if waits:
            for _ in range(database._settings.pool_size):
                taken.append(context := database.connection())
                await context.__aenter__()

        async def work() -> Any:
            if waits:
                tasks.start_soon(give_one_back)
            return await database.fetchrow("SELECT $1::text AS one", "one")

        return work

    async def give_one_back() -> None:
        if taken:
            await taken.pop().__aexit__(None, None, None)

    async def give_all_back() -> None:
        while taken:
            await taken.pop().__aexit__(None, None, None)

    async with anyio.create_task_group() as tasks:
        async for outcome in leaks.after(prepare, finally_=give_all_back):
            assert outcome.cancelled or outcome.made is not None


async def test_a_value_that_cannot_be_encoded_leaves_no_transaction_open(here: Replica, leaks: Leaks) -> None:
    """The driver notices between the two round trips of a new statement."""
    with pytest.raises(StoreError):
        await here.backend._database.fetch("SELECT count(*) FROM mcpsession.sessions WHERE incarnation = $1", "one")
    await leaks.none()

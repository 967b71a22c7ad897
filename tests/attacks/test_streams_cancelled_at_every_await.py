"""A server may cancel the task of a GET wherever it waits: nothing leaks, holds are let go, no message is lost."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from tests.attacks.cancelling import Work
from tests.attacks.leaks import Leaks
from tests.attacks.served import numbers, tell, until_heard, until_primed
from tests.attacks.sockets import Socket, calling
from tests.sdk.gates import until
from tests.sdk.replicas import Client, Replica, text_of


@pytest.mark.parametrize("holder", ["nobody", "this replica", "another replica"])
async def test_a_standalone_stream(here: Replica, there: Replica, leaks: Leaks, holder: str) -> None:
    """Whoever takes it lets it go, whoever held it before lets it go or keeps it, and no message is lost."""
    clients: list[Client] = []
    sockets: list[list[Socket]] = []
    before_at = {"this replica": here, "another replica": there}.get(holder)

    async with anyio.create_task_group() as tasks:

        async def prepare() -> Work:
            clients.append(client := await Client().initialize(here))
            number = len(clients)
            before, socket = Socket(client, "GET"), Socket(client, "GET")
            sockets.append([before, socket])
            if before_at is not None:
                tasks.start_soon(before.run, before_at)
                await until(lambda: before.body)
            tell(here, client, number)
            # Of one that is held the message may have come to who holds it.
            socket.hear = until_heard(number) if before_at is None else until_primed
            return lambda: socket.run(here)

        async for _ in leaks.after(prepare, at_rest=lambda: sockets[-1][0].hang_up()):
            client, number = clients[-1], len(clients)
            assert await here.backend.holds.holder(client.session_id) is None
            sockets[-1].append(last := Socket(client, "GET"))
            last.hear = until_heard(-number)
            tell(here, client, -number)
            with anyio.fail_after(10):
                assert 200 == await last.run(there)
            heard = [message["params"]["number"] for socket in sockets[-1] for message in socket.messages]
            assert {number, -number} == set(heard)
    assert len(clients) >= 30


async def test_a_finished_calls_resumption(here: Replica, client: Client, leaks: Leaks) -> None:
    async def talk(ctx: Any) -> str:
        for step in range(3):
            await ctx.report_progress(step)
        return "talked"

    here.scripts["talk"] = talk
    first = Socket(client, "POST", calling("talk", next(numbers)))
    assert 200 == await first.run(here)
    await here.parts.journal.flushed()
    beginning = first.frames[0].id
    assert beginning is not None

    async def prepare() -> Work:
        here.parts.cache.clear()
        return lambda: Socket(client, "GET", last_event_id=beginning).run(here)

    async for outcome in leaks.after(prepare):
        assert outcome.cancelled or outcome.made == 200
        again = Socket(client, "GET", last_event_id=beginning)
        with anyio.fail_after(10):
            assert 200 == await again.run(here)
        assert first.messages == again.messages


async def test_a_running_calls_resumption(here: Replica, there: Replica, client: Client, leaks: Leaks) -> None:
    """Read on by the next one, its events come once and in order."""
    released: list[anyio.Event] = []
    calls: list[Socket] = []

    async def talk(ctx: Any) -> str:
        release = released[-1]
        await ctx.report_progress(0)
        await release.wait()
        await ctx.report_progress(1)
        return "talked"

    there.scripts["talk"] = talk

    async with anyio.create_task_group() as tasks:

        async def prepare() -> Work:
            released.append(anyio.Event())
            calls.append(call := Socket(client, "POST", calling("talk", next(numbers))))
            tasks.start_soon(call.run, there)
            with anyio.fail_after(10):
                await until(lambda: call.messages)
            call.hang_up()
            socket = Socket(client, "GET", last_event_id=call.frames[-1].id or "")
            # Once it reads, the call goes on.
            socket.hear = lambda _: released[-1].set()
            return lambda: socket.run(here)

        async for outcome in leaks.after(prepare):
            assert outcome.cancelled or outcome.made == 200
            released[-1].set()
            again = Socket(client, "GET", last_event_id=calls[-1].frames[-1].id or "")
            with anyio.fail_after(10):
                assert 200 == await again.run(here)
            assert [1, "talked"] == [
                message["params"]["progress"] if "params" in message else text_of(message) for message in again.messages
            ]

"""A server may cancel the task of a request wherever it waits: nothing leaks, and the session serves on."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from tests.attacks.cancelling import Work
from tests.attacks.leaks import Leaks
from tests.attacks.served import fetch, finals, numbers, serves
from tests.attacks.sockets import Socket, calling
from tests.sdk.gates import until
from tests.sdk.replicas import Client, Replica, hello, text_of

# POST


@pytest.mark.parametrize("warm", [True, False], ids=["the session is known here", "the session is read first"])
@pytest.mark.parametrize("script", ["short", "talk"])
async def test_a_call(here: Replica, client: Client, leaks: Leaks, shared_url: str, script: str, warm: bool) -> None:
    """Its handler runs on wherever its socket's task was cancelled, and its stream gets its one answer."""
    ran: list[int] = []

    async def short(ctx: Any) -> str:
        ran.append(1)
        return "short"

    async def talk(ctx: Any) -> str:
        for step in range(3):
            await ctx.report_progress(step)
            await here.parts.journal.flushed()
        ran.append(1)
        return "talked"

    here.scripts.update(short=short, talk=talk)

    async def prepare() -> Work:
        if not warm:
            here.parts.cache.clear()
        return lambda: Socket(client, "POST", calling(script, next(numbers))).run(here)

    places = 0
    async for outcome in leaks.after(prepare):
        places += 1
        assert outcome.cancelled or outcome.made == 200
        await serves(here, client)

    assert places >= {"short": 15, "talk": 40}[script]
    assert len(ran) >= 3
    assert {(True, 1)} == await finals(shared_url, client.session_id)


async def test_initialize(here: Replica, leaks: Leaks, shared_url: str) -> None:
    """Its session is there, whole, or not at all."""
    sockets: list[Socket] = []

    async def prepare() -> Work:
        socket = Socket(Client(), "POST", hello())
        sockets.append(socket)
        return lambda: socket.run(here)

    async for _ in leaks.after(prepare):
        if session_id := sockets[-1].headers.get("mcp-session-id"):
            await serves(here, Client(session_id=session_id))

    half = """
        SELECT count(*) FROM mcpsession.sessions s
        WHERE s.client_params IS NULL OR NOT EXISTS (
            SELECT FROM mcpsession.streams t WHERE t.session_id = s.id AND t.id = 's')"""
    assert [(0,)] == await fetch(shared_url, half)
    assert len(sockets) >= 12
    # Begun, it is finished: most who were cancelled have a session all the same.
    assert [(True,)] == await fetch(shared_url, "SELECT count(*) >= $1 FROM mcpsession.sessions", len(sockets) // 2)


async def test_initialize_of_a_session_that_the_application_created(here: Replica, leaks: Leaks) -> None:
    """Its client is recorded, or the next attempt may begin at once: no claim is left behind."""
    clients: list[Client] = []

    async def prepare() -> Work:
        session = await here.layer.sessions.create()
        clients.append(Client(session_id=session.id))
        return lambda: Socket(clients[-1], "POST", hello()).run(here)

    async for _ in leaks.after(prepare):
        client = clients[-1]
        known = await here.backend.sessions.get(client.session_id)
        if known.client_params is None:
            await client.initialize(here)
        await serves(here, client)
    assert len(clients) >= 12


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("notifications/initialized", None),
        ("notifications/cancelled", {"requestId": 99}),
        ("notifications/progress", {"progressToken": f"{'0' * 18}-{'0' * 24}", "progress": 1}),
        ("notifications/roots/list_changed", None),
    ],
)
async def test_a_notification(
    here: Replica, client: Client, leaks: Leaks, method: str, params: dict[str, Any] | None
) -> None:
    async def prepare() -> Work:
        here.parts.cache.clear()
        message = {"jsonrpc": "2.0", "method": method, **({} if params is None else {"params": params})}
        return lambda: Socket(client, "POST", message).run(here)

    async for outcome in leaks.after(prepare):
        assert outcome.cancelled or outcome.made == 202
        await serves(here, client)


async def test_an_answer_for_another_replica(here: Replica, there: Replica, client: Client, leaks: Leaks) -> None:
    """It is handed over, or can be sent again; either way the call that asked ends."""
    asked: list[Any] = []
    answers: list[str] = []

    async def ask(ctx: Any) -> str:
        schema = {"type": "object", "properties": {}}
        answer = await ctx.session.elicit_form("?", schema, related_request_id=ctx.request_id)
        return str(answer.action)

    there.scripts["ask"] = ask
    answer = {"action": "accept", "content": {}}

    async with anyio.create_task_group() as tasks:

        async def call(*, task_status: Any) -> None:
            async with client.call(there, "ask") as response:
                question = await response.message()
                task_status.started(question)
                answers.append(text_of(await response.message()))

        async def prepare() -> Work:
            asked.append(await tasks.start(call))
            message = {"jsonrpc": "2.0", "id": asked[-1]["id"], "result": answer}
            return lambda: Socket(client, "POST", message).run(here)

        async for _ in leaks.after(prepare):
            # Sent again it may come too late, which is no error.
            assert await client.answer(here, asked[-1], answer) in (202, 400)
            with anyio.fail_after(10):
                await until(lambda: len(answers) == len(asked))
    assert {"accept"} == set(answers)
    assert 0 == len(there.parts.waiters)


# DELETE


async def test_a_delete(here: Replica, there: Replica, leaks: Leaks, shared_url: str) -> None:
    """The session lives, or it has ended on all replicas with nothing left but its tombstone."""
    clients: list[Client] = []
    ended = 0

    async def prepare() -> Work:
        clients.append(await Client().initialize(here))
        await serves(there, clients[-1])
        return lambda: Socket(clients[-1], "DELETE").run(here)

    async for outcome in leaks.after(prepare):
        client = clients[-1]
        statuses = []
        for replica in (here, there):
            async with client.echo(replica) as response:
                await response.ended()
                statuses.append(response.status)
        assert statuses in ([200, 200], [404, 404])
        ended += statuses[0] == 404
        assert statuses[0] == 404 or outcome.cancelled
        if statuses[0] == 404:
            # What a journal still had in hand comes late, and goes with its ttl.
            left = "SELECT count(*) FROM mcpsession.streams WHERE session_id = $1 AND expires_at IS NULL"
            assert [(0,)] == await fetch(shared_url, left, client.session_id)
    assert ended >= 3

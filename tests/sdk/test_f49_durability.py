"""What a socket was written is in the log first, each stream is replayed alone, and no disconnect ends a session.

F49 holds with `durability="strict"`; otherwise a short call's one write may leave before its batch has landed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio

from tests.sdk.asgi_client import parse
from tests.sdk.gates import settle, until
from tests.sdk.replicas import Client, Replica, logged, replica, text_of

STEPS = 4


class Torn:
    """A socket that dies in its n-th write, of which half arrives; and what the log had when each write began."""

    def __init__(self, at: Replica, client: Client, write: int) -> None:
        self._at = at
        self._client = client
        self._left = write
        self.torn = anyio.Event()
        self.ids: list[str] = []
        """Of all frames that were to be written."""
        self.missing: list[str] = []
        """Of those, what the log did not have yet."""

    @property
    def replica(self) -> Replica:
        """The replica, reached over this socket."""
        return replace(self._at, app=self._app)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        async def write(message: Any) -> None:
            body = message.get("body", b"")
            for block in body.decode().split("\n\n")[:-1]:
                if event_id := parse(block).id:
                    await self._look_up(event_id)
            if body and not self.torn.is_set():
                self._left -= 1
                if not self._left:
                    self.torn.set()
                    message = {**message, "body": body[: len(body) // 2], "more_body": True}
                await send(message)
            elif not self.torn.is_set():
                await send(message)

        async def hear() -> Any:
            # The request; after that only a hang-up comes.
            if not self._asked:
                self._asked = True
                return await receive()
            await self.torn.wait()
            return {"type": "http.disconnect"}

        self._asked = False
        await self._at.app(scope, hear, write)

    async def _look_up(self, event_id: str) -> None:
        self.ids.append(event_id)
        state = await logged(self._at, self._client, event_id)
        if state is None or state.last_seq < int(event_id.split(".")[1]):
            self.missing.append(event_id)


async def steps(ctx: Any) -> str:
    for step in range(1, STEPS + 1):
        await ctx.report_progress(step)
        await settle()
    return "done"


async def test_f49_whichever_write_a_socket_dies_in_all_of_it_is_in_the_log_and_replayed(database_url: str) -> None:
    async with replica(database_url, durability="strict") as here, replica(database_url) as there:
        here.scripts["steps"] = steps
        client = await Client().initialize(here)
        with anyio.fail_after(30):
            torn = 0
            while await is_torn_and_replayed(here, there, client, torn + 1):
                torn += 1
    # Some frames may have left in one write.
    assert torn > STEPS / 2


async def is_torn_and_replayed(here: Replica, there: Replica, client: Client, write: int) -> bool:
    """Call, over a socket that dies in this write, and resume elsewhere; False if the call had fewer writes."""
    socket = Torn(here, client, write)
    async with client.call(socket.replica, "steps", token="t") as response:
        await until(lambda: socket.torn.is_set() or response.complete)
        await until(lambda: not len(here.parts.in_flight))
    await here.parts.journal.flushed()
    assert [] == socket.missing
    if not socket.torn.is_set():
        return False
    had = [frame.message for frame in response.frames if frame.message]
    if response.last_id is None:
        # Nothing whole has arrived, so there is nothing to come back with; the log has it all.
        state = await logged(there, client, socket.ids[0])
        assert (True, STEPS + 2) == (state.finished, state.last_seq)
        return True
    async with client.get(there, response.last_id) as resumed:
        told = [*had, *await resumed.messages()]
    assert [*range(1, STEPS + 1)] == [message["params"]["progress"] for message in told[:-1]]
    assert "done" == text_of(told[-1])
    return True


async def test_f51_each_of_two_streams_is_replayed_alone(here: Replica, there: Replica, client: Client) -> None:
    """2025-11-25: the server replays what would have been sent on the stream that was disconnected, nothing else."""
    turn = [anyio.Event() for _ in range(2)]

    def script(name: str) -> Any:
        async def talk(ctx: Any) -> str:
            await ctx.report_progress(1, message=name)
            await turn[0].wait()
            await ctx.report_progress(2, message=name)
            await turn[1].wait()
            return name

        return talk

    here.scripts.update(a=script("a"), b=script("b"))
    with anyio.fail_after(20):
        async with client.call(here, "a", token="a") as a, client.call(here, "b", token="b") as b:
            await a.message()
            await b.message()
        turn[0].set()
        await settle()
        await here.layer.broadcaster.log_message("info", "for the standalone stream", session_id=client.session_id)
        turn[1].set()
        replayed = {}
        for name, cut in (("a", a), ("b", b)):
            async with client.get(there, cut.last_id) as resumed:
                replayed[name] = await resumed.messages()
                ids = {frame.id.split(".")[0] for frame in resumed.frames if frame.id}
            assert {cut.last_id.split(".")[0]} == ids
    assert a.last_id.split(".")[0] != b.last_id.split(".")[0]
    for name, (progress, answer) in replayed.items():
        assert (name, name) == (progress["params"]["message"], text_of(answer))


async def test_f52_a_disconnect_ends_no_session_and_costs_no_event(
    here: Replica, there: Replica, client: Client
) -> None:
    gate = anyio.Event()

    async def wait(ctx: Any) -> str:
        await ctx.report_progress(1)
        await gate.wait()
        await ctx.report_progress(2)
        return "done"

    here.scripts["wait"] = wait
    with anyio.fail_after(20):
        async with client.call(here, "wait", token="t") as call, client.get(here) as standing:
            await call.message()
            await until(lambda: standing.last_id)
        # Both sockets are gone.
        gate.set()
        await here.layer.broadcaster.log_message("warning", "missed", session_id=client.session_id)
        await until(lambda: not len(here.parts.in_flight) and not len(here.parts.standalones))
        session = await there.layer.sessions.get(client.session_id)
        assert session is not None
        assert "initialized" == session.phase

        async with client.get(there, call.last_id) as resumed:
            progress, answer = await resumed.messages()
        assert (2, "done") == (progress["params"]["progress"], text_of(answer))
        async with client.get(there, standing.last_id) as standing_again:
            assert "missed" == (await standing_again.message())["params"]["data"]
        async with client.echo(there) as response:
            assert "hello" == text_of(await response.message())

        assert 200 == await client.delete(there)
        async with client.echo(here) as response:
            await response.ended()
        assert 404 == response.status

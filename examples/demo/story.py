"""The story in seven steps: each does what plain round-robin breaks, and checks what came of it."""

import json
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

import anyio
import httpx2
from mcp.client.session import ClientRequestContext, IncomingMessage, MessageHandlerFnT
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitRequestParams, ElicitResult, ToolListChangedNotification

from examples.cluster import Cluster
from examples.demo.client import ANSWER, CALL, CANCEL, DELETE, LISTEN, RESUME, Exchange, connect

# Seconds. No step waits for a time; each of them fails if what it waits for has not come by then.
DEADLINE = 20.0

# Seconds within which a client must have heard that the replica which ran its call is dead.
TOLD_WITHIN = 5.0

# The long call, and where its connection is cut.
UNITS = 40
CUT_AFTER = 10

Say = Callable[[str], None]
"""Shows one short line of what was seen."""

Step = Callable[[Cluster, Say], Awaitable[None]]


class StoryError(AssertionError):
    """Something was seen that should not have been."""

    def __init__(self, what: str, expected: object, seen: object) -> None:
        super().__init__(f"{what}: expected {expected}, saw {seen}")
        self.what = what
        self.expected = expected
        self.seen = seen


def expect(what: str, expected: object, seen: object) -> None:
    if expected != seen:
        raise StoryError(what, expected, seen)


def endpoint(cluster: Cluster) -> str:
    return f"{cluster.url}/mcp"


def name(replica: int | str) -> str:
    """Replicas are 0, 1, 2 on the wire and 1, 2, 3 for people."""
    return f"replica {int(replica) + 1}"


def names(replicas: Sequence[int | str]) -> str:
    return " ".join(str(int(replica) + 1) for replica in replicas)


def milliseconds(since: float) -> str:
    return f"{(anyio.current_time() - since) * 1000:.0f} ms"


async def one_session_on_all(cluster: Cluster, say: Say) -> None:
    async with connect(endpoint(cluster)) as session:
        expect("the negotiated protocol version", "2025-11-25", session.client.protocol_version)
        answers = [json.loads(await session.call("count")) for _ in range(6)]
        calls = session.wire.all(CALL)
    ran_on = [answer["replica"] for answer in answers]
    expect("who ran the calls, by their own word and by the front's", [str(c.replica) for c in calls], ran_on)
    expect("the replicas that ran calls", {"0", "1", "2"}, set(ran_on))
    say(f"six calls, one after the other, ran on replicas {names(ran_on)}")
    counted = [answer["calls"] for answer in answers]
    expect("the count that the session keeps", [1, 2, 3, 4, 5, 6], counted)
    say(f"the session's state counted them across replicas: {' '.join(map(str, counted))}")


async def a_question_answered_elsewhere(cluster: Cluster, say: Say) -> None:
    asked: list[str] = []

    async def answer(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        del context
        asked.append(params.message)
        return ElicitResult(action="accept", content={"sure": True})

    async with connect(endpoint(cluster), pins={ANSWER: 1}, on_elicitation=answer) as session:
        outcome = await session.call("order", item="a teapot", on=0)
        posted = session.wire.all(ANSWER)
    expect("the questions that the client was asked", ["Order a teapot?"], asked)
    expect("where the answer went, and its status", [(1, 202)], [(post.replica, post.status) for post in posted])
    expect("what the tool said in the end", "a teapot: ordered by 0", outcome)
    say(f"{name(0)} asked {asked[0]!r}; the answer was posted to {name(1)}: {posted[0].status}")
    say(f"the tool on {name(0)} went on: 'a teapot: ordered'")


async def a_cut_call_resumed_elsewhere(cluster: Cluster, say: Say) -> None:
    heard: list[int] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        del total, message
        heard.append(int(progress))

    def in_the_middle(exchange: Exchange) -> bool:
        return exchange.kind == CALL and len(exchange.progress) >= CUT_AFTER

    async with connect(endpoint(cluster), pins={RESUME: 1}) as session:
        session.wire.cut_when = in_the_middle
        outcome = await session.call("work", units=UNITS, on=0, progress=hear)
        before, *after = [*session.wire.all(CALL), *session.wire.all(RESUME)]
    expect("what the tool said in the end", f"{UNITS} units of work by 0", outcome)
    expect("the replicas that went on with the stream", [1], [resumed.replica for resumed in after])
    parts = [before.progress, after[0].progress]
    expect("the reports, in two parts", list(range(1, UNITS + 1)), parts[0] + parts[1])
    expect("the reports as the client's callback heard them", list(range(1, UNITS + 1)), heard)
    say(f"reports 1 to {parts[0][-1]} came from {name(0)}; the connection was cut inside the next frame")
    say(f"{parts[1][0]} to {parts[1][-1]} and the result came through {name(1)}: none lost, none twice")


async def a_cancel_to_the_wrong_replica(cluster: Cluster, say: Say) -> None:
    ticket = secrets.token_hex(8)
    began = anyio.Event()
    call = anyio.CancelScope()

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        del progress, total, message
        began.set()

    async with connect(endpoint(cluster), pins={CANCEL: 1}) as session, anyio.create_task_group() as tasks:

        async def stand_still() -> None:
            with call:
                await session.call("stand_still", ticket=ticket, on=0, progress=hear)

        tasks.start_soon(stand_still)
        await began.wait()
        say(f"a tool runs on {name(0)}, and would for ever")
        cancelled_at = anyio.current_time()
        call.cancel()
        posted = await session.wire.first(CANCEL)
        expect("where the cancellation went, and its status", (1, 202), (posted.replica, posted.status))
        stopped_on = await session.call("wait_until_stopped", ticket=ticket, on=0)
        expect("the replica whose tool was stopped", "0", stopped_on)
        say(f"the cancellation was posted to {name(1)}; the tool on {name(0)} ended {milliseconds(cancelled_at)} later")


async def news_for_everyone(cluster: Cluster, say: Say) -> None:
    tool = f"skill_{secrets.token_hex(4)}"
    heard = [anyio.Event() for _ in cluster.replicas]

    def listener(index: int) -> MessageHandlerFnT:
        async def hear(message: IncomingMessage) -> None:
            if isinstance(message, ToolListChangedNotification):
                heard[index].set()

        return hear

    async with AsyncExitStack() as stack:
        sessions = [
            await stack.enter_async_context(
                connect(endpoint(cluster), pins={LISTEN: index, "tools/list": index}, on_message=listener(index))
            )
            for index in range(len(cluster.replicas))
        ]
        streams = [await session.wire.first(LISTEN) for session in sessions]
        expect("who holds the three clients' streams", [0, 1, 2], [stream.replica for stream in streams])
        changed_at = anyio.current_time()
        expect("the replica whose tools changed", "0", await sessions[0].call("learn", name=tool, on=0))
        for event in heard:
            await event.wait()
        took = milliseconds(changed_at)
        lists = [{known.name for known in (await session.client.list_tools()).tools} for session in sessions]
        expect(f"whose list has {tool}", [True] * 3, [tool in known for known in lists])
        say(f"three clients listen at replicas {names([stream.replica for stream in streams])}")
        say(f"a tool was added on {name(0)}; all three heard it within {took}, and list it")


async def an_end_for_everyone(cluster: Cluster, say: Say) -> None:
    async with connect(endpoint(cluster), pins={DELETE: 0}) as session:
        # Each replica knows the session by now, and must forget it.
        for index in range(len(cluster.replicas)):
            expect("who ran the call", str(index), await session.call("replica", on=index))
    wire = session.wire
    deleted = await wire.first(DELETE)
    expect("who took the DELETE, and whether it said yes", (0, True), (deleted.replica, deleted.status in (200, 204)))
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "replica", "arguments": {}}}
    headers = {
        "accept": "application/json, text/event-stream",
        "mcp-session-id": wire.session_id,
        "mcp-protocol-version": "2025-11-25",
    }
    async with httpx2.AsyncClient(headers=headers, trust_env=False) as http:
        answers = [
            await http.post(endpoint(cluster), json=body, headers={"x-replica": str(index)})
            for index in range(len(cluster.replicas))
        ]
    statuses = [answer.status_code for answer in answers]
    expect("what the replicas say to the next call", [404] * 3, statuses)
    say(f"DELETE at {name(0)}: {deleted.status}; the next call at replicas 1 2 3: {' '.join(map(str, statuses))}")


async def a_replica_killed(cluster: Cluster, say: Say) -> None:
    victim = cluster.replicas[0]
    ticket = secrets.token_hex(8)
    began = anyio.Event()
    errors: list[MCPError] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        del progress, total, message
        began.set()

    async with connect(endpoint(cluster)) as session:
        expect("the session's count", 1, json.loads(await session.call("count", on=0))["calls"])

        async def stand_still() -> None:
            try:
                await session.call("stand_still", ticket=ticket, on=0, progress=hear)
            except MCPError as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stand_still)
            await began.wait()
            killed_at = anyio.current_time()
            await victim.kill()
            counts = [json.loads(await session.call("count", on=index))["calls"] for index in (1, 2)]
            expect("the session's count on the two that live", [2, 3], counts)
            say(f"kill -9 of {name(0)}; the session's next two calls ran on replicas 2 3, done after "
                f"{milliseconds(killed_at)}")  # fmt: skip
        told_after = anyio.current_time() - killed_at
        if not errors:
            raise StoryError("the call that ran on the killed replica", "an error", "a result")
        if told_after > TOLD_WITHIN:
            raise StoryError("when the call ended", f"within {TOLD_WITHIN:.0f} s", f"after {told_after:.1f} s")
        survivor = session.wire.all(RESUME)[-1]
        say(f"its running call was ended by {name(survivor.replica)} after {told_after:.1f} s: {errors[0]}")
        await victim.restart()
        expect("the session's count", 4, json.loads(await session.call("count", on=0))["calls"])
        say(f"{name(0)} is back, as process {victim.pid}, and serves the session: its count is 4")


STORY: Sequence[tuple[str, Step]] = (
    ("One session, on all three replicas", one_session_on_all),
    ("A question of one replica, answered through another", a_question_answered_elsewhere),
    ("A call cut in the middle, resumed on another replica", a_cut_call_resumed_elsewhere),
    ("A cancellation sent to the wrong replica", a_cancel_to_the_wrong_replica),
    ("A tool list changed on one, heard on all", news_for_everyone),
    ("A session deleted on one, gone on all", an_end_for_everyone),
    ("A replica killed in mid-session", a_replica_killed),
)


async def play(step: Step, cluster: Cluster, say: Say) -> None:
    """Run one step.

    Raises the first thing that went wrong, alone, whatever task groups it came through.
    """
    try:
        with anyio.fail_after(DEADLINE):
            await step(cluster, say)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from group
    except TimeoutError as error:
        raise StoryError("the step", f"its end within {DEADLINE:.0f} s", "no end") from error

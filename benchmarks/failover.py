"""How long a client waits when it turns to another replica: `python -m benchmarks --only failover`.

Three replicas and Postgres, all settings at their defaults. First what is quick and hurts nobody, one after the other:
questions and their answers, resumptions, cancellations. Then in each round of faults one replica is killed while it
runs a call, started again, and its listening connection cut while another replica publishes.
"""

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import anyio
import asyncpg
import httpx2

from benchmarks.client import WrongAnswerError
from benchmarks.failover_client import PATIENCE, Arrived, Client, Message
from benchmarks.failover_faults import Faults
from benchmarks.failover_report import FailoverResult, Times
from benchmarks.sides import LoadFailedError, RunningSide, Side, running
from mcpsession.postgres.pool import Connection
from mcpsession.settings import Settings

REPLICAS = ("A", "B", "C")

# Before anything is measured: first calls import, connect and plan.
WARMUP = 5

LOGGED = "SELECT 1 FROM mcpsession.streams WHERE session_id = $1 AND id = $2 AND last_seq >= $3"
FINISHED = "SELECT 1 FROM mcpsession.streams WHERE session_id = $1 AND id = $2 AND finished_at IS NOT NULL"
LOOK = 0.002


@dataclass(frozen=True)
class FailoverLoad:
    """How much is measured."""

    rounds: int
    answers: int
    """Pairs in a round: a question answered through the replica that asked, and one through another."""
    resumes: int
    """Pairs in a round: of a running call and of a finished one."""
    cancels: int
    """Pairs in a round, as answers."""
    kills: int
    news: int
    """Published while a listener is cut."""


async def measure_failover(url: str, load: FailoverLoad, say: Callable[[str], None]) -> FailoverResult:
    """Measure on a migrated database; `say` is told what comes next.

    Raises:
        WrongAnswerError: a client got something else than it was promised, or nothing.
        LoadFailedError: a replica could not do what it was told.
    """
    replicas = [
        Side(name, f"replica {name}", arguments=["benchmarks.failover_server:app"], env=_environment(url, name))
        for name in REPLICAS
    ]
    async with running(replicas) as sides, _connected(url) as connection, _telling(sides) as tell:
        turns = Turns(load, [side.process.url for side in sides], connection, tell, say)
        times = await turns.measure()
        kills, dropped, listening = await Faults(load.news, sides, connection, tell, say).measure(load.kills)
    settings = Settings()
    shown = {"beat": settings.beat, "dead_after": settings.dead_after, "poll": settings.poll}
    return FailoverResult(shown, times, kills, load.news, dropped, listening)


def _environment(url: str, label: str) -> Mapping[str, str]:
    return {"MCPSESSION_URL": url, "MCPSESSION_NAMESPACE": "failover", "MCPSESSION_LABEL": label}


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


Tell = Callable[..., Coroutine[Any, Any, float]]


@asynccontextmanager
async def _telling(sides: Sequence[RunningSide]) -> AsyncIterator[Tell]:
    """What one tells a replica, of this URL, to do, by name."""
    logs = {side.process.url: side for side in sides}
    async with httpx2.AsyncClient(timeout=PATIENCE, trust_env=False) as http:

        async def tell(url: str, what: str, *arguments: str | float) -> float:
            response = await http.post(f"{url}/{what}", json=arguments)
            if response.is_error:
                raise LoadFailedError(logs[url].side.title, f"{what}: {response.text}", logs[url].process.log)
            return float(response.json())

        yield tell


class Turns:
    """What nothing has to break for. A runs the calls, B is the other replica."""

    def __init__(
        self,
        load: FailoverLoad,
        urls: Sequence[str],
        connection: Connection,
        tell: Tell,
        say: Callable[[str], None],
    ) -> None:
        self._load = load
        self._a, self._b, *_ = urls
        self._connection = connection
        self._tell = tell
        self._say = say
        self._numbers = count()
        self._asked: list[float] = []

    async def measure(self) -> Mapping[str, Times]:
        """All of them, in rounds; those that are compared take turns within each."""
        client = await Client.open(self._a)
        try:
            await self._round(client, WARMUP, WARMUP, WARMUP)
            rounds: dict[str, list[Sequence[float]]] = defaultdict(list)
            for number in range(self._load.rounds):
                self._say(f"answers, resumptions and cancellations, round {number + 1} of {self._load.rounds}")
                load = self._load
                for name, times in (await self._round(client, load.answers, load.resumes, load.cancels)).items():
                    rounds[name].append(times)
        finally:
            client.close()
        return {name: Times(times) for name, times in rounds.items()}

    async def _round(self, client: Client, answers: int, resumes: int, cancels: int) -> Mapping[str, Sequence[float]]:
        times: dict[str, list[float]] = defaultdict(list)
        through = {"here": self._a, "elsewhere": self._b}
        for number in range(answers):
            for side in _order(["here", "elsewhere"], number):
                asked, answered = await self._answer(client, through[side])
                times["asked"].append(asked)
                times[f"answered {side}"].append(answered)
        for number in range(resumes):
            for side in _order(["running", "finished"], number):
                times[f"resumed {side}"].append(await self._resume(client, finished=side == "finished"))
        for number in range(cancels):
            for side in _order(["here", "elsewhere"], number):
                times[f"cancelled {side}"].append(await self._cancel(client, through[side]))
        return times

    async def _answer(self, client: Client, through: str) -> tuple[float, float]:
        """From the question's beginning to the client, and from the answer's to the call's result."""
        request_id, reply = await client.call(self._a, "ask")
        question = await reply.message(0)
        asked_at = float(question.message["params"]["message"])
        answer: Message = {"id": question.message["id"], "result": {"action": "accept", "content": {"answer": "yes"}}}
        began = time.monotonic()
        await client.tell(through, answer)
        final = await reply.final(request_id)
        expect(final, "accept yes", "an answer")
        return question.at - asked_at, final.at - began

    async def _resume(self, client: Client, *, finished: bool) -> float:
        """From the GET on B to the first event that was missed, which is in the log by then."""
        name = f"walk {next(self._numbers)}"
        request_id, reply = await client.call(self._a, "walk", name=name)
        await reply.message(0)
        cursor = reply.last_id
        client.cut(reply)
        gates = [f"{name}.step", f"{name}.end"] if finished else [f"{name}.step"]
        await self._tell(self._a, "open_gates", *gates)
        await self._logged(client.session_id, cursor, finished=finished)

        began = time.monotonic()
        resumed = await client.listen(self._b, cursor)
        missed = await resumed.message(0)
        if missed.message.get("params", {}).get("progress") != 2:
            raise WrongAnswerError("the rest of a call", resumed)
        if not finished:
            await self._tell(self._a, "open_gates", f"{name}.end")
        expect(await resumed.final(request_id), "walked", "the rest of a call")
        return missed.at - began

    async def _logged(self, session_id: str, cursor: str, *, finished: bool) -> None:
        """Wait until what the client is to miss is in the log; otherwise its way there would be measured, too."""
        stream_id, _, seq = cursor.rpartition(".")
        query, arguments = (FINISHED, []) if finished else (LOGGED, [int(seq) + 1])
        with anyio.fail_after(PATIENCE):
            while not await self._connection.fetch(query, session_id, stream_id, *arguments):  # noqa: ASYNC110
                await anyio.sleep(LOOK)

    async def _cancel(self, client: Client, through: str) -> float:
        """From the cancellation to the end of the tool on A."""
        name = f"hang {next(self._numbers)}"
        request_id, reply = await client.call(self._a, "hang", name=name)
        await reply.message(0)
        began = time.monotonic()
        await client.tell(through, {"method": "notifications/cancelled", "params": {"requestId": request_id}})
        stopped_at = await self._tell(self._a, "stopped", name)
        final = await reply.final(request_id)
        if "error" not in final.message:
            raise WrongAnswerError("a cancelled call", final.message)
        return stopped_at - began


def expect(final: Arrived, text: str, asked: str) -> None:
    """Raise WrongAnswerError unless it is this result."""
    result = final.message.get("result")
    if not result or result.get("isError") or result["content"][0]["text"] != text:
        raise WrongAnswerError(asked, final.message)


def _order(sides: Sequence[str], number: int) -> Sequence[str]:
    """The order turns round: a machine that gets slower is fair to both."""
    return sides if number % 2 == 0 else sides[::-1]

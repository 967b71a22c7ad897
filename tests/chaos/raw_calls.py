"""Raw clients: each call goes to a replica of their choice, is cut now and then, resumed elsewhere, and kept whole."""

from __future__ import annotations

import math
import random
import time

import anyio
import anyio.abc
import httpx2

from examples.cluster import Cluster
from tests.chaos.closing import close_session
from tests.chaos.plans import Plan, Planned
from tests.chaos.records import Call, Hearing, Outcome, Tally
from tests.chaos.stage import Stage, frames_of
from tests.cluster.client import Client, Message, Stream

# How likely a connection is to be cut, and after how many frames.
CUT = 0.5
CUT_AFTER = (1, 40)
# Seconds before a client comes back.
RETRY = (0.0, 0.5)
# A server that is away says so in one of these; a client that comes back is served then.
AWAY = (500, 502, 503)


class RawCaller:
    """One client with one session for the whole run."""

    def __init__(self, name: str, cluster: Cluster, http: httpx2.AsyncClient, stage: Stage) -> None:
        self._name = f"raw {name}"
        self._cluster = cluster
        self._http = http
        self._stage = stage
        self._chance = stage.chance(self._name)
        self._client = Client(http)
        self._tally = Tally(self._name)
        # Nobody listens here; what its calls tell is another client's concern.
        self._hearing = Hearing(self._name, 0.0, everything=False)
        self._answered: set[str] = set()
        self.cuts = 0
        self.resumed = 0

    async def run(self) -> None:
        await begin_session(self._client, self._chance)
        self._stage.records.tallies.append(self._tally)
        plan, number = Plan(self._chance), 0
        mine: list[Call] = []
        async with anyio.create_task_group() as answering:
            while not self._stage.stop.is_set():
                number += 1
                planned = plan.next(f"{self._name}.{number}")
                mine.append(await self._call(planned, answering))
                await self._stage.rest(plan.thinks())
            answering.cancel_scope.cancel()
        for call in mine:
            await self._read_again(call)
        await close_session(self._http, self._client.session_id, self._tally, self._chance)

    async def _call(self, planned: Planned, answering: anyio.abc.TaskGroup) -> Call:
        call = Call(planned.tag, planned.tool, time.monotonic(), steps=planned.steps, frames=[])
        self._stage.records.calls.append(call)
        call.replica = self._chance.randrange(len(self._cluster.replicas))
        async with self._client.calling(planned.tool, planned.arguments, replica=call.replica) as stream:
            await self._follow(stream, call, answering)
        if call.ended is None and not call.frames:
            why = stream.body.decode(errors="replace") if stream.status >= 400 else repr(stream.error)
            self._end(call, "error", f"{stream.status or 'no'} answer: {why}")
        while call.ended is None:
            await self._resume(call, answering)
        planned.note(call, self._tally, self._hearing)
        return call

    async def _resume(self, call: Call, answering: anyio.abc.TaskGroup) -> None:
        await anyio.sleep(self._chance.uniform(*RETRY))
        assert call.frames
        cursor, replica = call.frames[-1][0], self._chance.randrange(len(self._cluster.replicas))
        self.resumed += 1
        async with self._client.listening(cursor, replica=replica) as stream:
            await self._follow(stream, call, answering)
        if call.ended is None and stream.status not in (0, 200, *AWAY):
            call.lost = f"its resumption after {cursor} was refused: {stream.status} {stream.body.decode()}"
            self._end(call, "error", call.lost)

    async def _follow(self, stream: Stream, call: Call, answering: anyio.abc.TaskGroup) -> None:
        """Take what comes, to the end or to a cut."""
        cut_after = self._chance.randint(*CUT_AFTER) if self._chance.random() < CUT else math.inf
        assert call.frames is not None
        began = len(call.frames)
        async for frame in frames_of(stream):
            if frame.id is not None:
                call.frames.append((frame.id, frame.data or ""))
            if message := frame.message:
                self._take(call, message, answering)
            if call.ended is not None:
                return
            if len(call.frames) - began >= cut_after:
                self.cuts += 1
                return

    def _take(self, call: Call, message: Message, answering: anyio.abc.TaskGroup) -> None:
        match message:
            case {"method": "notifications/progress", "params": params}:
                call.progress.append(int(params["progress"]))
                call.says(params.get("message"))
            case {"method": _, "id": str(question)} if question not in self._answered:
                self._answered.add(question)
                answering.start_soon(self._answer, message)
            case {"result": result}:
                text = "".join(part.get("text", "") for part in result["content"])
                self._end(call, "error" if result.get("isError") else "result", text)
            case {"error": error}:
                self._end(call, "error", error["message"])

    def _end(self, call: Call, outcome: Outcome, words: str) -> None:
        call.end(outcome, words, time.monotonic())

    async def _answer(self, question: Message) -> None:
        """Answer through any replica, until one has taken the answer or nobody waits for it any more."""
        params = question["params"]
        if question["method"] == "elicitation/create":
            result = {"action": "accept", "content": {"answer": params["message"].upper()}}
        else:
            text = params["messages"][0]["content"]["text"].upper()
            result = {"role": "assistant", "model": "chaos", "content": {"type": "text", "text": text}}
        while True:
            try:
                response = await self._client.answer(question["id"], result)
            except httpx2.HTTPError:
                pass
            else:
                if response.status_code not in AWAY:
                    return
            await anyio.sleep(self._chance.uniform(*RETRY))

    async def _read_again(self, call: Call) -> None:
        """The whole stream once more, from any replica, when nothing is written to it any more."""
        if not call.frames or call.lost or call.ended is None:
            return
        while call.again is None:
            async with self._client.listening(call.frames[0][0]) as stream:
                await stream.end(math.inf)
            if stream.finals:
                call.again = [frame.data for frame in stream.frames if frame.data]
            elif stream.status in (0, 200, *AWAY):
                await anyio.sleep(self._chance.uniform(*RETRY))
            else:
                call.again = []


async def begin_session(client: Client, chance: random.Random) -> None:
    """A session, however often one must ask for it."""
    while not client.session_id:
        try:
            await client.initialize()
        except (AssertionError, httpx2.HTTPError):
            client.session_id = ""
            await anyio.sleep(chance.uniform(*RETRY))

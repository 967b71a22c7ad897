"""Raw clients that only listen, and the one that publishes what all are to hear."""

from __future__ import annotations

import math
import time

import anyio
import httpx2

from examples.cluster import Cluster
from tests.chaos.closing import close_session
from tests.chaos.raw_calls import begin_session
from tests.chaos.records import KIND_CUSTOM, KIND_OWN, KIND_TOOLS, Heard, Hearing, Published, Tally
from tests.chaos.server import METHODS
from tests.chaos.stage import Stage, frames_of
from tests.cluster.client import Client, Message, Stream

# Seconds that a stream is held before its client cuts it, that it waits before it comes back, and between two news.
HELD = (2.0, 20.0)
RETRY = (0.1, 1.0)
BETWEEN_NEWS = (0.2, 1.5)
BETWEEN_TELLS = (0.0, 0.6)
KINDS = {method: kind for kind, method in METHODS.items()}


class Listener:
    """One session's standalone stream, now on this replica, now on that one; it tells itself a number now and then."""

    def __init__(self, name: str, cluster: Cluster, http: httpx2.AsyncClient, stage: Stage) -> None:
        self._cluster = cluster
        self._http = http
        self._stage = stage
        self._chance = stage.chance(f"listener {name}")
        self._client = Client(http)
        self._hearing = Hearing(f"listener {name}", 0.0, everything=True)
        self._cursor: str | None = None
        self._connection = 0
        self.refused: dict[int, int] = {}
        """How often a stream was refused, by status."""

    async def run(self) -> None:
        await begin_session(self._client, self._chance)
        self._hearing.since = time.monotonic()
        self._hearing.listening = True
        self._stage.records.hearings.append(self._hearing)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._tell)
            tasks.start_soon(self._listen)
            await self._stage.leave.wait()
            tasks.cancel_scope.cancel()
        # Its state is empty: what is looked at is that the session is there, and ends.
        await close_session(self._http, self._client.session_id, Tally(self._hearing.listener), self._chance)

    async def _listen(self) -> None:
        while True:
            self._connection += 1
            replica = self._chance.randrange(len(self._cluster.replicas))
            async with self._client.listening(self._cursor, replica=replica) as stream:
                with anyio.move_on_after(self._chance.uniform(*HELD)):
                    await self._follow(stream)
            if stream.status not in (0, 200):
                self.refused[stream.status] = self.refused.get(stream.status, 0) + 1
            await anyio.sleep(self._chance.uniform(*RETRY))

    async def _follow(self, stream: Stream) -> None:
        async for frame in frames_of(stream):
            self._cursor = frame.id or self._cursor
            if message := frame.message:
                self._take(message)

    def _take(self, message: Message) -> None:
        match message:
            case {"method": "notifications/message", "params": {"data": int(number)}}:
                self._heard(KIND_OWN, number)
            case {"method": method, "params": {"_meta": {"number": number}}} if method in KINDS:
                self._heard(KINDS[method], number)

    def _heard(self, kind: str, number: int) -> None:
        self._hearing.heard.append(Heard(kind, number, self._connection))

    async def _tell(self) -> None:
        number = 0
        while not self._stage.stop.is_set():
            number += 1
            tag = f"{self._hearing.listener}.{number}"
            answered = await was_answered(self._client, "tell", {"tag": tag, "number": number})
            self._hearing.told.append((number, answered))
            await self._stage.rest(self._chance.uniform(*BETWEEN_TELLS))


class Publisher:
    """Publishes numbered news through any replica, one after the other."""

    def __init__(self, http: httpx2.AsyncClient, stage: Stage) -> None:
        self._stage = stage
        self._chance = stage.chance("publisher")
        self._client = Client(http)
        self._numbers = {KIND_TOOLS: 0, KIND_CUSTOM: 0}
        self.done = False
        """Whether the last of each kind, which everyone must hear in the end, is published."""

    async def run(self) -> None:
        await begin_session(self._client, self._chance)
        while not self._stage.stop.is_set():
            await self._publish(self._chance.choice(list(self._numbers)))
            await self._stage.rest(self._chance.uniform(*BETWEEN_NEWS))
        for kind in self._numbers:
            while not await self._publish(kind):  # noqa: ASYNC110 (nothing tells when somebody serves again)
                await anyio.sleep(self._chance.uniform(*RETRY))
        self.done = True

    async def _publish(self, kind: str) -> bool:
        self._numbers[kind] += 1
        number, began = self._numbers[kind], time.monotonic()
        tag = f"news {kind} {number}"
        answered = await was_answered(self._client, "publish", {"tag": tag, "kind": kind, "number": number})
        self._stage.records.published.append(Published(kind, number, answered, began))
        return answered


async def was_answered(client: Client, tool: str, arguments: Message) -> bool:
    """Call a tool; whether its result came, in this very response."""
    async with client.calling(tool, arguments) as stream:
        await stream.end(math.inf)
    return bool(stream.finals) and "result" in stream.finals[0] and not stream.finals[0]["result"].get("isError")

"""What breaks in the fail-over benchmark, round after round: a replica is killed, a listening connection cut."""

import random
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import anyio

from benchmarks.client import WrongAnswerError
from benchmarks.failover_client import Client
from benchmarks.failover_report import CatchUp, Kill
from benchmarks.sides import RunningSide
from mcpsession.postgres.pool import Connection
from mcpsession.settings import Settings

CUT = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = $1 AND query LIKE 'LISTEN %'
"""


class Faults:
    """One replica after the other is the one that suffers."""

    def __init__(
        self,
        news: int,
        sides: Sequence[RunningSide],
        connection: Connection,
        tell: Callable[..., Coroutine[Any, Any, float]],
        say: Callable[[str], None],
    ) -> None:
        self._news = news
        self._sides = sides
        self._connection = connection
        self._tell = tell
        self._say = say

    async def measure(self, rounds: int) -> tuple[Sequence[Kill], Sequence[CatchUp], Sequence[CatchUp]]:
        """Kills, and catch-ups after a cut and without one."""
        kills, dropped, listening = [], [], []
        for number in range(rounds):
            self._say(f"kill -9 and a cut listener, {number + 1} of {rounds}")
            first = number % len(self._sides)
            victim, other, third = (*self._sides[first:], *self._sides[:first])
            # Beats come every second, and a kill anywhere between two.
            await anyio.sleep(random.uniform(0.0, Settings().beat))
            kills.append(await self._kill(victim, other.process.url, third.process.url))
            victim.process.start()
            await victim.process.ready()
            # A listener that was never cut: one that is cut again and again waits longer before it comes back.
            without, after = await self._catch_up(victim, other.process.url)
            listening.append(without)
            dropped.append(after)
        return kills, dropped, listening

    async def _kill(self, victim: RunningSide, other: str, third: str) -> Kill:
        client = await Client.open(victim.process.url)
        finals: list[float] = []
        nexts: list[float] = []

        async def resume() -> None:
            await reply.until(lambda: reply.ended)
            resumed = await client.listen(other, reply.last_id)
            final = await resumed.final(request_id)
            if "error" not in final.message or len(resumed.arrived) != 1:
                raise WrongAnswerError("the call of a killed replica", resumed)
            finals.append(final.at)

        async def go_on() -> None:
            next_id, answer = await client.call(third, "echo", text="alive")
            final = await answer.final(next_id)
            if "result" not in final.message:
                raise WrongAnswerError("the next call", answer)
            nexts.append(final.at)

        try:
            request_id, reply = await client.call(victim.process.url, "hang", name="killed")
            await reply.message(0)
            killed_at = time.monotonic()
            await victim.process.kill()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(resume)
                tasks.start_soon(go_on)
        finally:
            client.close()
        return Kill(finals[0] - killed_at, nexts[0] - killed_at)

    async def _catch_up(self, victim: RunningSide, publisher: str) -> tuple[CatchUp, CatchUp]:
        client = await Client.open(publisher)
        try:
            stream = await client.listen(victim.process.url)
            await stream.until(lambda: b"id: " in stream.body)
            heard = 0
            catch_ups = []
            # The first is for practice: first calls import, connect and plan.
            for cut in (False, False, True):
                began = time.monotonic()
                if cut:
                    await self._cut(victim)
                publishing = await self._tell(publisher, "publish", client.session_id, self._news)
                heard += self._news
                last = await stream.message(heard - 1)
                numbers = [one.message["params"]["data"] for one in stream.arrived[heard - self._news :]]
                if sorted(numbers) != list(range(self._news)):
                    raise WrongAnswerError(f"{self._news} news", stream)
                catch_ups.append(CatchUp(last.at - began, publishing))
        finally:
            client.close()
        return catch_ups[1], catch_ups[2]

    async def _cut(self, victim: RunningSide) -> None:
        cut = await self._connection.fetch(CUT, f"mcpsession {victim.side.key}")
        if len(cut) != 1:
            raise WrongAnswerError(f"the listener of {victim.side.title}", cut)

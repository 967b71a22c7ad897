"""Clients that keep a cluster busy, and remember what they were told: calls that tick, and counts that must add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count

import anyio
import httpx2

from examples.cluster import Cluster
from tests.cluster.client import Client, Stream, text_of
from tests.cluster.conftest import until
from tests.cluster.promises import numbers

PAUSE = 0.05


class Load:
    """A client that calls on every replica, until it is told to stop."""

    def __init__(self, cluster: Cluster, http: httpx2.AsyncClient) -> None:
        self._cluster = cluster
        self._ids = count(1)
        self.client = Client(http)
        self.ticking: list[tuple[int, int, Stream]] = []
        """On which replica, how many ticks, and what came."""
        self.counted: Counter[str] = Counter()
        """Of each key, the calls that were answered with a result."""
        self.unsure: Counter[str] = Counter()
        """And those that were answered with an error."""
        self.refused = 0
        """Those that were not taken."""
        self._over = False
        self._counting = 0

    @property
    def keys(self) -> list[str]:
        return [f"on-{replica}" for replica in range(len(self._cluster.replicas))]

    async def count_on(self, replica: int) -> None:
        key = self.keys[replica]
        self._counting += 1
        while not self._over:
            async with self.client.calling("count", {"key": key}, id=f"n{next(self._ids)}", replica=replica) as stream:
                await stream.end(60)
            if stream.status == 503:
                self.refused += 1
            else:
                assert (200, 1) == (stream.status, len(stream.finals)), stream
                result = stream.finals[0].get("result", {"isError": True})
                (self.unsure if result.get("isError") else self.counted)[key] += 1
            await anyio.sleep(PAUSE)
        self._counting -= 1

    def stop(self) -> None:
        self._over = True

    async def proven(self) -> None:
        """Every tick came once and in order, every call has ended, and every count that was confirmed counts."""
        self.stop()
        for replica, ticks, stream in self.ticking:
            await stream.end(60)
            assert [f"ticked {ticks} on {replica}"] == [text_of(final) for final in stream.finals]
            assert list(range(1, ticks + 1)) == stream.steps
            assert list(range(ticks + 2)) == numbers(stream)
        await until(lambda: not self._counting, within=60)
        for key in self.keys:
            assert self.counted[key] > 0
            found = int(await self.client.call("count", {"key": key}, replica=0)) - 1
            assert self.counted[key] <= found <= self.counted[key] + self.unsure[key], (
                *(key, found, self.counted, self.unsure),
            )


@asynccontextmanager
async def loaded(cluster: Cluster, http: httpx2.AsyncClient, *, ticks: Mapping[float, int]) -> AsyncIterator[Load]:
    """Busy while inside: on each replica calls that tick (seconds between two: how many), and one that counts."""
    load = Load(cluster, http)
    await load.client.initialize()
    async with AsyncExitStack() as stack:
        for replica in range(len(cluster.replicas)):
            for every, steps in ticks.items():
                arguments = {"steps": steps, "every": every}
                calling = load.client.calling("tick", arguments, id=f"t{next(load._ids)}", replica=replica)
                load.ticking.append((replica, steps, await stack.enter_async_context(calling)))
        for _, _, stream in load.ticking:
            await stream.until(lambda stream=stream: stream.steps)  # type: ignore[misc]
        tasks = await stack.enter_async_context(anyio.create_task_group())
        for replica in range(len(cluster.replicas)):
            tasks.start_soon(load.count_on, replica)
        try:
            yield load
        finally:
            load.stop()

"""What all clients of a run share."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator

import anyio

from tests.chaos.records import Records
from tests.cluster.client import Frame, Stream


class Stage:
    """A run in three parts: everyone calls; then nobody begins anything new; then everyone leaves."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.records = Records()
        self.stop = anyio.Event()
        self.leave = anyio.Event()

    def chance(self, name: str) -> random.Random:
        """Its own for each client: what one draws does not depend on how fast another is."""
        return random.Random(f"{self.seed} {name}")

    async def rest(self, seconds: float) -> None:
        """Wait, but no longer than until nothing new is to begin."""
        with anyio.move_on_after(seconds):
            await self.stop.wait()


async def frames_of(stream: Stream) -> AsyncIterator[Frame]:
    """The frames of a response as they come, to its end."""
    taken = 0

    def more() -> bool:
        return stream.ended or len(stream.frames) > taken

    while True:
        await stream.until(more, math.inf)
        if taken == len(stream.frames):
            return
        taken += 1
        yield stream.frames[taken - 1]

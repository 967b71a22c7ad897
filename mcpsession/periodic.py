"""The loops behind every background job."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from typing import NoReturn

import anyio

from mcpsession.errors import StoreUnavailableError

logger = logging.getLogger(__name__)


async def every(interval: float, job: Callable[[], Awaitable[object]], *, name: str, jitter: float = 0.1) -> NoReturn:
    """Run `job` about every `interval` seconds, the first time after one interval, until cancelled."""
    while True:
        # Replicas started together must not all hit the database together.
        await anyio.sleep(interval * random.uniform(1 - jitter, 1 + jitter))
        try:
            await job()
        except Exception as error:  # the boundary: a job must not end the loop
            log_failure(logger, error, f"{name} failed, next run in about {interval:.0f} s")


async def patiently(
    job: Callable[[], Awaitable[object]], *, name: str, first: float = 0.1, longest: float = 5.0
) -> NoReturn:
    """Run a job that should never end; when it fails, run it again after a jittered, growing pause."""
    pause = first
    while True:
        began = anyio.current_time()
        try:
            await job()
        except Exception as error:  # the boundary: whatever ends a service once must not end it for good
            log_failure(logger, error, f"{name} stopped, starts again in about {pause:.1f} s")
        if anyio.current_time() - began > longest:
            pause = first
        await anyio.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(pause * 2, longest)


def log_failure(logger: logging.Logger, error: Exception, text: str) -> None:
    """Log what must not end a loop.

    Where nothing but the store is away, a traceback says no more, and costs: the SDK has logs drawn by rich where that
    is installed, and one traceback then holds the event loop up for a second.
    """
    if isinstance(error, StoreUnavailableError):
        logger.warning("%s: %s", text, error)
    else:
        logger.exception("%s", text)


class Alarm:
    """Wakes a job. A level, not an edge: rung while the job runs, it runs once more."""

    def __init__(self) -> None:
        self._rung = anyio.Event()

    def ring(self) -> None:
        self._rung.set()

    async def answer(self, job: Callable[[], Awaitable[object]]) -> NoReturn:
        """Run `job` whenever it was rung, until it fails: what it was rung for then waits for the next to answer."""
        while True:
            await self._rung.wait()
            self._rung = anyio.Event()
            try:
                await job()
            except BaseException:
                self._rung.set()
                raise

"""One turn of one side: workers that do an operation again and again, and what that measured."""

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass

import anyio

from benchmarks.load import percentile


@dataclass(frozen=True)
class Turn:
    """What one side did in one turn. Seconds."""

    done: int
    seconds: float
    p50: float
    p99: float
    slowest: float
    cpu: float
    """CPU time of this process, which is the client of Postgres; Postgres has its own."""

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.done / self.seconds


async def work(
    operation: Callable[[str], Awaitable[None]], session_ids: Iterable[str], *, at_once: int, seconds: float
) -> Turn:
    """Do the operation with one session after the other, until the time or the ids are up."""
    latencies: list[float] = []
    # One iterator for all: no two of them have the same session at the same time.
    waiting = iter(session_ids)
    cpu, start = time.process_time(), time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(at_once):
            tasks.start_soon(_work, operation, waiting, start + seconds, latencies)
    return _turn(latencies, len(latencies), time.perf_counter() - start, time.process_time() - cpu)


async def whole(operation: Callable[[int], Awaitable[None]], number: int, *, times: int, counted: int) -> Turn:
    """Do one large operation some times over; each counts as `counted`."""
    latencies: list[float] = []
    cpu, start = time.process_time(), time.perf_counter()
    for _ in range(times):
        began = time.perf_counter()
        await operation(number)
        latencies.append(time.perf_counter() - began)
    return _turn(latencies, times * counted, time.perf_counter() - start, time.process_time() - cpu)


async def _work(
    operation: Callable[[str], Awaitable[None]], waiting: Iterator[str], until: float, latencies: list[float]
) -> None:
    clock = time.perf_counter
    for session_id in waiting:
        start = clock()
        await operation(session_id)
        end = clock()
        latencies.append(end - start)
        if end >= until:
            return


def _turn(latencies: list[float], done: int, seconds: float, cpu: float) -> Turn:
    ascending = sorted(latencies)
    p50, p99 = percentile(ascending, 0.50), percentile(ascending, 0.99)
    return Turn(done, seconds, p50, p99, ascending[-1], cpu)

"""How fast news travels, beside a bare pg_notify: `python -m benchmarks --only news`.

Replica A publishes, a client of replica B hears: three processes and Postgres. All are up for the whole run and take
turns, those that are compared one right after the other.
"""

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import httpx2

from benchmarks.load import percentile
from benchmarks.news_appends import Appends
from benchmarks.news_busy import Busy, busy
from benchmarks.news_ears import Ear, NewsLostError, listening, reading, streaming
from benchmarks.news_idle import Idle, backends_of, cpu_of, measure_idle
from benchmarks.news_report import Latency, NewsResult, Rate
from benchmarks.sides import LoadFailedError, RunningSide, Side, running

REPLICAS = ("A", "B")
WRITERS = 16
AT_ONCE = (1, 16)
# Publications a second while the writers write.
PUBLISHED_MEANWHILE = 50
# Pairs of turns in a round: what else the machine does changes from second to second.
APPEND_PAIRS = 4

# Seconds between two that are measured: each is alone on its way.
PAUSE = 0.005
WARMUP = 50
SETTLED = 3.0

# Seconds for one thing that a replica is told to do.
PATIENCE = 120.0


@dataclass(frozen=True)
class NewsLoad:
    """How much is measured."""

    times: int
    """Publications in one turn of latencies."""
    seconds: float
    """Of a turn of everything else."""
    idle: float
    """Seconds that idle replicas are watched."""
    rounds: int
    same: bool = False
    """The raw side against itself, and no news while the writers write."""


async def measure_news(url: str, load: NewsLoad, say: Callable[[str], None]) -> NewsResult:
    """Measure on a migrated database; `say` is told what comes next.

    Raises:
        NewsLostError: something that was published was not heard once.
        LoadFailedError: a replica could not do what it was told.
    """
    replicas = [
        Side(name, f"replica {name}", arguments=["benchmarks.news_server:app"], env=_environment(url, name))
        for name in REPLICAS
    ]
    async with running(replicas) as [a, b], _told(a) as tell_a, _told(b) as tell_b:
        bench = Bench(url, load, a, b, tell_a, tell_b, say)
        idle = await bench.idle()
        latencies = await bench.latencies()
        published, followed, caught_up = await bench.rates()
        appends, cpu = await bench.appends()
    return NewsResult(
        load.rounds, load.seconds, latencies, published, followed, caught_up, idle, appends, cpu, load.same
    )


def _environment(url: str, label: str) -> Mapping[str, str]:
    return {"MCPSESSION_URL": url, "MCPSESSION_NAMESPACE": "bench", "MCPSESSION_LABEL": label}


Tell = Callable[..., Coroutine[Any, Any, Any]]


@asynccontextmanager
async def _told(side: RunningSide) -> AsyncIterator[Tell]:
    """What one tells a replica to do, by name."""
    async with httpx2.AsyncClient(base_url=side.process.url, timeout=PATIENCE, trust_env=False) as http:

        async def tell(what: str, **arguments: float) -> Any:
            response = await http.post(f"/{what}", json=arguments)
            if response.is_error:
                raise LoadFailedError(side.side.title, f"{what}: {response.text}", side.process.log)
            return response.json()

        yield tell


class Bench:
    """Both replicas, and the order in which they are told what."""

    def __init__(
        self,
        url: str,
        load: NewsLoad,
        a: RunningSide,
        b: RunningSide,
        tell_a: Tell,
        tell_b: Tell,
        say: Callable[[str], None],
    ) -> None:
        self._url = url
        self._load = load
        self._processes = [a.process, b.process]
        self._tell_a = tell_a
        self._tell_b = tell_b
        self._say = say

    async def idle(self) -> Idle:
        """Before anything else: nothing is there yet that would have to be cleared away."""
        self._say(f"two idle replicas, {self._load.idle:g} s")
        # What they do at their start is not what they do for ever.
        await anyio.sleep(min(SETTLED, self._load.idle))
        return await measure_idle(self._url, self._pids, self._load.idle)

    async def latencies(self) -> Mapping[str, Sequence[Latency]]:
        """From a publication on A to its bytes at a client of B; from a pg_notify in A to here; and from the insert of
        a row with its pg_notify to here, with the row."""
        async with AsyncExitStack() as stack:
            ears = {
                "notify": await stack.enter_async_context(listening(self._url)),
                "store": await stack.enter_async_context(reading(self._url)),
            }
            if not self._load.same:
                ears["publish"] = await stack.enter_async_context(streaming(f"{self._b_url}/mcp"))
            turns: dict[str, list[Latency]] = {side: [] for side in ("publish", *ears)}
            for number in range(-1, self._load.rounds):
                for side in _order(list(turns), number):
                    self._say(f"latency, round {number + 1} of {self._load.rounds}: {side}")
                    tell = "notify" if self._load.same and side == "publish" else side
                    times = self._load.times if number >= 0 else WARMUP
                    latency = await self._latency(tell, ears[tell], times)
                    if number >= 0:
                        turns[side].append(latency)
        return turns

    async def rates(self) -> tuple[Mapping[int, Sequence[Rate]], Sequence[Rate], Sequence[Rate]]:
        """Publications a second, of how many at once; and how many a subscriber of B follows, from the first to the
        last: while they are published, and when all of them wait for it."""
        published: dict[int, list[Rate]] = {at_once: [] for at_once in AT_ONCE}
        followed: list[Rate] = []
        caught_up: list[Rate] = []
        # At least one of each: those heard meanwhile, and those heard later.
        for number in range(max(2, self._load.rounds)):
            for at_once in AT_ONCE:
                self._say(f"publishing, {at_once} at once, round {number + 1} of {self._load.rounds}")
                rate, heard = await self._publish_fast(at_once, later=number % 2 == 1)
                published[at_once].append(rate)
                if at_once == max(AT_ONCE):
                    (caught_up if number % 2 == 1 else followed).append(heard)
        return published, followed, caught_up

    async def appends(self) -> tuple[Mapping[str, Sequence[float]], float]:
        """Events a second of all writers, while A publishes and B hears; while both replicas stand still; and while
        they do so and something else takes as much CPU time as they took. Also how much that is, in a second."""
        turns: dict[str, list[float]] = {"with": [], "without": [], "busy": []}
        seconds = self._load.seconds / APPEND_PAIRS
        async with Appends.running(self._url, WRITERS) as appends:
            await appends.turn(seconds)
            cpu = await self._cpu_of_news(appends)
            with busy(min(cpu, 0.9)) as other:
                for number in range(APPEND_PAIRS * self._load.rounds):
                    for side in _order(list(turns), number):
                        self._say(f"appends {side}, {number + 1} of {APPEND_PAIRS * self._load.rounds}")
                        async with self._beside(side, other):
                            turns[side].append(await appends.turn(seconds))
        return turns, cpu

    async def _cpu_of_news(self, appends: Appends) -> float:
        """CPU seconds that A, B and what works for them in Postgres take in a second, while appends go on."""
        pids = [*self._pids, *await backends_of(self._url, REPLICAS)]
        async with self._published():
            before = cpu_of(pids)
            await appends.turn(self._load.seconds)
            return (cpu_of(pids) - before) / self._load.seconds

    @asynccontextmanager
    async def _beside(self, side: str, other: Busy) -> AsyncIterator[None]:
        if side == "with" and not self._load.same:
            async with self._published():
                yield
        else:
            async with self._still():
                with other.working() if side == "busy" else nullcontext():
                    yield

    @property
    def _pids(self) -> Sequence[int]:
        return [process.pid for process in self._processes]

    @property
    def _b_url(self) -> str:
        return self._processes[1].url

    async def _latency(self, side: str, ear: Ear, times: int) -> Latency:
        await self._tell_a(side, times=times, pause=PAUSE)
        latencies = sorted(await ear.take(times))
        return Latency(times, percentile(latencies, 0.50), percentile(latencies, 0.99), latencies[-1])

    async def _publish_fast(self, at_once: int, *, later: bool) -> tuple[Rate, Rate]:
        """What A published and a subscriber of B heard of it, meanwhile or later."""
        heard: list[Rate] = []

        async def follow() -> None:
            heard.append(Rate(**await self._tell_b("follow")))

        await self._tell_b("subscribe")
        async with anyio.create_task_group() as tasks:
            if not later:
                tasks.start_soon(follow)
            published = Rate(**await self._tell_a("publish_fast", at_once=at_once, seconds=self._load.seconds))
            if later:
                tasks.start_soon(follow)
        if heard[0].done != published.done:
            raise NewsLostError("follow", heard[0].done, published.done)
        return published, heard[0]

    @asynccontextmanager
    async def _published(self) -> AsyncIterator[None]:
        """A publishes while inside."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(self._tell_a, "publish_on", pause=1 / PUBLISHED_MEANWHILE))
            try:
                yield
            finally:
                await self._tell_a("stop")

    @asynccontextmanager
    async def _still(self) -> AsyncIterator[None]:
        """No replica runs while inside."""
        for process in self._processes:
            process.pause()
        try:
            yield
        finally:
            for process in self._processes:
                process.resume()


def _order(sides: Sequence[str], number: int) -> Sequence[str]:
    """The order turns round: a machine that gets slower is fair to both."""
    return sides if number % 2 == 0 else sides[::-1]

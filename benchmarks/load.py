"""The load generator, a process of its own: `python -m benchmarks.load --url URL`; prints one sample as JSON.

A closed loop: each session calls the tool, waits for the whole response, checks it, and calls again. With `--rate` an
open one: calls are due at times that were drawn before, and a latency counts from then, whoever was late.
"""

import argparse
import asyncio
import json
import os
import selectors
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import psutil

from benchmarks.arrivals import arrivals
from benchmarks.client import ClientSession
from examples.replica import end_with_parent

# Seconds that a run may take beyond its load before it counts as hung.
PATIENCE = 30.0

# Seconds from now to the first call that is due: all workers wait for it.
LEAD = 0.05


@dataclass(frozen=True)
class Sample:
    """What one run of the load measured."""

    calls: int
    seconds: float
    p50: float
    p99: float
    slowest: float
    load_cpu: float
    """CPU seconds of the load generator in the measured time."""
    cpu: Mapping[str, float]
    """CPU seconds of each watched process and its children in the measured time."""
    lag: float = 0.0
    """Of an open loop, p99: seconds between the time a call was due and its sending, where a session was free."""
    held_back: int = 0
    """Of an open loop: calls that were due while every session waited for an answer."""

    @property
    def rate(self) -> float:
        """Tool calls per second."""
        return self.calls / self.seconds

    @property
    def load_share(self) -> float:
        """CPU seconds of the load generator per second."""
        return self.load_cpu / self.seconds


class Clock:
    """Latencies of the calls that ended in the measured time of a closed loop."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.measuring = False
        self.stopped = False


class Timetable:
    """What became of the calls that were due in the measured time of an open loop."""

    def __init__(self, begins: float) -> None:
        self.begins = begins
        self.latencies: list[float] = []
        self.lags: list[float] = []
        self.held_back = 0
        self.waiting = 0
        """Sessions that nothing is due for."""


class Watch:
    """CPU time of this process and of others from `begin` on."""

    def __init__(self, watched: Mapping[str, int]) -> None:
        self._watched = watched

    def begin(self) -> None:
        self._before = self._cpu()
        self._own, self._start = time.process_time(), time.perf_counter()

    def end(self) -> tuple[float, float, dict[str, float]]:
        """Seconds that passed, CPU seconds of this process, and those of the others."""
        own, elapsed = time.process_time() - self._own, time.perf_counter() - self._start
        return elapsed, own, {name: after - self._before[name] for name, after in self._cpu().items()}

    def _cpu(self) -> dict[str, float]:
        return {name: _cpu_of(psutil.Process(pid)) for name, pid in self._watched.items()}


async def measure(
    url: str, *, tool: str, sessions: int, seconds: float, warmup: float, watched: Mapping[str, int]
) -> Sample:
    """Open the sessions, warm up, measure in a closed loop, and end the sessions."""
    clock, watch = Clock(), Watch(watched)
    clients = await asyncio.gather(*(ClientSession.open(url) for _ in range(sessions)))
    async with asyncio.TaskGroup() as tasks:
        for number, client in enumerate(clients):
            tasks.create_task(_call_in_a_loop(client, number, tool, clock))
        await asyncio.sleep(warmup)
        watch.begin()
        clock.measuring = True
        await asyncio.sleep(seconds)
        clock.measuring = False
        elapsed, own, cpu = watch.end()
        clock.stopped = True
    await asyncio.gather(*(client.close() for client in clients))
    return _sample(clock.latencies, elapsed, own, cpu)


async def measure_at_rate(
    url: str,
    *,
    tool: str,
    sessions: int,
    seconds: float,
    warmup: float,
    watched: Mapping[str, int],
    rate: float,
    seed: int,
) -> Sample:
    """Open the sessions, send `rate` calls a second as independent clients would, and end the sessions.

    What is due in the measured time is waited for, however late it comes: an answer that takes long must not save the
    server from the calls that would have come meanwhile, and must not vanish from the latencies either.
    """
    watch = Watch(watched)
    clients = await asyncio.gather(*(ClientSession.open(url) for _ in range(sessions)))
    due: asyncio.Queue[float | None] = asyncio.Queue()
    start = time.perf_counter() + LEAD
    table = Timetable(start + warmup)
    async with asyncio.TaskGroup() as tasks:
        for number, client in enumerate(clients):
            tasks.create_task(_call_when_due(client, number, tool, due, table))
        begun = False
        for moment in arrivals(rate, warmup + seconds, seed):
            if (left := start + moment - time.perf_counter()) > 0:
                await asyncio.sleep(left)
            if not begun and moment >= warmup:
                begun = True
                watch.begin()
            # A session that is about to take what is queued still counts as waiting.
            if begun and table.waiting <= due.qsize():
                table.held_back += 1
            due.put_nowait(start + moment)
        # The same span on every side: what is still on its way is not counted in the CPU time of either.
        elapsed, own, cpu = watch.end()
        for _ in clients:
            due.put_nowait(None)
    await asyncio.gather(*(client.close() for client in clients))
    # A server that falls behind from the start never has a free session: then nothing says how late the load was.
    lag = percentile(sorted(table.lags), 0.99) if table.lags else 0.0
    return replace(_sample(table.latencies, elapsed, own, cpu), lag=lag, held_back=table.held_back)


async def _call_in_a_loop(client: ClientSession, number: int, tool: str, clock: Clock) -> None:
    calls = 0
    while not clock.stopped:
        calls += 1
        start = time.perf_counter()
        await client.echo(f"session {number} call {calls}", tool=tool)
        if clock.measuring:
            clock.latencies.append(time.perf_counter() - start)


async def _call_when_due(
    client: ClientSession, number: int, tool: str, queue: "asyncio.Queue[float | None]", table: Timetable
) -> None:
    calls = 0
    while True:
        waited = queue.empty()
        table.waiting += 1
        due = await queue.get()
        table.waiting -= 1
        if due is None:
            return
        calls += 1
        if waited and due >= table.begins:
            table.lags.append(time.perf_counter() - due)
        await client.echo(f"session {number} call {calls}", tool=tool)
        if due >= table.begins:
            table.latencies.append(time.perf_counter() - due)


def _sample(latencies: Sequence[float], elapsed: float, own: float, cpu: Mapping[str, float]) -> Sample:
    latencies = sorted(latencies)
    return Sample(
        calls=len(latencies),
        seconds=elapsed,
        p50=percentile(latencies, 0.50),
        p99=percentile(latencies, 0.99),
        slowest=latencies[-1],
        load_cpu=own,
        cpu=cpu,
    )


def percentile(ascending: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed."""
    return ascending[max(0, -int(-share * len(ascending) // 1) - 1)]


def _cpu_of(process: psutil.Process) -> float:
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        # A child of Postgres may end between the listing and here.
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


async def _run(arguments: argparse.Namespace) -> Sample:
    watched = {name: int(pid) for name, _, pid in (pair.partition("=") for pair in arguments.watch)}
    url, tool, sessions = arguments.url, arguments.tool, arguments.sessions
    seconds, warmup, rate = arguments.seconds, arguments.warmup, arguments.rate
    async with asyncio.timeout(warmup + seconds + PATIENCE):
        if rate is None:
            return await measure(url, tool=tool, sessions=sessions, seconds=seconds, warmup=warmup, watched=watched)
        return await measure_at_rate(
            url,
            tool=tool,
            sessions=sessions,
            seconds=seconds,
            warmup=warmup,
            watched=watched,
            rate=rate,
            seed=arguments.seed,
        )


def _precise_loop() -> asyncio.AbstractEventLoop:
    """A loop whose sleep is exact to 0.1 ms or so: the usual one rounds up to whole milliseconds, as long as a call."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def main() -> None:
    """Run the load and print the sample."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--tool", default="echo")
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--warmup", type=float, default=0.5)
    parser.add_argument("--rate", type=float, help="calls per second of an open loop; without it the loop is closed")
    parser.add_argument("--seed", type=int, default=1, help="of the open loop's times: the same, the same times")
    parser.add_argument("--watch", action="append", default=[], metavar="NAME=PID", help="report its CPU time too")
    parser.add_argument("--parent", type=int, default=os.getppid())
    arguments = parser.parse_args()
    end_with_parent(arguments.parent)
    with asyncio.Runner(loop_factory=None if arguments.rate is None else _precise_loop) as runner:
        sample = runner.run(_run(arguments))
    sys.stdout.write(json.dumps(asdict(sample)) + "\n")


if __name__ == "__main__":
    main()

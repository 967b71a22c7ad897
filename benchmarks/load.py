"""The load generator, a process of its own: `python -m benchmarks.load --url URL`; prints one sample as JSON.

A closed loop: each session calls the tool, waits for the whole response, checks it, and calls again.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import psutil

from benchmarks.client import ClientSession
from examples.replica import end_with_parent

# Seconds that a run may take beyond its load before it counts as hung.
PATIENCE = 30.0


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

    @property
    def rate(self) -> float:
        """Tool calls per second."""
        return self.calls / self.seconds


class Clock:
    """Latencies of the calls that ended in the measured time."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.measuring = False
        self.stopped = False


async def measure(
    url: str, *, tool: str, sessions: int, seconds: float, warmup: float, watched: Mapping[str, int]
) -> Sample:
    """Open the sessions, warm up, measure, and end the sessions."""
    clock = Clock()
    clients = await asyncio.gather(*(ClientSession.open(url) for _ in range(sessions)))
    async with asyncio.TaskGroup() as tasks:
        for number, client in enumerate(clients):
            tasks.create_task(_call_in_a_loop(client, number, tool, clock))
        await asyncio.sleep(warmup)
        cpu_before = _cpu(watched)
        own_before, start = time.process_time(), time.perf_counter()
        clock.measuring = True
        await asyncio.sleep(seconds)
        clock.measuring = False
        own, elapsed = time.process_time() - own_before, time.perf_counter() - start
        cpu = _cpu(watched)
        clock.stopped = True
    await asyncio.gather(*(client.close() for client in clients))
    latencies = sorted(clock.latencies)
    return Sample(
        calls=len(latencies),
        seconds=elapsed,
        p50=percentile(latencies, 0.50),
        p99=percentile(latencies, 0.99),
        slowest=latencies[-1],
        load_cpu=own,
        cpu={name: cpu[name] - cpu_before[name] for name in watched},
    )


async def _call_in_a_loop(client: ClientSession, number: int, tool: str, clock: Clock) -> None:
    calls = 0
    while not clock.stopped:
        calls += 1
        start = time.perf_counter()
        await client.echo(f"session {number} call {calls}", tool=tool)
        if clock.measuring:
            clock.latencies.append(time.perf_counter() - start)


def percentile(ascending: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed."""
    return ascending[max(0, -int(-share * len(ascending) // 1) - 1)]


def _cpu(watched: Mapping[str, int]) -> dict[str, float]:
    return {name: _cpu_of(psutil.Process(pid)) for name, pid in watched.items()}


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
    async with asyncio.timeout(arguments.warmup + arguments.seconds + PATIENCE):
        return await measure(
            arguments.url,
            tool=arguments.tool,
            sessions=arguments.sessions,
            seconds=arguments.seconds,
            warmup=arguments.warmup,
            watched=watched,
        )


def main() -> None:
    """Run the load and print the sample."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--tool", default="echo")
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--warmup", type=float, default=0.5)
    parser.add_argument("--watch", action="append", default=[], metavar="NAME=PID", help="report its CPU time too")
    parser.add_argument("--parent", type=int, default=os.getppid())
    arguments = parser.parse_args()
    end_with_parent(arguments.parent)
    sys.stdout.write(json.dumps(asdict(asyncio.run(_run(arguments)))) + "\n")


if __name__ == "__main__":
    main()

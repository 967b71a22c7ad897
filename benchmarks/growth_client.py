"""The load of the growth benchmark, a process of its own: `python -m benchmarks.growth_client`.

It reads one job as JSON from its standard input, and prints what it measured. Its calls go on in a closed loop, each
at the next of the replicas; or, at a pace, one after the other and each at its time, from which its latency counts.
"""

import argparse
import asyncio
import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import psutil

from benchmarks.client import WrongAnswerError
from benchmarks.growth_line import Line, request, session_headers
from benchmarks.load import percentile
from examples.replica import end_with_parent

# Seconds that a job may take beyond its load before it counts as hung.
PATIENCE = 30.0


@dataclass(frozen=True)
class Job:
    """What is to be done."""

    urls: Sequence[str]
    """Of the replicas."""
    seconds: float
    warmup: float
    at_once: int = 1
    tool: str = "echo"
    size: int = 0
    """Characters of what `say` and `talk` say."""
    messages: int = 1
    """In each answer."""
    sessions: str = ""
    """A file with the ids of sessions that are there already, which take turns; else each connection begins one."""
    every: float = 0.0
    """Seconds from one call to the next, at a pace."""
    cursor: str = ""
    """Where a stream is to be resumed, again and again, instead of calls; `sessions` has its one session."""
    events: int = 0
    """That are behind it."""
    watched: Mapping[str, int] = field(default_factory=dict)
    """Processes by name; their children count with them."""


class Taken(NamedTuple):
    """One response: seconds until its first message began to come, and until it was whole."""

    first: float
    whole: float


@dataclass(frozen=True)
class Turn:
    """What one job measured. Seconds; to their end all that was answered is in the log."""

    done: int
    seconds: float
    p50: float
    p99: float
    slowest: float
    first: float
    """Until the first message began to come: the median."""
    load_cpu: float
    cpu: Mapping[str, float]
    """Of each watched group of processes, and of the replicas by their own account: `replicas`."""
    statements: int
    """Of all the replicas."""

    @property
    def rate(self) -> float:
        return self.done / self.seconds


class Worker:
    """One connection to each replica, and one request after the other."""

    def __init__(self, job: Job, number: int, lines: Sequence[Line], sessions: Iterator[str]) -> None:
        self._job = job
        self._number = number
        self._line = lines[0]
        self._lines = itertools.cycle(lines)
        self._sessions = sessions
        self._numbers = itertools.count(1)

    @classmethod
    async def ready(cls, job: Job, number: int, session_ids: Sequence[str]) -> Self:
        """Connect, and begin a session if there is none."""
        # They begin at different replicas, and no two of them have the same session at once.
        urls = itertools.islice(itertools.cycle(job.urls), number, number + len(job.urls))
        lines = [await Line.open(url) for url in urls]
        own = [session_headers(session_id) for session_id in session_ids[number :: job.at_once]]
        return cls(job, number, lines, itertools.cycle(own or [await lines[0].initialize()]))

    async def work(self, seconds: float, taken: list[Taken]) -> None:
        """Go on for so long, and do one at least."""
        begin = self._resume if self._job.cursor else self._call
        at = time.perf_counter()
        until = at + seconds
        while True:
            taken.append(await begin(at))
            # At a pace: however long this one took, the next is to begin then.
            at = at + self._job.every if self._job.every else time.perf_counter()
            if at >= until:
                return
            await asyncio.sleep(max(0.0, at - time.perf_counter()))

    async def _resume(self, at: float) -> Taken:
        job = self._job
        headers = f"{next(self._sessions)}last-event-id: {job.cursor}\r\n"
        response = await self._line.send("GET", headers)
        if response.numbers() != [*range(1, job.events + 1)]:
            raise WrongAnswerError(f"a resumption after {job.cursor}", response.body[:500])
        return Taken(response.first - at, response.last - at)

    async def _call(self, at: float) -> Taken:
        job, number = self._job, next(self._numbers)
        text = f"worker {self._number} call {number}"
        arguments = {"text": text} if job.tool == "echo" else {"size": job.size}
        params = {"name": job.tool, "arguments": arguments, "_meta": {"progressToken": number}}
        response = await next(self._lines).send("POST", next(self._sessions), request(number, "tools/call", params))
        check(job, text, number, response.messages())
        return Taken(response.first - at, response.last - at)


async def measure(job: Job) -> Turn:
    """Warm up, and then measure, until all that was answered is in the log.

    Raises:
        WrongAnswerError: something else came than what was asked for.
    """
    session_ids = Path(job.sessions).read_text().split() if job.sessions else []  # noqa: ASYNC240 (nothing runs yet)
    watching = [await Line.open(url) for url in job.urls]
    workers = await asyncio.gather(*(Worker.ready(job, number, session_ids) for number in range(job.at_once)))
    await _work(workers, job.warmup, watching)
    cpu, statements = await _used(watching, job.watched)
    own, began = time.process_time(), time.perf_counter()
    taken = await _work(workers, job.seconds, watching)
    own, elapsed = time.process_time() - own, time.perf_counter() - began
    cpu_after, statements_after = await _used(watching, job.watched)
    firsts, wholes = sorted(one.first for one in taken), sorted(one.whole for one in taken)
    return Turn(
        done=len(taken),
        seconds=elapsed,
        p50=percentile(wholes, 0.50),
        p99=percentile(wholes, 0.99),
        slowest=wholes[-1],
        first=percentile(firsts, 0.50),
        load_cpu=own,
        cpu={name: after - cpu[name] for name, after in cpu_after.items()},
        statements=statements_after - statements,
    )


async def _work(workers: Sequence[Worker], seconds: float, watching: Sequence[Line]) -> list[Taken]:
    taken: list[Taken] = []
    async with asyncio.TaskGroup() as tasks:
        for worker in workers:
            tasks.create_task(worker.work(seconds, taken))
    for line in watching:
        await line.send("POST", "", b"{}", path="/flushed")
    return taken


def check(job: Job, text: str, number: int, messages: Sequence[dict[str, Any]]) -> None:
    """Compare all that was said: an echo by its text, what is large by its length.

    Raises:
        WrongAnswerError: it is not what was asked for.
    """
    *told, final = messages or [{}]
    said = [_text_of(message) for message in told]
    result = final.get("result") or {"content": [], "isError": True}
    answer = "".join(content["text"] for content in result["content"])
    right = {
        "echo": not said and answer == text,
        "say": not said and len(answer) == job.size,
        "talk": answer == "talked" and [*map(len, said)] == [job.size] * (job.messages - 1),
    }
    if not right[job.tool] or final.get("id") != number or result["isError"]:
        raise WrongAnswerError(f"{job.tool} {number}", str(messages)[:500])


def _text_of(message: dict[str, Any]) -> str:
    return str(message.get("params", {}).get("message", ""))


async def _used(lines: Sequence[Line], watched: Mapping[str, int]) -> tuple[dict[str, float], int]:
    """CPU seconds until now by name, and statements."""
    accounts = [json.loads((await line.send("POST", "", b"{}", path="/measured")).body) for line in lines]
    cpu = {name: _cpu_of(psutil.Process(pid)) for name, pid in watched.items()}
    cpu["replicas"] = sum(account["cpu"] for account in accounts)
    return cpu, sum(account["statements"] for account in accounts)


def _cpu_of(server: psutil.Process) -> float:
    """CPU seconds of a process and all that it ever started: what has ended is in its own account."""
    times = server.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in server.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = child.cpu_times()
            total += times.user + times.system
    return total


async def run(job: Job) -> Turn:
    """The same, but not for ever.

    Raises:
        TimeoutError: it hung.
    """
    async with asyncio.timeout(job.warmup + job.seconds + PATIENCE):
        return await measure(job)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth_client", description=__doc__)
    parser.add_argument("--parent", type=int, required=True)
    end_with_parent(parser.parse_args().parent)
    sys.stdout.write(json.dumps(asdict(asyncio.run(run(Job(**json.load(sys.stdin)))))) + "\n")


if __name__ == "__main__":
    main()

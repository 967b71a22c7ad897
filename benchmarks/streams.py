"""Many open standalone streams over three replicas: `python -m benchmarks --only streams`.

What they cost in memory, what they cost while nothing happens, and how long it takes until all of them have heard one
`tools/list_changed`. The sessions begin over HTTP, each at another replica than the one that holds its stream.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.abc
import asyncpg
import httpx2
import psutil
from anyio.streams.text import TextReceiveStream

from benchmarks.database import Database
from benchmarks.news_idle import DONE, cpu_of
from benchmarks.sides import LoadFailedError, RunningSide, Side, running
from benchmarks.streams_report import Heard, Memory, Rest, StreamsResult
from examples.cluster import ROOT

REPLICAS = 3
WARMUP = 30
# A slow look at the log and a keep-alive come every 15 s each: whoever has just opened has both before it.
SETTLED = 15.0


@dataclass(frozen=True)
class StreamsLoad:
    """How much is measured."""

    streams: int
    rest: float
    """Seconds that all of them are watched at rest."""
    times: int
    """Publications."""
    settled: float = SETTLED


async def measure_streams(database: Database, load: StreamsLoad, say: Callable[[str], None]) -> StreamsResult:
    """Measure on a migrated database; `say` is told what comes next.

    Raises:
        LoadFailedError: a stream did not hear once what was published, or the clients' process failed.
    """
    sides = [
        Side(
            str(number),
            f"replica {number}",
            arguments=["benchmarks.news_server:app"],
            env=_environment(database, number),
        )
        for number in range(REPLICAS)
    ]
    async with running(sides) as replicas, _clients(replicas) as tell:
        pids = [replica.process.pid for replica in replicas]
        # What the first sessions make every replica load and remember is no stream's.
        await tell(f"open {WARMUP}")
        before = _memory(pids)
        clients_before = _memory([tell.pid])
        say(f"opening {load.streams:,} streams")
        opened = await tell(f"open {load.streams}")
        await anyio.sleep(1.0)
        memory = Memory(before, _memory(pids), clients_before[0], _memory([tell.pid])[0])
        say(f"at rest, {load.settled + load.rest:.0f} s")
        await anyio.sleep(load.settled)
        rest = await _at_rest(database, pids, load.rest)
        heard = [await _publish(replicas[0], tell, load.streams, say, time) for time in range(load.times)]
    return StreamsResult(load.streams, REPLICAS, opened["sessions"], opened["streams"], memory, rest, heard)


def _environment(database: Database, number: int) -> Mapping[str, str]:
    return {"MCPSESSION_URL": database.url, "MCPSESSION_NAMESPACE": "bench", "MCPSESSION_LABEL": str(number)}


def _memory(pids: Sequence[int]) -> list[int]:
    """Bytes that are resident."""
    return [psutil.Process(pid).memory_info().rss for pid in pids]


async def _at_rest(database: Database, replicas: Sequence[int], seconds: float) -> Rest:
    servers = _processes(database)
    connection = await asyncpg.connect(database.url)
    try:
        cpus, cpu, done, began = [cpu_of([pid]) for pid in replicas], cpu_of(servers), await _done(connection), _now()
        await anyio.sleep(seconds)
        elapsed = _now() - began
        return Rest(
            seconds,
            [(cpu_of([pid]) - before) / elapsed for pid, before in zip(replicas, cpus, strict=True)],
            (cpu_of(servers) - cpu) / elapsed if servers else None,
            # One was our own: the look at the counters before.
            (await _done(connection) - done - 1) / elapsed,
        )
    finally:
        await connection.close()


def _now() -> float:
    return time.monotonic()


async def _done(connection: "asyncpg.Connection[asyncpg.Record]") -> int:
    """Transactions so far; each statement of a replica's is one, and hardly one has more."""
    # What a backend has counted is told within a second.
    await anyio.sleep(1.1)
    done: int = await connection.fetchval(DONE)
    return done


def _processes(database: Database) -> list[int]:
    """Postgres's, if it is ours to watch."""
    if database.pid is None:
        return []
    server = psutil.Process(database.pid)
    return [server.pid, *(child.pid for child in server.children(recursive=True))]


async def _publish(replica: RunningSide, tell: "Tell", streams: int, say: Callable[[str], None], number: int) -> Heard:
    say(f"publishing, {number + 1}")
    async with httpx2.AsyncClient(base_url=replica.process.url, timeout=60.0, trust_env=False) as http:
        response = await http.post("/publish", json={"times": 1, "pause": 0.0})
        response.raise_for_status()
    heard = Heard(**await tell("hear"))
    if heard.heard != streams + WARMUP or heard.lost:
        said = f"{heard.heard:,} of {streams + WARMUP:,} heard what was published; {heard.lost} had ended"
        raise LoadFailedError("the streams", said, tell.logs())
    return heard


class Tell:
    """The clients' process, which does what it is told."""

    def __init__(self, process: anyio.abc.Process, log: Sequence[RunningSide]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.pid = process.pid
        self._stdin = process.stdin
        self._lines = TextReceiveStream(process.stdout)
        self._replicas = log
        self._rest = ""

    def logs(self) -> str:
        """The end of what each replica wrote."""
        return "\n".join(replica.process.log[-900:] for replica in self._replicas)

    async def __call__(self, what: str) -> Any:
        await self._stdin.send(f"{what}\n".encode())
        try:
            while "\n" not in self._rest:
                self._rest += await self._lines.receive()
        except anyio.EndOfStream:
            raise LoadFailedError(
                "the streams", f"its process ended while it was told to {what}", self.logs()
            ) from None
        line, _, self._rest = self._rest.partition("\n")
        return json.loads(line)


@asynccontextmanager
async def _clients(replicas: Sequence[RunningSide]) -> AsyncIterator[Tell]:
    urls = [f"--url={replica.process.url}/mcp" for replica in replicas]
    command = [sys.executable, "-m", "benchmarks.streams_client", f"--parent={os.getpid()}", *urls]
    async with await anyio.open_process(command, stderr=None, stdin=subprocess.PIPE, cwd=ROOT) as process:
        try:
            yield Tell(process, replicas)
        finally:
            process.kill()

"""What the journal and a replay cost beside bare asyncpg and other stores: `python -m benchmarks --only journal`.

Everybody writes to the same Postgres and is up for the whole run; those that are compared take turns. What is written
counts when it is durable.
"""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import anyio
import anyio.abc
from anyio.streams.buffered import BufferedByteReceiveStream

from benchmarks import peers
from benchmarks.database import Database
from benchmarks.journal_memory import Memory
from benchmarks.journal_replay import Backlog, Replayed
from benchmarks.journal_report import JournalResult
from benchmarks.journal_writing import Meter, Ours, Raw, WritingSide, Written
from benchmarks.sides import LoadFailedError
from benchmarks.store_layer import WrongResultError
from examples.cluster import ROOT

# Seconds for a peer or the process whose memory is measured to do what it was told.
PATIENCE = 120.0
# A turn that is not counted: connections, prepared statements and the interpreter settle.
WARMUP = 0.3

MESSAGES, TALK, CALLS = 100, 5, 1


@dataclass(frozen=True)
class JournalLoad:
    """How much is measured."""

    seconds: float
    """Of a turn of writing."""
    rounds: int
    backlog: int
    """Events that are read again."""
    sessions: int
    """In the cache whose memory is measured."""
    same: bool = False
    """The raw side against itself."""


async def measure_journal(database: Database, load: JournalLoad, say: Callable[[str], None]) -> JournalResult:
    """Measure on an empty, migrated database; `say` is told what comes next.

    Raises:
        WrongResultError: something that was written is not there, or was not read.
        LoadFailedError: a process of the benchmark's own failed.
    """
    say(f"storing {load.backlog:,} events")
    async with Backlog.stored(database.url, load.backlog) as backlog:
        replayed = await _replay(backlog, load, say)
        ways = {way.key: (way.title, way.against) for way in backlog.ways()}
    say(f"reading {load.sessions:,} sessions into a cache")
    memory = await _memory(database, load)
    # Last: checkpoints and vacuums of so many rows would disturb what takes milliseconds.
    async with AsyncExitStack() as stack:
        sides, missing = await _sides(stack, database, load)
        written = await _write(sides, load, say)
    titles = {side.key: side.title for side in sides}
    return JournalResult(titles, ways, load.seconds, load.rounds, load.backlog, written, replayed, memory, missing)


async def _sides(
    stack: AsyncExitStack, database: Database, load: JournalLoad
) -> tuple[Sequence[WritingSide], str | None]:
    meter = Meter(database.pid)
    raw = await stack.enter_async_context(Raw.running(database.url, meter))
    if load.same:
        again = await stack.enter_async_context(Raw.running(database.url, meter))
        again.key = "messages"
        return [raw, again], None
    ours = await stack.enter_async_context(Ours.running(database.url, meter))
    sides: list[WritingSide] = [
        raw,
        ours.with_streams_of(MESSAGES, "messages", f"the journal, calls of {MESSAGES} messages"),
        ours.with_streams_of(TALK, "talk", f"the journal, calls of {TALK} messages"),
        ours.with_streams_of(CALLS, "calls", "the journal, short calls: a stream and its one event each"),
    ]
    environment = peers.environment()
    if environment is None:
        return sides, "there is no environment of peers: make it with `make bench`"
    if "mcp-persist" in environment.missing:
        return sides, environment.missing["mcp-persist"]
    for key, title, options in (
        ("mcp-persist", "mcp-persist, PostgresEventStore", []),
        ("mcp-persist batched", "the same in its BatchingEventStore: durable up to 50 ms later", ["--batched"]),
    ):
        peer = Peer.running(environment.python, database.url, meter, key, title, options)
        sides.append(await stack.enter_async_context(peer))
    return sides, None


async def _write(
    sides: Sequence[WritingSide], load: JournalLoad, say: Callable[[str], None]
) -> dict[str, list[Written]]:
    written: dict[str, list[Written]] = {side.key: [] for side in sides}
    for side in sides:
        say(f"warming up: {side.title}")
        await side.write(min(WARMUP, load.seconds))
    for number in range(load.rounds):
        # The order turns round: a machine that gets slower is fair to all.
        for side in sides if number % 2 == 0 else sides[::-1]:
            say(f"round {number + 1} of {load.rounds}: {side.title}")
            written[side.key].append(await side.write(load.seconds))
    return written


async def _replay(backlog: Backlog, load: JournalLoad, say: Callable[[str], None]) -> dict[str, list[Replayed]]:
    ways = backlog.ways()
    replayed: dict[str, list[Replayed]] = {way.key: [] for way in ways}
    for way in ways:
        await backlog.measure(way)
    # One takes some milliseconds, so there are more of them.
    for number in range(4 * load.rounds):
        for way in ways if number % 2 == 0 else ways[::-1]:
            say(f"replay {number + 1} of {4 * load.rounds}: {way.title}")
            replayed[way.key].append(await backlog.measure(way))
    return replayed


async def _memory(database: Database, load: JournalLoad) -> Memory:
    arguments = [f"--url={database.url}", f"--sessions={load.sessions}"]
    command = [sys.executable, "-m", "benchmarks.journal_memory", *arguments]
    with anyio.fail_after(PATIENCE):
        done = await anyio.run_process(command, cwd=ROOT, check=False)
    if done.returncode != 0:
        raise LoadFailedError("the cache's memory", done.stderr.decode()[-3000:], "")
    return Memory(**json.loads(done.stdout))


class Peer:
    """A store in an environment of its own, and the process that writes with it."""

    def __init__(
        self, process: anyio.abc.Process, lines: BufferedByteReceiveStream, meter: Meter, key: str, title: str
    ) -> None:
        self._process = process
        self._lines = lines
        self._meter = meter
        self._stored = 0
        self.key, self.title = key, title

    @classmethod
    @asynccontextmanager
    async def running(
        cls, python: Path, url: str, meter: Meter, key: str, title: str, options: Sequence[str]
    ) -> AsyncIterator[Self]:
        command = [str(python), "-m", "benchmarks.journal_peer", f"--url={url}", *options]
        async with await anyio.open_process(command, cwd=ROOT, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            peer = cls(process, BufferedByteReceiveStream(process.stdout), meter, key, title)
            try:
                await peer._line()
                yield peer
            finally:
                process.terminate()

    async def write(self, seconds: float) -> Written:
        assert self._process.stdin is not None
        with self._meter.measuring() as written:
            await self._process.stdin.send(f"{seconds}\n".encode())
            told = await self._line()
            result = written(int(told["events"]), None)
        stored, self._stored = told["stored"] - self._stored, told["stored"]
        if stored != told["events"]:
            raise WrongResultError(self.title, "write", stored)
        # Its own account of the time: the way to it and back is not its doing.
        return Written(result.events, told["seconds"], None, told["cpu"], result.postgres)

    async def _line(self) -> dict[str, float]:
        try:
            with anyio.fail_after(PATIENCE):
                line = await self._lines.receive_until(b"\n", 10_000)
        except (anyio.IncompleteRead, anyio.EndOfStream):
            assert self._process.stderr is not None
            raise LoadFailedError(self.title, (await self._process.stderr.receive()).decode(), "") from None
        answer: dict[str, float] = json.loads(line)
        return answer

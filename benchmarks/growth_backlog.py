"""Growth of what a client missed: a finished call's events, read again by a GET at another replica."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from benchmarks.database import Database
from benchmarks.failover_client import Client
from benchmarks.growth_client import Job, Turn
from benchmarks.growth_replicas import (
    Group,
    GroupOf,
    Grown,
    GrowthLoad,
    Measured,
    Say,
    costs,
    groups_running,
    take_turns,
)
from benchmarks.growth_report import Axis, Column

# Seconds from one echo to the next, while others read what they missed.
EVERY = 0.01
# Of each backlog all is kept; the default is a thousand events.
KEPT = {"max_events": "100000"}

COLUMNS = (
    Column("rate", "events/s"),
    Column("p50", "last", 1e3, 1),
    Column("first", "first", 1e3, 1),
    Column("replicas", "replica", 1e6, 1),
    Column("Postgres", "Postgres", 1e6, 1),
    Column("memory", "MB", 1e-6, 1),
    Column("echo p50", "echo", 1e3, 1),
    Column("echo p99", "p99", 1e3, 1),
)


@dataclass(frozen=True)
class Backlog:
    """A stream to be resumed from its beginning."""

    events: int
    """With the answer."""
    cursor: str
    session: str
    """The file with its session's id."""


async def grow_backlog(database: Database, load: GrowthLoad, say: Say) -> list[Axis]:
    """A hundred to ten thousand events, which replica A has written and replica B reads."""
    async with groups_running([GroupOf("backlog", database, 2, KEPT)], database.pid) as (group,):
        with TemporaryDirectory(prefix="mcpsession-growth-") as folder:
            say("writing the backlogs")
            backlogs = [await _pour(group, number, Path(folder)) for number in load.backlogs]
            sizes = [Grown("none", 0, partial(_alone, group, load))]
            sizes += [Grown(f"{one.events - 1:,}", one.events, partial(_resume, group, load, one)) for one in backlogs]
            alone, *rows = await take_turns(sizes, load.rounds, say)
    p50, p99 = (1e3 * (alone.median(name) or 0.0) for name in ("echo p50", "echo p99"))
    says = (
        "one client resumes again and again: ms until its first and its last event, µs of CPU for an event, the most "
        "memory beyond what was in use, and ms of an echo of the same replica meanwhile: without it "
        f"{p50:.1f} and {p99:.1f}"
    )
    return [Axis("backlog", "Replays by events", "cpu", "an event", COLUMNS, rows, says)]


async def _pour(group: Group, number: int, folder: Path) -> Backlog:
    """Have A write a stream; its client hears all of it."""
    client = await Client.open(group.urls[0])
    pouring = {"name": "pour", "arguments": {"events": number}, "_meta": {"progressToken": 1}}
    try:
        request_id, reply = await client.request(group.urls[0], "tools/call", pouring)
        answer = await reply.final(request_id)
    finally:
        client.close()
    assert answer.id is not None
    stream, _, last = answer.id.rpartition(".")
    session = folder / stream
    session.write_text(client.session_id)
    return Backlog(int(last), f"{stream}.0", str(session))


async def _alone(group: Group, load: GrowthLoad) -> Measured:
    return _echoed(await group.run(_echoing(group, load.seconds, load.warmup)))


async def _resume(group: Group, load: GrowthLoad, backlog: Backlog) -> Measured:
    """Resume B's way first for itself, then while another client calls B."""
    job = Job(
        group.urls[1:],
        load.seconds,
        load.warmup,
        sessions=backlog.session,
        cursor=backlog.cursor,
        events=backlog.events,
    )
    await group.tell("peak", replica=1)
    used = (await group.tell("peak", replica=1))["now"]
    turn = await group.run(job)
    peak = (await group.tell("peak", replica=1))["peak"]
    measured: dict[str, float] = {
        "rate": turn.rate * backlog.events,
        "p50": turn.p50,
        "first": turn.first,
        **costs(turn, turn.done * backlog.events),
        **({"memory": max(0.0, peak - used)} if peak else {}),
    }
    async with _going_on(group, job):
        echoed = await group.run(_echoing(group, load.seconds, load.warmup))
    return {**measured, **_echoed(echoed)}


def _echoing(group: Group, seconds: float, warmup: float) -> Job:
    return Job(group.urls[1:], seconds, warmup, every=EVERY)


def _echoed(turn: Turn) -> Mapping[str, float]:
    return {"echo p50": turn.p50, "echo p99": turn.p99}


@asynccontextmanager
async def _going_on(group: Group, job: Job) -> AsyncIterator[None]:
    """Have the job done for longer than the block takes."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(group.run, replace(job, seconds=3600.0))
        yield
        tasks.cancel_scope.cancel()

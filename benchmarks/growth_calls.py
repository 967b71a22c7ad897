"""Growth of what tool calls are made of: more replicas, more sessions at once, larger messages."""

from functools import partial

from benchmarks.database import Database
from benchmarks.growth_client import Job
from benchmarks.growth_replicas import (
    Group,
    GroupOf,
    Grown,
    GrowthLoad,
    Measured,
    Say,
    costs,
    groups_running,
    of_calls,
    take_turns,
)
from benchmarks.growth_report import Axis, Column
from benchmarks.growth_server import NOTIFICATIONS

REPLICAS = (1, 2, 3)
# Concurrent sessions of a replica.
AT_ONCE = 16

CALLS = (
    Column("rate", "calls/s"),
    Column("p50", "p50 ms", 1e3, 2),
    Column("p99", "p99 ms", 1e3, 2),
    Column("statements", "asked", 1, 3),
    Column("replicas", "replicas", 1e6),
    Column("Postgres", "Postgres", 1e6),
)
BYTES = (
    Column("p50", "p50 ms", 1e3, 2),
    Column("rate", "calls/s"),
    Column("bytes", "MB/s", 1e-6, 2),
    Column("replicas", "replicas", 1e6, 1),
    Column("Postgres", "Postgres", 1e6, 1),
)
# What a tool says of a mebibyte is more than that as JSON, and more than the default of one message.
LARGE = {"max_message_bytes": str(4 * 2**20)}


async def grow_replicas(database: Database, load: GrowthLoad, say: Say) -> list[Axis]:
    """One, two and three replicas, each group with a namespace of its own; all are up for the whole run.

    Each replica has as much to do as the one; and, once more, three share what the one has: then each finds fewer calls
    waiting at a time.
    """
    groups = [GroupOf(f"replicas{number}", database, number) for number in REPLICAS]
    async with groups_running(groups, database.pid) as running:
        sizes = [
            Grown(f"{number}, {AT_ONCE} each", number, partial(_calls, group, load, number * AT_ONCE))
            for number, group in zip(REPLICAS, running, strict=True)
        ]
        sizes.append(
            Grown(f"{REPLICAS[-1]}, {AT_ONCE} in all", REPLICAS[-1], partial(_calls, running[-1], load, AT_ONCE))
        )
        rows = await take_turns(sizes, load.rounds, say)
    says = (
        "replicas, and their sessions in a closed loop, each request at the next replica; statements asked, and µs of "
        "CPU of all replicas together and of Postgres, for one call; where two cores are busy, calls/s cannot grow: "
        "CPU is what counts"
    )
    return [Axis("replicas", "Calls by replicas", "cpu", "a call", CALLS, rows, says)]


async def grow_concurrency(database: Database, load: GrowthLoad, say: Say) -> list[Axis]:
    """More and more sessions that call at once, one replica."""
    async with groups_running([GroupOf("concurrency", database)], database.pid) as (group,):
        sizes = [Grown(f"{number} at once", number, partial(_calls, group, load, number)) for number in load.at_once]
        rows = await take_turns(sizes, load.rounds, say)
    says = "one replica, each session in a closed loop; statements asked, and µs of CPU, for one call"
    return [Axis("concurrency", "Calls by sessions at once", "cpu", "a call", CALLS, rows, says)]


async def _calls(group: Group, load: GrowthLoad, at_once: int) -> Measured:
    return of_calls(await group.run(Job((), load.seconds, load.warmup, at_once)))


async def grow_messages(database: Database, load: GrowthLoad, say: Say) -> list[Axis]:
    """Larger results, and larger notifications of one call."""
    async with groups_running([GroupOf("messages", database, settings=LARGE)], database.pid) as (group,):
        said = [Grown(_size(size), size, partial(_say, group, load, size)) for size in load.sizes]
        results = await take_turns(said, load.rounds, say)
        talked = [
            Grown(f"{NOTIFICATIONS} x {_size(size)}", size, partial(_talk, group, load, size)) for size in load.sizes
        ]
        talks = await take_turns(talked, load.rounds, say)
    says = "two sessions in a closed loop; MB of text that clients have got, and µs of CPU for a KB of it"
    return [
        Axis("results", "Results by size", "cpu", "a KB", BYTES, results, says),
        Axis("notifications", f"Streams of {NOTIFICATIONS} notifications by size", "cpu", "a KB", BYTES, talks, says),
    ]


async def _say(group: Group, load: GrowthLoad, size: int) -> Measured:
    return await _large(group, Job((), load.seconds, load.warmup, 2, "say", size), size)


async def _talk(group: Group, load: GrowthLoad, size: int) -> Measured:
    job = Job((), load.seconds, load.warmup, 2, "talk", size, messages=NOTIFICATIONS + 1)
    return await _large(group, job, NOTIFICATIONS * size)


async def _large(group: Group, job: Job, size: int) -> Measured:
    turn = await group.run(job)
    return of_calls(turn) | {"bytes": turn.rate * size} | costs(turn, turn.done * size / 1024)


def _size(size: int) -> str:
    return f"{size // 2**20} MB" if size >= 2**20 else f"{size // 2**10} KB"

"""Growth of what is stored: calls spread over more and more sessions, and what the store does with so many.

Each size has a database of its own, so that small tables are small. The largest has two replicas: one that has all its
sessions in its cache, and one that reads each request's session, as a replica does that has not seen it for a minute.
"""

import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg

from benchmarks.database import Database, fresh_database
from benchmarks.growth_client import Job
from benchmarks.growth_replicas import (
    Group,
    GroupOf,
    Grown,
    GrowthLoad,
    Measured,
    Say,
    groups_running,
    of_calls,
    take_turns,
)
from benchmarks.growth_report import Axis, Column, Row
from benchmarks.sides import LoadFailedError
from benchmarks.store_rows import CLIENT, Rows
from mcpsession.model import new_session_id
from mcpsession.postgres.pool import Connection
from mcpsession.settings import Settings

NAMESPACE = "sessions"
# Calls under way; no more than the smallest store has sessions.
AT_ONCE = 8
# Sessions that one pass of the reaper removes, whatever else there is.
REAPED = 100
# With fewer, one statement and empty pages are most of it; or, in the cache, what the process had room for anyway.
WEIGHED_FROM, CACHED_FROM = 1000, 10_000

# Nothing is reaped but what is measured, and what is in the cache stays there for the run.
KEPT = {"reap_every": "none", "cache_ttl": "3600"}
READ = {"reap_every": "none", "cache_ttl": "0"}

INTRODUCE = """
UPDATE mcpsession.sessions SET initialized = true, protocol_version = $2, client_params = $3 WHERE namespace = $1
"""
# As if they had been entered so: the rows before are gone, and their place.
PACK = ("VACUUM (FULL, ANALYZE) mcpsession.sessions", "VACUUM (FULL, ANALYZE) mcpsession.streams")
BYTES = "SELECT pg_total_relation_size('mcpsession.sessions') + pg_total_relation_size('mcpsession.streams')"
IDS = "SELECT id FROM mcpsession.sessions WHERE namespace = $1"

CALLS = (
    Column("rate", "calls/s"),
    Column("p99", "p99 ms", 1e3, 1),
    Column("statements", "asked", 1, 3),
    Column("replicas", "replica", 1e6),
    Column("Postgres", "Postgres", 1e6),
)
STORED = (
    Column("get", "get", 1e6),
    Column("touch", "touch", 1e6),
    Column("page", "page", 1e6),
    Column("pass", "pass", 1e6),
    Column("reap", "reap", 1e6),
    Column("create", "create", 1e6),
    Column("disk", "disk"),
    Column("cached", "cached"),
)


@dataclass
class Stored:
    """A store with so many sessions, and the replicas on it."""

    number: int
    replicas: Group
    reader: Group | None
    rows: Rows
    connection: Connection
    ids: str = ""
    """The file with all of them, in any order."""
    once: Measured = field(default_factory=dict)
    """What was measured as it was filled; until a round has taken it."""


async def grow_sessions(database: Database, load: GrowthLoad, say: Say) -> list[Axis]:
    """Calls, and then the store's own work, with ten sessions to a hundred thousand."""
    with TemporaryDirectory(prefix="mcpsession-growth-") as folder:
        async with AsyncExitStack() as stack:
            stores = []
            for number in load.sessions:
                largest = number == max(load.sessions)
                store = await stack.enter_async_context(_store(database, number, reader=largest))
                say(f"storing {number:,} sessions")
                store.once = await _fill(store, Path(folder) / str(number))
                stores.append(store)
            stored = await take_turns(
                [Grown(f"{one.number:,}", one.number, partial(_work, one, load.times)) for one in stores],
                load.rounds,
                say,
            )
            called = await take_turns(_called(stores, load), load.rounds, say)
    return [_calls(called), _stored(stored)]


def _calls(rows: Sequence[Row]) -> Axis:
    says = (
        f"{AT_ONCE} calls at once, each for the next session of all that there are; statements asked, and µs of CPU, "
        "for one call; in the last row each call reads its session from the store, as the first in a minute does"
    )
    return Axis("sessions", "Calls by sessions in the store", "cpu", "a call", CALLS, rows, says)


def _stored(rows: Sequence[Row]) -> Axis:
    says = (
        "µs until one is done: get, touch, a page of 10 of the list, a pass of the reaper that finds nothing; for each "
        f"session of a pass that removes {REAPED}, and of creating many; bytes of a session on disk, and in a "
        "replica's cache; ÷ first is get's"
    )
    return Axis("stored", "The store by sessions in it", "get", "a get", STORED, rows, says)


def _called(stores: Sequence[Stored], load: GrowthLoad) -> list[Grown]:
    groups = [(f"{store.number:,}", store, store.replicas) for store in stores]
    groups += [(f"{store.number:,}, each read", store, store.reader) for store in stores if store.reader]
    # Touches are written every 5 s: in each turn once.
    seconds = max(load.seconds, 5.0) if load.seconds >= 1 else load.seconds
    return [
        Grown(label, store.number, partial(_call, group, Job((), seconds, load.warmup, AT_ONCE, sessions=store.ids)))
        for label, store, group in groups
    ]


async def _call(group: Group, job: Job) -> Measured:
    return of_calls(await group.run(job))


@asynccontextmanager
async def _store(database: Database, number: int, *, reader: bool) -> AsyncIterator[Stored]:
    async with AsyncExitStack() as stack:
        own = await stack.enter_async_context(fresh_database(database.url))
        groups = [GroupOf(NAMESPACE, own, settings=KEPT)]
        groups += [GroupOf(NAMESPACE, own, settings=READ)] if reader else []
        replicas, *others = await stack.enter_async_context(groups_running(groups, database.pid))
        rows = await stack.enter_async_context(Rows.connected(own.url, Settings()))
        connection = await stack.enter_async_context(_connected(own.url))
        yield Stored(number, replicas, others[0] if others else None, rows, connection)


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def _fill(store: Stored, ids: Path) -> Measured:
    """Create the sessions, as if their clients had introduced themselves, and have them in the replica's cache."""
    connection = store.connection
    created = await store.replicas.tell("fill", sessions=store.number)
    await connection.execute(INTRODUCE, NAMESPACE, CLIENT["protocolVersion"], json.dumps(CLIENT))
    for statement in PACK:
        await connection.execute(statement)
    store.ids = _write(ids, [row["id"] for row in await connection.fetch(IDS, NAMESPACE)])
    measured: dict[str, float] = {}
    if store.number >= WEIGHED_FROM:
        measured["create"] = created["seconds"] / store.number
        measured["disk"] = await connection.fetchval(BYTES) / store.number
    await store.replicas.tell("know")
    remembered = await store.replicas.tell("remember")
    if remembered["cached"] != store.number:
        raise LoadFailedError("the cache", f"{remembered['cached']:,} of {store.number:,} sessions are in it", "")
    if store.number >= CACHED_FROM:
        measured["cached"] = remembered["bytes"] / store.number
    return measured


def _write(file: Path, session_ids: list[str]) -> str:
    random.shuffle(session_ids)
    file.write_text("\n".join(session_ids))
    return str(file)


async def _work(store: Stored, times: int) -> Measured:
    """The store's own work, once each; with what was measured once, the first time."""
    once, store.once = store.once, {}
    measured = dict(once)
    for operation in ("get", "touch", "page", "pass"):
        # A pass is some statements.
        done = await store.replicas.tell(
            "do", operation=operation, times=max(2, times // 10) if operation == "pass" else times
        )
        measured[operation] = done["seconds"]
    expired = [new_session_id() for _ in range(REAPED)]
    await store.rows.add_expired(NAMESPACE, expired)
    reaped = await store.replicas.tell("reap")
    if reaped["reaped"] != REAPED:
        raise LoadFailedError("the reaper", f"{reaped['reaped']} of {REAPED} expired sessions were removed", "")
    return measured | {"reap": reaped["seconds"] / REAPED}

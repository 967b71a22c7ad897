"""`events` as a partitioned table, as docs/scaling.md makes it: the tests of events pass on it, and it is pruned."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from mcpsession.postgres import events, removal, session_events, writing
from mcpsession.postgres.migrate import HEAD, check_schema
from tests.conftest import execute

ROOT = Path(__file__).parents[2]
CHAPTER = (ROOT / "docs" / "scaling.md").read_text().split("\n## Further: partitioned events\n")[1].split("\n## ")[0]
PARTITION, FORGET = re.findall(r"```sql\n(.*?)```", CHAPTER, re.DOTALL)
# As the page says: the key gets the time, too.
BY_TIME = PARTITION.replace(
    "seq)\n) PARTITION BY HASH (session_id)", "seq, created_at)\n) PARTITION BY RANGE (created_at)"
)
BY_TIME = BY_TIME.replace("CREATE UNIQUE INDEX events_own_id", "CREATE INDEX events_own_id")
BY_TIME = re.sub(
    r"DO \$\$.*?END \$\$;",
    "CREATE TABLE mcpsession.events_0 PARTITION OF mcpsession.events FOR VALUES FROM (MINVALUE) TO (now());\n"
    "CREATE TABLE mcpsession.events_1 PARTITION OF mcpsession.events DEFAULT;",
    BY_TIME,
    flags=re.DOTALL,
)
PROMISES = [
    "tests/contract/test_events.py",
    "tests/contract/test_session_events.py",
    "tests/contract/test_events_of_sessions.py",
    "tests/contract/test_trimming.py",
    "tests/contract/test_trimming_calls.py",
    "tests/contract/test_take_over.py",
    "tests/contract/test_rotation.py",
]


@pytest.mark.parametrize(
    ("script", "promises"), [(PARTITION, PROMISES), (BY_TIME, PROMISES[:2])], ids=["by session", "by time"]
)
def test_what_is_promised_of_events_is_kept_on_a_partitioned_table(database_url: str, script: str, promises: list[str]):
    execute(database_url, script)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "-k", "postgres", *promises],
        cwd=ROOT,
        # Each of these has a namespace of its own.
        env=os.environ | {"MCPSESSION_TEST_DATABASE": database_url},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert 0 == done.returncode, done.stdout[-4000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 40


@pytest.fixture
async def partitioned(database_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(database_url)
    await connection.execute(
        "INSERT INTO mcpsession.streams (namespace, session_id, id, last_seq) "
        "SELECT 'n', 'session-' || n % 100, 'stream', 10 FROM generate_series(0, 99) AS n;"
        "INSERT INTO mcpsession.events (namespace, session_id, stream_id, seq, message) "
        "SELECT 'n', 'session-' || n % 100, 'stream', n / 100 + 1, '{}' FROM generate_series(0, 999) AS n"
    )
    await connection.execute(PARTITION)
    await connection.execute("ANALYZE mcpsession.events")
    yield connection
    await connection.close()


async def looked_into(connection: asyncpg.Connection[asyncpg.Record], statement: str, *args: object) -> set[str]:
    """The partitions that a statement opened."""
    transaction = connection.transaction()
    await transaction.start()
    plan = await connection.fetch(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) {statement}", *args)
    await transaction.rollback()
    lines = [row[0] for row in plan]
    return {
        match[1]
        for line, below in zip(lines, [*lines[1:], ""], strict=True)
        if (match := re.search(r"Scan (?:using \w+ )?on (events_\d+)\b", line)) and "never executed" not in line + below
    }


async def test_nothing_is_lost_and_the_schema_is_still_ours(partitioned):
    assert 1000 == await partitioned.fetchval("SELECT count(*) FROM mcpsession.events")
    assert 16 == await partitioned.fetchval("SELECT count(DISTINCT tableoid) FROM mcpsession.events")
    await check_schema(partitioned)
    assert HEAD == await partitioned.fetchval("SELECT version_num FROM mcpsession.alembic_version")
    assert ["autovacuum_vacuum_scale_factor=0.02"] == await partitioned.fetchval(
        "SELECT reloptions[1:1] FROM pg_class WHERE relname = 'events_7'"
    )


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_a_read_looks_into_the_one_partition_of_its_session(partitioned, mode: str):
    await partitioned.execute(f"SET plan_cache_mode = {mode}")
    assert 1 == len(await looked_into(partitioned, events.READ, "n", "session-7", "stream", 2, 100))
    await partitioned.execute("INSERT INTO mcpsession.sessions (namespace, id) VALUES ('n', 'session-7')")
    of_application = ("n", "session-7", "stream", None, 2, None, 100)
    assert 1 == len(await looked_into(partitioned, session_events.READ, *of_application))


async def test_a_removal_looks_into_the_partitions_of_its_sessions(partitioned):
    one = await looked_into(partitioned, removal.REMOVE, "n", ["session-7"], 60.0)
    assert 1 == len(one)
    assert one < await looked_into(partitioned, removal.REMOVE, "n", [f"session-{n}" for n in range(8)], 60.0)


async def test_what_a_batch_trims_is_looked_for_where_it_is(partitioned):
    await partitioned.execute("UPDATE mcpsession.streams SET producer = 'me'")
    # What the planner does with a table that is not as small as this one.
    await partitioned.execute("SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off")
    nothing: list[str] = []
    args = ("n", "me", 600.0, *[nothing] * 8, ["session-7"], ["stream"], [""], [10], [0], [False], [5], *[nothing] * 5)
    assert 1 == len(await looked_into(partitioned, writing.WRITE_AND_TRIM, *args))


async def test_before_a_partition_is_dropped_its_streams_are_told(partitioned, database_url: str):
    from mcpsession.postgres.backend import PostgresBackend
    from mcpsession.settings import Settings

    gone = await partitioned.fetchval("SELECT session_id FROM mcpsession.events_0 LIMIT 1")
    left = await partitioned.fetchval("SELECT session_id FROM mcpsession.events_1 LIMIT 1")
    await partitioned.execute(FORGET)
    await partitioned.execute(
        "ALTER TABLE mcpsession.events DETACH PARTITION mcpsession.events_0; DROP TABLE mcpsession.events_0"
    )
    backend = PostgresBackend(database_url, None, Settings(namespace="n"))
    async with backend.running():
        state = await backend.log.read(gone, "stream", 0, 100)
        assert state is not None
        assert (10, 10, []) == (state.last_seq, state.trimmed_seq, state.events)
        state = await backend.log.read(left, "stream", 0, 100)
        assert state is not None
        assert (0, 10) == (state.trimmed_seq, len(state.events))

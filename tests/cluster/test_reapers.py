"""Three processes reap one table: a handler runs once for each session, and again elsewhere if its process dies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest

from examples.cluster import Cluster, ReplicaProcess
from mcpsession.postgres.backend import PostgresBackend
from mcpsession.settings import Settings
from tests.cluster.conftest import fetch, heal, until, until_rows
from tests.cluster.reaping import GATE, WAITING, Told, told

FAULTS = True
APP = "tests.cluster.reaping:app"
ENV = {"MCPSESSION_REAP_EVERY": "0.2", "MCPSESSION_HANDLER_TIMEOUT": "60"}

DEAD = 10_000
EVENTS = 5
TOUCHED = 200
TTL = 1.0
# As a busy replica's: well before the end.
TOUCH_EVERY = 0.2
NAMESPACE = Settings().namespace

# In one transaction, so that all three meet all of them at once.
DIE = """
WITH dead AS (
    INSERT INTO mcpsession.sessions (namespace, id, ttl, expires_at, metadata)
    SELECT $1, 'dead-' || n, 60, now() - interval '1 s', json_build_object('n', n)::text
    FROM generate_series(1, $2::int) AS n
    RETURNING id
), streams AS (
    INSERT INTO mcpsession.streams (namespace, session_id, id, kind, last_seq)
    SELECT $1, id, 's', 'standalone', $3::int FROM dead
)
INSERT INTO mcpsession.events (namespace, session_id, stream_id, seq, message)
SELECT $1, id, 's', seq, '{}' FROM dead, generate_series(1, $3::int) AS seq
"""
DIE_WAITING = """
INSERT INTO mcpsession.sessions (namespace, id, ttl, expires_at) VALUES ($1, $2, 60, now() - interval '1 s')
"""
ALL_GONE = "SELECT 1 WHERE NOT EXISTS (SELECT FROM mcpsession.sessions WHERE namespace = $1 AND id LIKE $2)"
DEATH = (
    "SELECT extract(epoch FROM dead_at)::float8 AS at FROM mcpsession.replicas WHERE id = $1 AND dead_at IS NOT NULL"
)


@pytest.fixture
def open_gate(files_root: Path) -> Iterator[Callable[[], None]]:
    """Let the handlers go on that wait; at the end of the test in any case."""
    path = files_root / GATE
    path.unlink(missing_ok=True)
    yield path.touch
    path.touch()


async def left(url: str, like: str) -> dict[str, int]:
    """How many rows of such sessions are left in each table."""
    query = """
    SELECT (SELECT count(*) FROM mcpsession.sessions WHERE namespace = $1 AND id LIKE $2) AS sessions,
        (SELECT count(*) FROM mcpsession.streams WHERE namespace = $1 AND session_id LIKE $2) AS streams,
        (SELECT count(*) FROM mcpsession.events WHERE namespace = $1 AND session_id LIKE $2) AS events
    """
    [row] = await fetch(url, query, NAMESPACE, like)
    return dict(row)


async def test_f55_three_reapers_tell_of_ten_thousand_sessions_once_each_and_spare_the_touched(
    cluster: Cluster, files_root: Path
) -> None:
    url = cluster.database_url
    backend = PostgresBackend(url, None, Settings(touch_flush=0.01, touch_step=0.01))
    touched = [f"touched-{n:03}" for n in range(TOUCHED)]
    over = anyio.Event()
    lived: list[int] = []

    async def touch() -> None:
        while not over.is_set():
            lived.append(len(await backend.sessions.touch(touched)))
            await anyio.sleep(TOUCH_EVERY)

    async with backend.running():
        await fetch(
            url,
            "INSERT INTO mcpsession.sessions (namespace, id, ttl, expires_at) "
            "SELECT $1, id, $2, now() + interval '1 s' * $2 FROM unnest($3::text[]) AS id",
            NAMESPACE,
            TTL,
            touched,
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(touch)
            await fetch(url, DIE, NAMESPACE, DEAD, EVENTS)
            await until_rows(url, ALL_GONE, NAMESPACE, "dead-%", within=30)
            # And past the time when those that were touched would have ended without it.
            await anyio.sleep(1.5 * TTL)
            over.set()
        alive = await backend.sessions.touch(touched)

    calls = list(told(files_root))
    assert {f"dead-{n}": 1 for n in range(1, DEAD + 1)} == Counter(call.session_id for call in calls)
    assert {"expired"} == {call.reason for call in calls}
    assert {"0", "1", "2"} == {call.label for call in calls}
    assert {"sessions": 0, "streams": 0, "events": 0} == await left(url, "dead-%")
    assert [TOUCHED] * len(lived) == lived
    assert set(touched) == set(alive)
    assert [] == [replica.log for replica in cluster.replicas if "Traceback" in replica.log]


async def test_f59_the_handler_of_a_killed_replica_runs_again_on_another_once_its_death_is_recorded(
    cluster: Cluster, files_root: Path, open_gate: Callable[[], None]
) -> None:
    url, session_id = cluster.database_url, f"{WAITING}-1"

    def calls() -> list[Told]:
        return sorted((call for call in told(files_root) if call.session_id == session_id), key=lambda call: call.at)

    try:
        await fetch(url, DIE_WAITING, NAMESPACE, session_id)
        await until(lambda: len(calls()) == 1)
        first = calls()[0]
        claimed = "SELECT 1 FROM mcpsession.sessions WHERE id = $1 AND claimed_by = $2"
        assert await fetch(url, claimed, session_id, first.replica)

        await by_label(cluster, first.label).kill()
        await until(lambda: len(calls()) == 2)

        second = calls()[1]
        assert first.label != second.label
        [death] = await until_rows(url, DEATH, first.replica)
        # Both are this machine's clock.
        assert death["at"] <= second.at
        assert {"sessions": 1, "streams": 0, "events": 0} == await left(url, session_id)

        open_gate()
        await until_rows(url, ALL_GONE, NAMESPACE, session_id)
        assert [first, second] == calls()
    finally:
        await heal(cluster)


def by_label(cluster: Cluster, label: str) -> ReplicaProcess:
    return cluster.replicas[int(label)]

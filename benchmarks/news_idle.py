"""What replicas cost that do nothing: CPU time, transactions and connections."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import asyncpg
import psutil

COUNT = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'mcpsession%'"
)
BACKENDS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = ANY($1::text[])"
DONE = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"


@dataclass(frozen=True)
class Idle:
    """For one replica."""

    cpu: float
    """CPU seconds of its process in a second."""
    transactions: float
    """In a second: its statements, hardly two of them in one, and one of its ear for each notification."""
    connections: float


async def measure_idle(url: str, pids: Sequence[int], seconds: float) -> Idle:
    """Watch replicas for a while that nobody asks for anything."""
    async with _connected(url) as connection:
        connections = await connection.fetchval(COUNT)
        cpu, done, began = cpu_of(pids), await connection.fetchval(DONE), time.monotonic()
        await anyio.sleep(seconds)
        cpu, elapsed = cpu_of(pids) - cpu, time.monotonic() - began
        # One was our own: the look at the counters before.
        done = await connection.fetchval(DONE) - done - 1
    return Idle(cpu / elapsed / len(pids), done / elapsed / len(pids), connections / len(pids))


@asynccontextmanager
async def _connected(url: str) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def backends_of(url: str, labels: Sequence[str]) -> list[int]:
    """The processes of Postgres that work for these replicas, if they are on this machine."""
    async with _connected(url) as connection:
        rows = await connection.fetch(BACKENDS, [f"mcpsession {label}" for label in labels])
    return [row["pid"] for row in rows if psutil.pid_exists(row["pid"]) and _is_postgres(row["pid"])]


def _is_postgres(pid: int) -> bool:
    try:
        return psutil.Process(pid).name().startswith("postgres")
    except psutil.NoSuchProcess:
        return False


def cpu_of(pids: Sequence[int]) -> float:
    """CPU seconds of these processes until now."""
    total = 0.0
    for pid in pids:
        # A connection of a pool may be closed meanwhile, and its process ends.
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total

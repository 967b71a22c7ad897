"""Does it pay to compress large messages? `python -m benchmarks --only compression`.

Events are written as the journal writes them, one statement a batch, by one writer on one connection, into tables that
differ in one column; then they are read back page by page. All ways take turns.
"""

import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

from benchmarks.compression_payloads import KINDS, payloads
from benchmarks.compression_report import CompressionResult, Turn
from benchmarks.compression_sides import SIDES, Side
from benchmarks.news_idle import cpu_of
from benchmarks.store_layer import WrongResultError
from mcpsession.postgres.pool import Connection

SIZES = (1024, 8 * 1024, 64 * 1024, 512 * 1024)

# As in the journal.
BATCH_BYTES = 256 * 1024
BATCH_EVENTS = 100

NAMESPACE = "compression"
SESSION = "session"

# Not every build of Postgres has it.
HAS_LZ4 = "SELECT 'lz4' = ANY(enumvals) FROM pg_settings WHERE name = 'default_toast_compression'"

TABLE = """
CREATE SCHEMA IF NOT EXISTS bench_compression;
DROP TABLE IF EXISTS {table};
CREATE TABLE {table} (LIKE mcpsession.events INCLUDING ALL);
ALTER TABLE {table} ALTER COLUMN message TYPE {type} USING NULL;
ALTER TABLE {table} ALTER COLUMN message {alter};
"""

OPEN = """
INSERT INTO mcpsession.streams (namespace, session_id, id, producer, request_ids)
SELECT $1, $2, $3 || n, 'bench', ARRAY[$3 || n] FROM generate_series(1, $4::int) AS n
RETURNING id
"""

# The journal's, without the half that opens streams.
APPEND = """
WITH locked AS (
    SELECT s.session_id, s.id, a.count
    FROM mcpsession.streams s
    JOIN unnest($3::text[], $4::bigint[], $5::bigint[]) AS a (id, base, count) ON a.id = s.id
    WHERE s.namespace = $1 AND s.session_id = $2 AND s.producer = 'bench' AND s.finished_at IS NULL
        AND s.last_seq = a.base
    ORDER BY s.session_id, s.id
    FOR NO KEY UPDATE OF s
), appended AS (
    UPDATE mcpsession.streams s
    SET last_seq = s.last_seq + locked.count
    FROM locked
    WHERE s.namespace = $1 AND s.session_id = locked.session_id AND s.id = locked.id
), entered AS (
    INSERT INTO {table} (namespace, session_id, stream_id, seq, message)
    SELECT $1, locked.session_id, e.stream_id, e.seq, e.message
    FROM unnest($6::text[], $7::bigint[], $8::{type}[]) AS e (stream_id, seq, message)
    JOIN locked ON locked.id = e.stream_id
)
SELECT id FROM locked
"""

READ = """
SELECT message
FROM {table}
WHERE namespace = $1 AND session_id = $2 AND stream_id = $3 AND seq > $4
ORDER BY seq
LIMIT $5
"""

WRITTEN = "SELECT pg_current_wal_insert_lsn()::text"
WAL = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1::text::pg_lsn)::bigint"
BYTES = "SELECT pg_total_relation_size($1::text::regclass)"


@dataclass(frozen=True)
class CompressionLoad:
    """How much is measured."""

    rounds: int
    seconds: float
    """Of writing, of each turn; reading takes as many events, and half as long at most."""
    sizes: Sequence[int] = SIZES


async def measure_compression(url: str, load: CompressionLoad, say: Callable[[str], None]) -> CompressionResult:
    """Measure on a migrated database; `say` is told what comes next.

    Raises:
        WrongResultError: what was written did not come back.
    """
    turns: dict[tuple[str, int, str], list[Turn]] = {}
    async with _connected(url) as connection, _connected(url) as watcher:
        has_lz4 = await connection.fetchval(HAS_LZ4)
        sides = [side for side in SIDES if has_lz4 or side.key != "lz4"]
        for side in sides:
            await connection.execute(TABLE.format(table=side.table, type=side.type, alter=side.alter))
        names = (f"{number} " for number in itertools.count())
        for number in range(-1, load.rounds):
            for kind, size in itertools.product(KINDS, load.sizes):
                say(f"{kind} of {size // 1024} KiB, round {number + 1} of {load.rounds}")
                messages = payloads(kind, size)
                for side in sides if number % 2 else sides[::-1]:
                    writer = Writer(connection, watcher, side, next(names))
                    # The first round, a short one, is for practice.
                    turn = await writer.turn(messages, load.seconds if number >= 0 else load.seconds / 10)
                    if number >= 0:
                        turns.setdefault((kind, size, side.key), []).append(turn)
    return CompressionResult(load.rounds, load.seconds, turns)


@asynccontextmanager
async def _connected(url: str) -> "AsyncIterator[Connection]":
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


class Writer:
    """One journal, with as many streams as a batch has events."""

    def __init__(self, connection: Connection, watcher: Connection, side: Side, name: str) -> None:
        self._connection = connection
        self._watcher = watcher
        self._side = side
        self._name = name
        self._append = APPEND.format(table=side.table, type=side.type)
        self._read = READ.format(table=side.table)

    async def turn(self, messages: Sequence[str], seconds: float) -> Turn:
        """Write for so long into an empty table, and read it back."""
        await self._connection.execute(f"TRUNCATE {self._side.table}")
        in_batch = max(1, min(BATCH_EVENTS, BATCH_BYTES // len(messages[0])))
        rows = await self._connection.fetch(OPEN, NAMESPACE, SESSION, self._name, in_batch)
        streams = [row["id"] for row in rows]
        backend = [self._connection.get_server_pid()]
        # A round of writing before: the statement is planned, and the table's first pages are there.
        await self._write(streams, 0, messages)

        lsn = await self._watcher.fetchval(WRITTEN)
        size = await self._watcher.fetchval(BYTES, self._side.table)
        server, client, began, batches = cpu_of(backend), time.process_time(), time.perf_counter(), 0
        while time.perf_counter() < began + seconds or not batches:
            batches += 1
            await self._write(streams, batches, messages)
        elapsed = time.perf_counter() - began
        client, server = time.process_time() - client, cpu_of(backend) - server
        wal = await self._watcher.fetchval(WAL, lsn)
        size = await self._watcher.fetchval(BYTES, self._side.table) - size

        read, read_seconds = await self._read_back(streams, batches, messages, seconds / 2)
        return Turn(batches * in_batch, elapsed, client, server, wal, size, read, read_seconds)

    async def _write(self, streams: Sequence[str], batch: int, messages: Sequence[str]) -> None:
        """One event for each stream, its number `batch` + 1."""
        rows = await self._connection.fetch(
            self._append,
            NAMESPACE,
            SESSION,
            streams,
            [batch] * len(streams),
            [1] * len(streams),
            streams,
            [batch + 1] * len(streams),
            [self._side.pack(_nth(messages, batch + place)) for place in range(len(streams))],
        )
        if len(rows) != len(streams):
            raise WrongResultError(self._side.title, "write", len(rows))

    async def _read_back(
        self, streams: Sequence[str], batches: int, messages: Sequence[str], seconds: float
    ) -> tuple[int, float]:
        """How many were read, in pages of a batch's events, and the seconds that took."""
        read, began, page = 0, time.perf_counter(), len(streams)
        for place, stream in enumerate(streams):
            for after in range(0, batches + 1, page):
                rows = await self._connection.fetch(self._read, NAMESPACE, SESSION, stream, after, page)
                for number, row in enumerate(rows, after):
                    if self._side.unpack(row["message"]) != _nth(messages, number + place):
                        raise WrongResultError(self._side.title, "read", number)
                read += len(rows)
                if time.perf_counter() > began + seconds:
                    return read, time.perf_counter() - began
        return read, time.perf_counter() - began


def _nth(messages: Sequence[str], number: int) -> str:
    return messages[number % len(messages)]

"""What a session costs a replica that knows it: `python -m benchmarks.journal_memory --url URL`; prints JSON.

In a process of its own: sessions as clients make them, read from Postgres into the cache one by one, as requests do.
"""

import argparse
import asyncio
import gc
import json
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import psutil

from mcpsession.cache import SessionCache
from mcpsession.model import new_session_id
from mcpsession.postgres.backend import PostgresBackend
from mcpsession.records import Admission, Session
from mcpsession.settings import Settings

# What a desktop client of today says of itself, and an application of its session.
CLIENT = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"roots": {"listChanged": True}, "sampling": {}, "elicitation": {"form": {}, "url": {}}},
    "clientInfo": {
        "name": "desktop-client",
        "title": "Desktop Client",
        "version": "1.14.2",
        "websiteUrl": "https://client.example.com",
    },
}
# Of how many kinds (versions, platforms) the clients are.
KINDS = 20
AT_ONCE = 500


@dataclass(frozen=True)
class Memory:
    """Bytes for one session."""

    sessions: int
    resident: float
    """By how much the process grew, as the operating system counts."""
    allocated: float
    """By how much Python's allocations did."""
    seconds: float
    """For reading them all."""


async def measure(url: str, count: int) -> Memory:
    """Fill the cache twice: once for the process's growth, once with every allocation traced."""
    settings = Settings(namespace="memory", reap_every=None, cache_ttl=3600.0, session_ttl=86_400.0)
    backend = PostgresBackend(url, None, settings)
    async with backend.running():
        ids = await _create(backend, count)
        cache = SessionCache(backend.sessions, settings, time.monotonic)
        # Connections, prepared statements and the interpreter's own caches are there before.
        await _load(cache, ids[:AT_ONCE])
        cache.clear()
        gc.collect()
        process = psutil.Process()
        before, began = process.memory_info().rss, time.perf_counter()
        await _load(cache, ids)
        seconds = time.perf_counter() - began
        gc.collect()
        resident = (process.memory_info().rss - before) / count
        cache.clear()
        gc.collect()
        tracemalloc.start()
        await _load(cache, ids)
        gc.collect()
        allocated = tracemalloc.get_traced_memory()[0] / count
        tracemalloc.stop()
    return Memory(count, resident, allocated, seconds)


async def _create(backend: PostgresBackend, count: int) -> list[str]:
    ids = [new_session_id() for _ in range(count)]
    for start in range(0, count, AT_ONCE):
        new = [_session(session_id, number) for number, session_id in enumerate(ids[start : start + AT_ONCE], start)]
        await backend.sessions.create(new, admission=Admission())
    return ids


def _session(session_id: str, number: int) -> Session:
    info = {**CLIENT["clientInfo"], "version": f"1.14.{number % KINDS}"}  # type: ignore[dict-item]
    return Session(
        session_id,
        owner=f"https://login.example.com|auth0|{number:024x}",
        protocol_version="2025-11-25",
        client_params=json.dumps({**CLIENT, "clientInfo": info}),
        initialized=True,
        metadata={"plan": "team", "region": "eu-1", "user": f"user-{number}@example.com"},
        ttl=86_400.0,
    )


async def _load(cache: SessionCache, ids: Sequence[str]) -> None:
    for session_id in ids:
        session = await cache.load(session_id)
        assert session is not None
    assert len(cache) >= len(ids)


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--sessions", type=int, default=20_000)
    options = parser.parse_args()
    print(json.dumps(asdict(asyncio.run(measure(options.url, options.sessions)))))  # noqa: T201 (read by its parent)


if __name__ == "__main__":
    main()

"""mcp-persist's event store on Postgres, in its own environment: `python -m benchmarks.journal_peer --url URL`.

Reads how many seconds to write from its input, line by line, and answers each with what it wrote, as JSON. Imports
nothing of mcpsession: there is none where this runs.
"""

import argparse
import asyncio
import json
import sys
import time
from typing import Any
from uuid import uuid4

# As in benchmarks.journal_writing.
SESSIONS = 64
TEXT = "x" * 60


class Peer:
    """Its store, and as many sessions that write at the same time as the journal has."""

    def __init__(self, store: Any, pool: Any, table: str) -> None:
        from mcp_types import JSONRPCResponse

        self._store = store
        self._pool = pool
        self._count = f"SELECT count(*) FROM {table}"
        result = {"content": [{"type": "text", "text": TEXT}], "isError": False}
        self._message = JSONRPCResponse(jsonrpc="2.0", id=1, result=result)

    async def write(self, seconds: float) -> dict[str, float]:
        """Write for so long; what was handed over is in the table when this returns."""
        wrote, cpu, began = [0] * SESSIONS, time.process_time(), time.perf_counter()
        await asyncio.gather(*(self._produce(number, began + seconds, wrote) for number in range(SESSIONS)))
        if hasattr(self._store, "flush"):
            await self._store.flush()
        return {
            "events": sum(wrote),
            "seconds": time.perf_counter() - began,
            "cpu": time.process_time() - cpu,
            "stored": await self._pool.fetchval(self._count),
        }

    async def _produce(self, number: int, until: float, wrote: list[int]) -> None:
        stream_id = f"{uuid4().hex}/1"
        while time.perf_counter() < until:
            await self._store.store_event(stream_id, self._message)
            wrote[number] += 1


async def main() -> None:
    """Answer until the input ends."""
    import asyncpg
    from mcp_persist import PostgresEventStore
    from mcp_persist.batching import BatchingEventStore

    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--batched", action="store_true", help="its write-behind wrapper, an option of its own")
    options = parser.parse_args()
    # With asyncpg's own defaults, as its documentation has it.
    async with asyncpg.create_pool(options.url) as pool:
        table = "mcp_events_batched" if options.batched else "mcp_events"
        inner = PostgresEventStore(pool, ttl=3600, table_name=table)
        await inner.initialize()
        peer = Peer(BatchingEventStore(inner) if options.batched else inner, pool, table)
        print(json.dumps({"ready": True}), flush=True)  # noqa: T201 (whoever started this reads it)
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await peer.write(float(line))), flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main())

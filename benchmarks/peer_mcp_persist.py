"""mcp-persist on Postgres with durable sessions, as its documentation sets it up; runs in `.venv-peers`."""

import os
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp_persist import with_persistence
from starlette.applications import Starlette

from benchmarks.server import NAME, add_tools

# Seconds that events are kept, as in its examples.
TTL = 3600


def app() -> Starlette:
    """Each event is written before its frame leaves."""
    return _app("events")


def batched_app() -> Starlette:
    """Events are written behind, in batches of its README's size: faster, and what waits (50 ms) goes with a crash."""
    return _app("batched", batch_max_events=128)


def _app(tables: str, **options: Any) -> Starlette:
    server = MCPServer(NAME)
    add_tools(server)
    # Tables of its own: two of them that start at once on an empty database race for the CREATE TABLE, and one ends.
    options |= {"table_name": tables, "session_table_name": f"{tables}_sessions"}
    # Its warning for the protocol of 2026 is a middleware that looks at each request; nobody speaks that protocol here.
    return with_persistence(
        server,
        backend="postgres",
        url=os.environ["BENCH_POSTGRES"],
        ttl=TTL,
        durable_sessions=True,
        warn_on_bypass=False,
        **options,
    )

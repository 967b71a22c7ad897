"""FastMCP with its event store and its session state on Postgres, through py-key-value; runs in `.venv-peers`.

Of its stores, this is the shared and durable one that needs no other server than the rest of the table has. Its
sessions stay in memory: it has no store for them.
"""

import os

from fastmcp import FastMCP
from fastmcp.server.event_store import EventStore
from key_value.aio.stores.postgresql import PostgreSQLStore
from starlette.applications import Starlette

from benchmarks.server import NAME, add_tools


def app() -> Starlette:
    """Each event is written before its frame leaves."""
    store = PostgreSQLStore(url=os.environ["BENCH_POSTGRES"])
    server = FastMCP(NAME, session_state_store=store)
    add_tools(server)
    return server.http_app(event_store=EventStore(storage=store))

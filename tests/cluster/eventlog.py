"""Replicas of the tests about the event log: tools that append, and one that follows and writes down what it sees."""

from __future__ import annotations

import os
from pathlib import Path

from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette

from mcpsession import SessionLayer
from mcpsession.event_records import EventGap


def app() -> Starlette:
    layer = SessionLayer.from_env()
    server = MCPServer("eventlog")
    folder = Path(os.environ["CLUSTER_FILES"])

    @server.tool(structured_output=False)
    async def write(session_id: str, writer: int, count: int, name: str) -> str:
        """Append events, one after the other, and write down each number where no kill of the process can lose it."""
        file = os.open(folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for n in range(count):
            event = await layer.events.append(session_id, [writer, n], id=f"{writer}-{n}")
            os.write(file, f"{event.seq} {writer} {n}\n".encode())
        os.close(file)
        return "written"

    @server.tool(structured_output=False)
    async def tail(session_id: str, name: str) -> str:
        """Follow from the first event to one whose data is null, and write down each that comes."""
        with (folder / name).open("a", buffering=1) as file:
            async with layer.events.follow(session_id, 0) as events:
                print("begun", file=file)
                async for event in events:
                    if isinstance(event, EventGap):
                        print("gap", file=file)
                    elif event.data is None:
                        return "read"
                    else:
                        print(event.seq, *event.data, file=file)
        return f"ended with the {events.ended}"

    @server.tool(structured_output=False)
    async def end(session_id: str) -> str:
        """Append the last event; returns its number."""
        return str((await layer.events.append(session_id, None)).seq)

    return layer.streamable_http_app(server)

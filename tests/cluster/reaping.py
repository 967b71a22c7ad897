"""A replica whose expiry handler writes down whom it was told of, where no kill of the process can lose it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import anyio
from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette

from mcpsession import SessionLayer
from mcpsession.records import Session

WAITING = "waiting"
"""The handler of a session whose id begins so waits for the gate."""
GATE = "gate"


class Told(NamedTuple):
    """One call of an expiry handler."""

    label: str
    replica: str
    at: float
    session_id: str
    reason: str


def told(folder: Path) -> Iterator[Told]:
    """All calls of all replicas' handlers so far."""
    for file in folder.glob("told-*"):
        for line in file.read_text().splitlines():
            label, replica, at, session_id, reason = line.split()
            yield Told(label, replica, float(at), session_id, reason)


def app() -> Starlette:
    layer = SessionLayer.from_env()
    folder, label = Path(os.environ["CLUSTER_FILES"]), layer.settings.label
    file = os.open(folder / f"told-{label}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    @layer.on_expired
    async def write_down(session: Session) -> None:
        line = f"{label} {layer.health().replica} {time.time()} {session.id} {session.end_reason}\n"
        os.write(file, line.encode())
        if session.id.startswith(WAITING):
            while not (folder / GATE).exists():  # noqa: ASYNC110 (a file of another process announces nothing)
                await anyio.sleep(0.01)

    return layer.streamable_http_app(MCPServer("reaping"))

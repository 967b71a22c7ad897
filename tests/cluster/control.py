"""Replicas that write down which control messages they apply, where no kill of the process can lose it."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette

from mcpsession import SessionLayer


def applied(folder: Path, replica: int) -> list[str]:
    """What a replica has applied so far, in all its lives."""
    file = folder / f"applied-{replica}"
    return file.read_text().splitlines() if file.exists() else []


def app() -> Starlette:
    layer = SessionLayer.from_env()
    server = MCPServer("control")
    label = layer.settings.label
    file = os.open(Path(os.environ["CLUSTER_FILES"]) / f"applied-{label}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    @layer.control.on("note")
    async def write_down(params: Mapping[str, Any]) -> None:
        os.write(file, f"{params['text']}\n".encode())

    @server.tool(structured_output=False)
    async def send(text: str, times: int = 1, key: str = "") -> str:
        """Send messages, one after the other; returns the last one's version."""
        texts = [f"{text}-{label}-{n}" for n in range(times)] if times > 1 else [text]
        versions = [await layer.control.send("note", {"text": text}, key=key) for text in texts]
        return str(versions[-1])

    @server.tool(structured_output=False)
    async def send_and_die(text: str) -> str:
        """Send a message and be killed after its commit, before anybody is woken."""
        layer.control._ring = lambda: os.kill(os.getpid(), signal.SIGKILL)
        return str(await layer.control.send("note", {"text": text}))

    @server.tool(structured_output=False)
    async def stand() -> str:
        """The version up to which this replica has applied the log."""
        return str(layer.control.applied)

    return layer.streamable_http_app(server)

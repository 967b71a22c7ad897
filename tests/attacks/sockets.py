"""What a server hands to an app for one request, held by a test that runs the app's coroutine itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anyio

from tests.sdk.asgi_client import Frame, parse
from tests.sdk.replicas import ACCEPT, Client, Replica


class Socket:
    """One request. Sending and receiving wait a little, as with a server: two more places to be cancelled at."""

    def __init__(self, client: Client, method: str, body: Any = None, *, last_event_id: str = "") -> None:
        headers = client.headers if client.session_id else dict(ACCEPT)
        fields = {"host": "localhost:80", "content-type": "application/json", **headers}
        if last_event_id:
            fields["last-event-id"] = last_event_id
        self._scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": "/mcp", "raw_path": b"/mcp", "query_string": b"", "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in fields.items()],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        }  # fmt: skip
        self._request = b"" if body is None else json.dumps(body).encode()
        self._received = False
        self._gone = anyio.Event()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.hear: Callable[[Socket], None] = lambda _: None
        """Called with each thing that came."""

    async def run(self, at: Replica) -> int:
        """Serve it; returns the status."""
        await at.app(self._scope, self._receive, self._send)
        return self.status

    def hang_up(self) -> None:
        self._gone.set()

    @property
    def frames(self) -> list[Frame]:
        return [parse(block) for block in self.body.decode().split("\n\n")[:-1]]

    @property
    def messages(self) -> list[Any]:
        return [frame.message for frame in self.frames if frame.message]

    @property
    def questions(self) -> list[Any]:
        """What the server asks."""
        return [message for message in self.messages if "method" in message and "id" in message]

    @property
    def answers(self) -> list[Any]:
        return [message for message in self.messages if "method" not in message]

    async def _receive(self) -> dict[str, Any]:
        await anyio.lowlevel.checkpoint()
        if not self._received:
            self._received = True
            return {"type": "http.request", "body": self._request, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await anyio.lowlevel.checkpoint()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")
        self.hear(self)


def calling(script: str, number: int) -> dict[str, Any]:
    """A call of the tool `act`, which reports its progress."""
    params = {"name": "act", "arguments": {"name": script}, "_meta": {"progressToken": number}}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}

"""A small client inside the process: it speaks to an ASGI app as a server would, and can do what a socket can: read
slowly or not at all, hang up, and be cancelled by its server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio


@dataclass(frozen=True)
class Frame:
    """One SSE frame, or a comment (all None, `comment` set)."""

    id: str | None = None
    data: str | None = None
    retry: int | None = None
    comment: str | None = None

    @property
    def message(self) -> dict[str, Any] | None:
        return json.loads(self.data) if self.data else None


def parse(block: str) -> Frame:
    fields: dict[str, str] = {}
    for line in block.split("\n"):
        name, _, value = line.partition(":")
        fields[name] = value.removeprefix(" ")
    retry = fields.get("retry")
    return Frame(fields.get("id"), fields.get("data"), int(retry) if retry else None, fields.get(""))


class Response:
    """What has come so far; everything that waits does so for at most the caller's deadline."""

    def __init__(self, *, reading: bool) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.chunks: list[bytes] = []
        """Bodies as they were sent, one for each `send`."""
        self.complete = False
        self.task: asyncio.Task[Any] | None = None
        """The task that the server runs the app in."""
        self._taken = 0
        self._changed = anyio.Event()
        self._reading = anyio.Event()
        self._gone = anyio.Event()
        if reading:
            self._reading.set()

    # What the client does

    def disconnect(self) -> None:
        """Hang up: the app hears http.disconnect, and what it still sends goes nowhere."""
        self._gone.set()

    def stop_reading(self) -> None:
        """Block the app's sends from now on."""
        self._reading = anyio.Event()

    def read_on(self) -> None:
        """Let blocked sends through from now on."""
        self._reading.set()

    async def started(self) -> int:
        """Wait for the status."""
        while not self.status:
            await self._next_change()
        return self.status

    async def ended(self) -> bytes:
        """Wait for the end of the body, or of the app; returns the whole body."""
        while not self.complete:
            await self._next_change()
        return self.body

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    async def json(self) -> Any:
        return json.loads(await self.ended())

    @property
    def frames(self) -> list[Frame]:
        """All whole frames that have come."""
        # The SDK's own frames, of the era without sessions, have CRLF.
        return [parse(block) for block in self.body.decode().replace("\r\n", "\n").split("\n\n")[:-1]]

    async def frame(self) -> Frame | None:
        """The next frame that is not a comment; None at the end."""
        while True:
            frames = self.frames
            while self._taken < len(frames):
                self._taken += 1
                if frames[self._taken - 1].comment is None:
                    return frames[self._taken - 1]
            if self.complete:
                return None
            await self._next_change()

    async def message(self) -> dict[str, Any] | None:
        """The next JSON-RPC message; None at the end."""
        while (frame := await self.frame()) is not None:
            if frame.message is not None:
                return frame.message
        return None

    async def messages(self) -> list[dict[str, Any]]:
        """All messages from here to the end."""
        found = []
        while (message := await self.message()) is not None:
            found.append(message)
        return found

    @property
    def last_id(self) -> str | None:
        """What this client would send as Last-Event-ID."""
        return next((frame.id for frame in reversed(self.frames) if frame.id), None)

    # What the server does

    async def run(self, app: Any, scope: dict[str, Any], body: bytes) -> None:
        sent = False

        async def receive() -> dict[str, Any]:
            nonlocal sent
            if not sent:
                sent = True
                return {"type": "http.request", "body": body, "more_body": False}
            await self._gone.wait()
            return {"type": "http.disconnect"}

        self.task = asyncio.current_task()
        try:
            await app(scope, receive, self._send)
        finally:
            self.complete = True
            self._tell()

    async def _send(self, message: Mapping[str, Any]) -> None:
        await self._wait_for_reader()
        if self._gone.is_set():
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
        elif message.get("body"):
            self.chunks.append(message["body"])
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self.complete = True
        self._tell()

    async def _wait_for_reader(self) -> None:
        # As servers do: a full socket blocks the writer until it drains or is lost.
        if self._reading.is_set() or self._gone.is_set():
            return
        async with anyio.create_task_group() as tasks:

            async def wait(event: anyio.Event) -> None:
                await event.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(wait, self._reading)
            tasks.start_soon(wait, self._gone)

    def _tell(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def _next_change(self) -> None:
        await self._changed.wait()


@asynccontextmanager
async def request(
    app: Any,
    method: str,
    path: str = "/mcp",
    headers: Mapping[str, str] | None = None,
    json_body: Any = None,
    *,
    reading: bool = True,
) -> AsyncIterator[Response]:
    """Send a request; on leaving hang up, and end the app's task as a server does that shuts down.

    With `reading=False` the app's sends block until `read_on()` or `disconnect()`.
    """
    fields = {"host": "localhost:80", "content-type": "application/json", **(headers or {})}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in fields.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    response = Response(reading=reading)
    body = b"" if json_body is None else json.dumps(json_body).encode()

    # A task of its own, not of a task group: its cancellation alone must not end the test.
    task = asyncio.ensure_future(response.run(app, scope, body))
    try:
        yield response
    finally:
        response.disconnect()
        if not task.done():
            task.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([task])
    if not task.cancelled() and (error := task.exception()):
        raise error

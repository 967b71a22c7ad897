"""A client of several replicas, one session: each request goes to a replica of choice, each message has its moment.

Just enough HTTP/1.1 and SSE. What arrives is noted when its bytes do, whatever the client waits for just then.
"""

import asyncio
import itertools
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from benchmarks.client import PROTOCOL_VERSION, WrongAnswerError

# Seconds for anything that is waited for.
PATIENCE = 20.0

Message = dict[str, Any]


class Arrived(NamedTuple):
    """A message of a stream, its event's id, and when its last byte was there (time.monotonic)."""

    at: float
    id: str | None
    message: Message


class Reply:
    """A response, as far as it has come."""

    def __init__(self, asked: str) -> None:
        self.asked = asked
        self.status = 0
        self.session_id = ""
        self.body = b""
        self.arrived: list[Arrived] = []
        self.complete = False
        """The connection can take the next request."""
        self.ended = False
        """Nothing more will come: it is complete, or the connection is lost."""
        self._left: int | None = None
        """Bytes of a body of known length that are still to come; None of one that comes in chunks."""
        self._bytes = b""
        self._lines = b""
        self._id: str | None = None
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Reply to {self.asked}: {self.status}, {self.body!r}, {'ended' if self.ended else 'open'}>"

    @property
    def last_id(self) -> str:
        """The newest event id that came with a message."""
        return next(arrived.id for arrived in reversed(self.arrived) if arrived.id is not None)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for what comes to make it true.

        Raises:
            WrongAnswerError: it did not in time, or cannot any more.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                while not condition():
                    if self.ended:
                        raise WrongAnswerError(self.asked, self)
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise WrongAnswerError(self.asked, self) from None

    async def message(self, number: int) -> Arrived:
        """Wait for the message of this number, counted from 0."""
        await self.until(lambda: len(self.arrived) > number)
        return self.arrived[number]

    async def final(self, request_id: int) -> Arrived:
        """Wait for the response to this request."""

        def here() -> Arrived | None:
            answers = (one for one in self.arrived if "method" not in one.message and one.message["id"] == request_id)
            return next(answers, None)

        await self.until(here)
        final = here()
        assert final is not None
        return final

    def feed(self, data: bytes, now: float) -> None:
        """Take what came."""
        self._bytes += data
        if not self.status and not self._head():
            return
        if self._left is None:
            while (chunk := self._chunk()) is not None:
                if not chunk:
                    self.complete = self.ended = True
                    break
                self._take(chunk, now)
        else:
            # An answer that leaves in one write has a length, and is a stream of events all the same.
            self._left -= len(self._bytes)
            self._take(self._bytes, now)
            self._bytes = b""
            self.complete = self.ended = self._left <= 0
        self._changed.set()

    def lose(self) -> None:
        """The connection is gone."""
        self.ended = True
        self._changed.set()

    def _head(self) -> bool:
        head, end, rest = self._bytes.partition(b"\r\n\r\n")
        if not end:
            return False
        status, *lines = head.split(b"\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        self.status = int(status.split(b" ")[1])
        self.session_id = headers.get(b"mcp-session-id", b"").decode()
        self._left = None if b"transfer-encoding" in headers else int(headers.get(b"content-length", 0))
        self._bytes = rest
        return True

    def _chunk(self) -> bytes | None:
        size, end, rest = self._bytes.partition(b"\r\n")
        if not end or len(rest) < (length := int(size, 16)) + 2:
            return None
        self._bytes = rest[length + 2 :]
        return rest[:length]

    def _take(self, body: bytes, now: float) -> None:
        self.body += body
        *lines, self._lines = (self._lines + body).split(b"\n")
        for line in lines:
            if line.startswith(b"id: "):
                self._id = line[4:].strip().decode()
            elif line.startswith(b"data: {"):
                self.arrived.append(Arrived(now, self._id, json.loads(line[6:])))


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self.reply: Reply | None = None
        self.transport: asyncio.Transport | None = None

    @property
    def idle(self) -> bool:
        usable = self.transport is not None and not self.transport.is_closing()
        return usable and (self.reply is None or self.reply.complete)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.reply is not None:
            self.reply.feed(data, time.monotonic())

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.reply is not None:
            self.reply.lose()

    def send(self, request: bytes, asked: str) -> Reply:
        assert self.transport is not None
        self.reply = Reply(asked)
        self.transport.write(request)
        return self.reply


class Client:
    """A session that was initialised; it keeps its connections to each replica, as clients do."""

    def __init__(self) -> None:
        self.session_id = ""
        self._session = ""
        self._numbers = itertools.count(1)
        self._connections: dict[str, list[_Connection]] = {}

    @classmethod
    async def open(cls, url: str) -> Self:
        """Begin a session at this replica."""
        client = cls()
        params = {
            "protocolVersion": PROTOCOL_VERSION,
            "capabilities": {"elicitation": {}},
            "clientInfo": {"name": "benchmark", "version": "1"},
        }
        request_id, reply = await client.request(url, "initialize", params)
        await reply.final(request_id)
        client._session = f"mcp-session-id: {reply.session_id}\r\nmcp-protocol-version: {PROTOCOL_VERSION}\r\n"
        await client.tell(url, {"method": "notifications/initialized"})
        client.session_id = reply.session_id
        return client

    async def request(self, url: str, method: str, params: Message) -> tuple[int, Reply]:
        """Send a request and return its id and what will come; it was sent when this returns."""
        request_id = next(self._numbers)
        message = {"id": request_id, "method": method, "params": params}
        return request_id, await self._send(url, "POST", message)

    async def call(self, url: str, tool: str, **arguments: str) -> tuple[int, Reply]:
        """Call a tool; its progress is wanted."""
        return await self.request(
            url, "tools/call", {"name": tool, "arguments": arguments, "_meta": {"progressToken": tool}}
        )

    async def tell(self, url: str, message: Message) -> None:
        """Send what has no response of its own, and wait until it is taken.

        Raises:
            WrongAnswerError: it is not.
        """
        reply = await self._send(url, "POST", message)
        await reply.until(lambda: reply.complete)
        if reply.status != 202:
            raise WrongAnswerError(reply.asked, reply)

    async def listen(self, url: str, cursor: str | None = None) -> Reply:
        """A GET: the standalone stream, or with a request stream's cursor the rest of that."""
        return await self._send(url, "GET", None, "" if cursor is None else f"last-event-id: {cursor}\r\n")

    def cut(self, reply: Reply) -> None:
        """Close the connection that a reply comes on."""
        for connection in self._all():
            if connection.reply is reply and connection.transport is not None:
                connection.transport.abort()

    def close(self) -> None:
        """Close all connections. The session ends by itself."""
        for connection in self._all():
            if connection.transport is not None:
                connection.transport.abort()

    def _all(self) -> list[_Connection]:
        return [connection for connections in self._connections.values() for connection in connections]

    async def _send(self, url: str, method: str, message: Message | None, headers: str = "") -> Reply:
        parts = urlsplit(url)
        body = b"" if message is None else json.dumps({"jsonrpc": "2.0", **message}).encode()
        head = (
            f"{method} /mcp HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
            "accept: application/json, text/event-stream\r\n"
            f"{self._session}{headers}content-length: {len(body)}\r\n\r\n"
        )
        connections = self._connections.setdefault(url, [])
        connection = next((connection for connection in connections if connection.idle), None)
        if connection is None:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(_Connection, str(parts.hostname), parts.port)
            connections.append(connection)
        what = "GET" if message is None else str(message.get("method", "an answer"))
        return connection.send(head.encode() + body, f"{what} at {url}")

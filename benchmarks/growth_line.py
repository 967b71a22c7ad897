"""A kept-alive connection that takes whole responses, in as few steps as asyncio allows, and notes when they came."""

import asyncio
import json
import re
import time
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from benchmarks.client import PROTOCOL_VERSION, WrongAnswerError

Message = dict[str, Any]

LAST_CHUNK = b"\r\n0\r\n\r\n"
MESSAGE = b"data: {"
ID = re.compile(rb"^id: [^\r\n]*\.(\d+)", re.MULTILINE)
INITIALIZE = {
    "protocolVersion": PROTOCOL_VERSION,
    "capabilities": {},
    "clientInfo": {"name": "benchmark", "version": "1"},
}


class Response(NamedTuple):
    """A whole one. Its moments are time.perf_counter's."""

    status: int
    head: bytes
    body: bytes
    """Of chunks: what was in them."""
    first: float
    """When its first message began to come."""
    last: float

    def header(self, name: bytes) -> str:
        found = re.search(rb"^" + name + rb":\s*([^\r\n]*)", self.head, re.IGNORECASE | re.MULTILINE)
        return "" if found is None else found[1].decode()

    def messages(self) -> list[Message]:
        """What its events carry."""
        lines = self.body.splitlines()
        return [json.loads(line[5:]) for line in lines if line.startswith(b"data:") and len(line) > len(b"data: ")]

    def numbers(self) -> list[int]:
        """The numbers of its events, as their ids have them."""
        return [int(number) for number in ID.findall(self.body)]


class Line(asyncio.Protocol):
    """One request, its whole response, and then the next."""

    def __init__(self, url: str) -> None:
        self.host = urlsplit(url).netloc
        self._data = bytearray()
        self._head = b""
        self._length: int | None = None
        self._first = 0.0
        self._response: asyncio.Future[Response] | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, url: str) -> Self:
        parts = urlsplit(url)
        loop = asyncio.get_running_loop()
        _, line = await loop.create_connection(lambda: cls(url), str(parts.hostname), parts.port or 80)
        return line

    async def send(self, method: str, headers: str, body: bytes = b"", *, path: str = "/mcp") -> Response:
        """Send a request and wait for all of its response."""
        assert self._transport is not None
        response = self.expect()
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: {self.host}\r\ncontent-type: application/json\r\n"
            f"accept: application/json, text/event-stream\r\n{headers}content-length: {len(body)}\r\n\r\n"
        )
        self._transport.write(head.encode() + body)
        return await response

    def expect(self) -> asyncio.Future[Response]:
        """What comes next, once all of it is there."""
        self._response = asyncio.get_running_loop().create_future()
        return self._response

    async def initialize(self) -> str:
        """Begin a session; returns the headers of its requests."""
        response = await self.send("POST", "", request(0, "initialize", INITIALIZE))
        if not (session_id := response.header(b"mcp-session-id")):
            raise WrongAnswerError("initialize", response)
        headers = session_headers(session_id)
        response = await self.send("POST", headers, b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
        if response.status != 202:
            raise WrongAnswerError("notifications/initialized", response)
        return headers

    def close(self) -> None:
        assert self._transport is not None
        self._transport.abort()

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._response is not None and not self._response.done():
            self._response.set_exception(exc or EOFError("the server closed the connection in a response"))

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._first and MESSAGE in data:
            self._first = time.perf_counter()
        if not self._head and not self._take_head():
            return
        if self._length is None:
            if self._data.endswith(LAST_CHUNK):
                self._done(_joined(bytes(self._data)))
        elif len(self._data) >= self._length:
            self._done(bytes(self._data))

    def _take_head(self) -> bool:
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return False
        self._head = bytes(self._data[: end + 2])
        # What ends the head also ends an empty line before the first chunk.
        del self._data[: end + 2]
        head = self._head.lower()
        if b"\r\ntransfer-encoding:" not in head:
            del self._data[:2]
            found = re.search(rb"\r\ncontent-length:\s*(\d+)", head)
            self._length = 0 if found is None else int(found[1])
        return True

    def _done(self, body: bytes) -> None:
        assert self._response is not None
        now = time.perf_counter()
        response = Response(int(self._head[9:12]), self._head, body, self._first or now, now)
        self._data, self._head, self._length, self._first = bytearray(), b"", None, 0.0
        self._response.set_result(response)


def _joined(chunked: bytes) -> bytes:
    """What is in the chunks; they begin after the end of the line before."""
    chunks: list[bytes] = []
    place = 2
    while True:
        end = chunked.index(b"\r\n", place)
        if not (size := int(chunked[place:end], 16)):
            return b"".join(chunks)
        chunks.append(chunked[end + 2 : end + 2 + size])
        place = end + 2 + size + 2


def session_headers(session_id: str) -> str:
    return f"mcp-session-id: {session_id}\r\nmcp-protocol-version: {PROTOCOL_VERSION}\r\n"


def request(request_id: int, method: str, params: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}).encode()

"""The way of one SDK client to the front: it can be cut, and tells which replica ran a call and who still listens."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable

import httpx2

from tests.chaos.judge import parse_id
from tests.chaos.records import Call

# A POST to a frozen replica is answered when that thaws, and a stream may say nothing for as long as its keep-alive.
TIMEOUT = httpx2.Timeout(30.0, read=60.0)

EVENT_ID = re.compile(rb"^id: (\S+)$", re.MULTILINE)
STANDALONE = "s."
"""How the standalone stream's event ids begin."""


class Wire(httpx2.AsyncBaseTransport):
    """Remembers what the records want to know."""

    def __init__(self, call_of: Callable[[str], Call | None]) -> None:
        self.session_id = ""
        self.connections = 0
        """How many standalone streams there were."""
        self.listening = 0
        """How many are open now."""
        self._call_of = call_of
        self._newest: dict[str, tuple[Call, int]] = {}
        """By stream: its call, and the number of the last event that came whole."""
        self._inner = httpx2.AsyncHTTPTransport()
        self._open: list[Tap] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._inner.handle_async_request(request)
        self.session_id = response.headers.get("mcp-session-id", self.session_id)
        call = None
        if request.method == "POST" and (call := self._call_of(tag_of(request))) is not None:
            call.replica = int(response.headers.get("x-replica", -1))
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            cursor = request.headers.get("last-event-id", STANDALONE)
            standalone = request.method == "GET" and cursor.startswith(STANDALONE)
            if request.method == "GET" and not standalone:
                call = self._resumed(*parse_id(cursor))
            response.stream = Tap(self, response.stream, call, standalone=standalone)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()

    def cut(self) -> None:
        """Break the calls' connections in the middle of their next chunks.

        The standalone stream is left alone: the SDK's client gives up for good after the second cut.
        """
        for tap in self._open:
            tap.cutting = not tap.standalone

    def _resumed(self, stream: str, after: int) -> Call:
        call, newest = self._newest[stream]
        if after < newest:
            call.rewinds.append(after)
        return call

    def came(self, call: Call, event_id: str) -> None:
        stream, number = parse_id(event_id)
        self._newest[stream] = call, number

    def opened(self, tap: Tap) -> None:
        self._open.append(tap)
        self.connections += tap.standalone
        self.listening += tap.standalone

    def closed(self, tap: Tap) -> None:
        if tap in self._open:
            self._open.remove(tap)
            self.listening -= tap.standalone


class Tap(httpx2.AsyncByteStream):
    """The body of a response, on its way to the client."""

    def __init__(self, wire: Wire, inner: httpx2.AsyncByteStream, call: Call | None, *, standalone: bool) -> None:
        self.standalone = standalone
        self.cutting = False
        self._wire = wire
        self._inner = inner
        self._call = call
        self._rest = b""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._wire.opened(self)
        try:
            async for chunk in self._inner:
                if self.cutting:
                    yield self._note(chunk[: len(chunk) // 2])
                    raise httpx2.ReadError("cut on purpose")
                yield self._note(chunk)
        finally:
            self._wire.closed(self)

    def _note(self, chunk: bytes) -> bytes:
        if self._call is not None:
            whole, end, self._rest = (self._rest + chunk).rpartition(b"\n\n")
            for event_id in EVENT_ID.findall(whole + end):
                self._wire.came(self._call, event_id.decode())
        return chunk

    async def aclose(self) -> None:
        self._wire.closed(self)
        await self._inner.aclose()


def tag_of(request: httpx2.Request) -> str:
    """The tag of a tool call; nothing for any other message."""
    message = json.loads(request.content)
    if message.get("method") != "tools/call":
        return ""
    tag: str = message["params"]["arguments"]["tag"]
    return tag

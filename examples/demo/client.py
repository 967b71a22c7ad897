"""The real SDK client on a wire of ours, which can pin requests to replicas, sees who served, and can be cut."""

import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import anyio
import httpx2
from mcp import Client
from mcp.client.session import ElicitationFnT, MessageHandlerFnT
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.dispatcher import ProgressFnT

# What a request is called that has no JSON-RPC method: an answer to the server's question, the standalone stream, a
# request's stream that goes on, the end of the session.
ANSWER, LISTEN, RESUME, DELETE = "answer", "GET", "resume", "DELETE"
CALL, CANCEL = "tools/call", "notifications/cancelled"

# The SDK sends a message in the context of the task that made it, so each call can have a pin of its own.
CALL_ON: ContextVar[int | None] = ContextVar("call_on", default=None)

PROGRESS = re.compile(rb'"progress":\s*(\d+)')

TIMEOUT = httpx2.Timeout(30.0, read=300.0)


@dataclass(eq=False)
class Exchange:
    """One HTTP request and its response, as far as it has come."""

    kind: str
    last_event_id: str | None
    replica: int
    status: int
    received: bytearray = field(default_factory=bytearray)

    @property
    def progress(self) -> list[int]:
        """The numbers of the progress notifications that arrived whole."""
        whole, _, _ = bytes(self.received).rpartition(b"\n\n")
        return [int(number) for number in PROGRESS.findall(whole)]


class Wire(httpx2.AsyncBaseTransport):
    """The way of one client to the front."""

    def __init__(self, pins: Mapping[str, int] | None = None) -> None:
        self.pins = dict(pins or {})
        """Which kinds of requests go to which replica; all others take turns."""
        self.exchanges: list[Exchange] = []
        self.session_id = ""
        self.cut_when: Callable[[Exchange], bool] | None = None
        """Asked before each chunk is handed on; at True half of the chunk is, and then the connection breaks, once."""
        self._inner = httpx2.AsyncHTTPTransport()
        self._news = anyio.Event()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        kind = kind_of(request)
        pin = CALL_ON.get() if kind == CALL else self.pins.get(kind)
        if pin is not None:
            request.headers["x-replica"] = str(pin)
        response = await self._inner.handle_async_request(request)
        exchange = Exchange(
            kind,
            request.headers.get("last-event-id"),
            # A 502 is the front's own.
            int(response.headers.get("x-replica", -1)),
            response.status_code,
        )
        self.session_id = response.headers.get("mcp-session-id", self.session_id)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = Tap(self, exchange, response.stream)
        self.exchanges.append(exchange)
        self._wake()
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def first(self, kind: str) -> Exchange:
        """Wait until a request of this kind has been answered, with headers at least; return the oldest."""
        while not (found := self.all(kind)):
            await self._news.wait()
        return found[0]

    def all(self, kind: str) -> list[Exchange]:
        return [exchange for exchange in self.exchanges if exchange.kind == kind]

    def _wake(self) -> None:
        news, self._news = self._news, anyio.Event()
        news.set()


class Tap(httpx2.AsyncByteStream):
    """The body of a response, on its way to the client."""

    def __init__(self, wire: Wire, exchange: Exchange, inner: httpx2.AsyncByteStream) -> None:
        self._wire = wire
        self._exchange = exchange
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            if self._wire.cut_when is not None and self._wire.cut_when(self._exchange):
                self._wire.cut_when = None
                half = chunk[: len(chunk) // 2]
                self._exchange.received += half
                yield half
                await self._inner.aclose()
                raise httpx2.ReadError("the demo cut this connection")
            self._exchange.received += chunk
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()


def kind_of(request: httpx2.Request) -> str:
    if request.method == "POST":
        return str(json.loads(request.content).get("method", ANSWER))
    last_event_id = request.headers.get("last-event-id")
    # The standalone stream's event ids begin with its name.
    return RESUME if last_event_id and not last_event_id.startswith("s.") else request.method


@dataclass(frozen=True)
class Connection:
    """One client with its session."""

    client: Client
    wire: Wire

    async def call(
        self, tool: str, *, on: int | None = None, progress: ProgressFnT | None = None, **arguments: object
    ) -> str:
        """Call a tool, on one replica if it is named, and return its text.

        Raises RuntimeError if the tool failed, MCPError if the call did.
        """
        token = CALL_ON.set(on)
        try:
            result = await self.client.call_tool(tool, arguments, progress_callback=progress)
        finally:
            CALL_ON.reset(token)
        text = "".join(getattr(part, "text", "") for part in result.content)
        if result.is_error:
            raise RuntimeError(f"the tool {tool} failed: {text}")
        return text


@asynccontextmanager
async def connect(
    url: str,
    *,
    pins: Mapping[str, int] | None = None,
    on_elicitation: ElicitationFnT | None = None,
    on_message: MessageHandlerFnT | None = None,
) -> AsyncIterator[Connection]:
    """A session of the handshake era, ended with a DELETE at the end of the block."""
    wire = Wire(pins)
    async with httpx2.AsyncClient(transport=wire, timeout=TIMEOUT) as http:
        transport = streamable_http_client(url, http_client=http)
        # "legacy" is the SDK's word for the initialize handshake; it offers 2025-11-25.
        async with Client(
            transport, mode="legacy", cache=None, elicitation_callback=on_elicitation, message_handler=on_message
        ) as client:
            yield Connection(client, wire)

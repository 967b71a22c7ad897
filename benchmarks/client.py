"""One client session over one kept-alive connection, as light as asyncio allows: it must not be the bottleneck.

Just enough HTTP/1.1 and SSE for servers that answer correctly; anything unexpected ends the measurement.
"""

import asyncio
import json
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

PROTOCOL_VERSION = "2025-11-25"


class WrongAnswerError(Exception):
    """The server answered something else than what was asked for."""

    def __init__(self, asked: str, got: object) -> None:
        super().__init__(f"{asked} was answered with {got!r}")


class Answer(NamedTuple):
    """A response; `head` ends with an empty line."""

    status: int
    head: bytes
    body: bytes


class Connection(asyncio.Protocol):
    """Sends one request after the other, each when the response to the one before is complete."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._answer: asyncio.Future[Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received = self._received + data if self._received else data
        try:
            answer = whole_answer(self._received)
        except (ValueError, IndexError):
            answer = None
            self._fail(WrongAnswerError("a request", self._received))
        if answer is not None and self._answer is not None and not self._answer.done():
            self._received = b""
            self._answer.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or EOFError("the server closed the connection"))

    async def send(self, request: bytes) -> Answer:
        """Send the bytes of a request and return its whole response.

        Raises:
            EOFError: the connection ended before it.
        """
        assert self._transport is not None
        if self._transport.is_closing():
            raise EOFError("the server closed the connection")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        assert self._transport is not None
        self._transport.close()

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


def whole_answer(received: bytes) -> Answer | None:
    """The response that these bytes are, or None as long as it is not complete."""
    end = received.find(b"\r\n\r\n") + 4
    if end < 4:
        return None
    head = received[:end]
    status = int(head[9:12])
    if header(head, b"transfer-encoding") is None:
        missing = end + int(header(head, b"content-length") or 0) - len(received)
        return _complete(Answer(status, head, received[end:]), -missing) if missing <= 0 else None
    chunks: list[bytes] = []
    while True:
        start = received.find(b"\r\n", end) + 2
        if start < 2:
            return None
        size = int(received[end : start - 2], 16)
        end = start + size + 2
        if len(received) < end:
            return None
        if not size:
            body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            return _complete(Answer(status, head, body), len(received) - end)
        chunks.append(received[start : end - 2])


def _complete(answer: Answer, too_many: int) -> Answer:
    if too_many:
        raise ValueError("bytes after the end of a response")
    return answer


def header(head: bytes, name: bytes) -> bytes | None:
    """The value of a header, whose name may be in any case, or None."""
    start = head.lower().find(b"\r\n" + name + b":")
    if start < 0:
        return None
    start += len(name) + 3
    return head[start : head.index(b"\r\n", start)].strip()


class ClientSession:
    """An MCP session that was initialised; calls go one after the other."""

    def __init__(self, connection: Connection, url: str) -> None:
        self._connection = connection
        parts = urlsplit(url)
        self._host = parts.netloc
        self._path = parts.path
        self._common = self._headers("")
        self._last_id = 0

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect and initialise a session."""
        parts = urlsplit(url)
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, str(parts.hostname), parts.port or 80)
        session = cls(connection, url)
        await session._initialize()
        return session

    async def echo(self, text: str, *, tool: str = "echo") -> None:
        """Call the tool and check that its result comes back under the request's id.

        Raises:
            WrongAnswerError: it does not.
        """
        self._last_id = id = self._last_id + 1
        arguments = (id, tool.encode(), text.encode())
        body = (
            b'{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"%b","arguments":{"text":"%b"}}}'
            % arguments
        )
        answer = await self._post(body)
        result = message(answer, id).get("result")
        if not result or result["content"][0]["text"] != text or result.get("isError"):
            raise WrongAnswerError(f"echo of {text!r}", answer)

    async def renew(self) -> None:
        """Begin another session on the same connection; the one before is left to expire."""
        self._common = self._headers("")
        await self._initialize()

    async def close(self) -> None:
        """End the session and the connection."""
        answer = await self._connection.send(self.request(b"DELETE", b""))
        self._connection.close()
        if answer.status not in (200, 204):
            raise WrongAnswerError("DELETE", answer)

    def request(self, method: bytes, body: bytes) -> bytes:
        """The bytes of a request of this session."""
        return b"%b%b%d\r\n\r\n%b" % (method, self._common, len(body), body)

    async def _initialize(self) -> None:
        params = {
            "protocolVersion": PROTOCOL_VERSION,
            "capabilities": {},
            "clientInfo": {"name": "benchmark", "version": "1"},
        }
        body = json.dumps({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}).encode()
        answer = await self._post(body)
        version = message(answer, 0)["result"]["protocolVersion"]
        session_id = header(answer.head, b"mcp-session-id")
        if session_id is None or version != PROTOCOL_VERSION:
            raise WrongAnswerError("initialize", answer)
        self._common = self._headers(
            f"mcp-session-id: {session_id.decode()}\r\nmcp-protocol-version: {PROTOCOL_VERSION}\r\n"
        )
        answer = await self._post(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
        if answer.status != 202:
            raise WrongAnswerError("notifications/initialized", answer)

    def _headers(self, session: str) -> bytes:
        return (
            f" {self._path} HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: application/json\r\n"
            f"accept: application/json, text/event-stream\r\n{session}content-length: "
        ).encode()

    async def _post(self, body: bytes) -> Answer:
        return await self._connection.send(self.request(b"POST", body))


def message(answer: Answer, id: int) -> dict[str, Any]:
    """The message of a response, SSE or JSON, that answers a request; comments and events without data are skipped."""
    if answer.status == 200:
        for line in answer.body.splitlines():
            if line.startswith(b"data:") and len(line) > len(b"data: "):
                found: dict[str, Any] = json.loads(line[5:])
            elif line.startswith(b"{"):
                found = json.loads(line)
            else:
                continue
            if found.get("id") == id:
                return found
    raise WrongAnswerError(f"request {id}", answer)

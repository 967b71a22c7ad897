"""One client session over one kept-alive connection, as light as asyncio streams allow: it must not be the bottleneck.

Just enough HTTP/1.1 and SSE for servers that answer correctly; anything unexpected ends the measurement.
"""

import asyncio
import json
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

PROTOCOL_VERSION = "2025-11-25"

READ_LIMIT = 4 * 1024 * 1024


class WrongAnswerError(Exception):
    """The server answered something else than what was asked for."""

    def __init__(self, asked: str, got: object) -> None:
        super().__init__(f"{asked} was answered with {got!r}")


class Answer(NamedTuple):
    """A response; `head` ends with an empty line."""

    status: int
    head: bytes
    body: bytes


class ClientSession:
    """An MCP session that was initialised; calls go one after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, url: str) -> None:
        self._reader = reader
        self._writer = writer
        parts = urlsplit(url)
        self._host = parts.netloc
        self._path = parts.path
        self._common = self._headers("")
        self._last_id = 0

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect and initialise a session."""
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=READ_LIMIT)
        session = cls(reader, writer, url)
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
        result = _message(answer, id).get("result")
        if not result or result["content"][0]["text"] != text or result.get("isError"):
            raise WrongAnswerError(f"echo of {text!r}", answer)

    async def renew(self) -> None:
        """Begin another session on the same connection; the one before is left to expire."""
        self._common = self._headers("")
        await self._initialize()

    async def close(self) -> None:
        """End the session and the connection."""
        answer = await self._send(b"DELETE", b"")
        self._writer.close()
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
        version = _message(answer, 0)["result"]["protocolVersion"]
        session_id = _header(answer.head, b"mcp-session-id")
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
        return await self._send(b"POST", body)

    async def _send(self, method: bytes, body: bytes) -> Answer:
        self._writer.write(self.request(method, body))
        head = await self._reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        if _header(head, b"transfer-encoding"):
            return Answer(status, head, await self._chunks())
        length = int(_header(head, b"content-length") or 0)
        return Answer(status, head, await self._reader.readexactly(length))

    async def _chunks(self) -> bytes:
        reader = self._reader
        body = b""
        while True:
            size = int(await reader.readuntil(b"\r\n"), 16)
            chunk = await reader.readexactly(size + 2)
            if not size:
                return body
            body += chunk[:-2]


def _header(head: bytes, name: bytes) -> bytes | None:
    """The value of a header, whose name may be in any case, or None."""
    start = head.lower().find(b"\r\n" + name + b":")
    if start < 0:
        return None
    start += len(name) + 3
    return head[start : head.index(b"\r\n", start)].strip()


def _message(answer: Answer, id: int) -> dict[str, Any]:
    """The message of an SSE response that answers a request; comments and events without data are skipped."""
    if answer.status == 200:
        for line in answer.body.splitlines():
            if line.startswith(b"data:") and len(line) > len(b"data: "):
                message: dict[str, Any] = json.loads(line[5:])
                if message.get("id") == id:
                    return message
    raise WrongAnswerError(f"request {id}", answer)

"""A raw client: every request goes to a replica of the test's choice, and what comes back is kept as it was sent."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import httpx2

DEADLINE = 15.0
"""Seconds that anything expected may take, on a machine that does other things too."""

LATEST = "2025-11-25"
CAPABILITIES: dict[str, Any] = {"elicitation": {}, "sampling": {}, "roots": {}}
ACCEPT = "application/json, text/event-stream"

Message = dict[str, Any]


@dataclass(frozen=True)
class Frame:
    """One SSE frame."""

    id: str | None
    data: str | None
    retry: int | None

    @property
    def message(self) -> Message | None:
        """The JSON-RPC message in it, if there is one."""
        loaded: Message | None = json.loads(self.data) if self.data else None
        return loaded


def frame_of(lines: list[str]) -> Frame | None:
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if name:
            fields[name] = value.removeprefix(" ")
    if not fields:
        return None
    retry = fields.get("retry")
    return Frame(fields.get("id"), fields.get("data"), int(retry) if retry else None)


class Stream:
    """A response that is read in the background while the test goes on."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.body = b""
        self.frames: list[Frame] = []
        self.ended = False
        self.error: Exception | None = None
        self._changed = anyio.Event()

    def __repr__(self) -> str:
        state = f"ended {self.error or ''}" if self.ended else "open"
        return f"<Stream {self.status} {state} {self.body.decode(errors='replace')!r}>"

    @property
    def messages(self) -> list[Message]:
        return [message for frame in self.frames if (message := frame.message) is not None]

    @property
    def ids(self) -> list[str]:
        """The ids of all frames that have one, in order."""
        return [frame.id for frame in self.frames if frame.id is not None]

    def id_of(self, message: int) -> str | None:
        """The id of the frame that carries the message of this number, counted from 0."""
        return [frame.id for frame in self.frames if frame.message][message]

    @property
    def last_id(self) -> str:
        return self.ids[-1]

    @property
    def steps(self) -> list[int]:
        """What the progress notifications said."""
        method = "notifications/progress"
        return [int(message["params"]["progress"]) for message in self.messages if message.get("method") == method]

    @property
    def methods(self) -> list[str]:
        return [message["method"] for message in self.messages if "method" in message]

    @property
    def finals(self) -> list[Message]:
        """The answers to the client's own requests."""
        return [message for message in self.messages if "method" not in message]

    async def until(self, condition: Callable[[], object], within: float = DEADLINE) -> None:
        """Wait for what comes to make `condition` true."""
        with anyio.move_on_after(within):
            while not condition():
                await self._changed.wait()
            return
        raise AssertionError(f"did not happen within {within:g} s: {self}")

    async def open(self) -> Stream:
        await self.until(lambda: self.status or self.ended)
        return self

    async def ask(self, method: str) -> Message:
        """Wait for the server's request, and return it."""
        await self.until(lambda: method in self.methods)
        return next(message for message in self.messages if message.get("method") == method)

    async def end(self, within: float = DEADLINE) -> Stream:
        """Wait until the response has ended."""
        await self.until(lambda: self.ended, within)
        return self

    async def read(self, http: httpx2.AsyncClient, request: httpx2.Request) -> None:
        lines: list[str] = []
        rest = b""
        try:
            response = await http.send(request, stream=True)
            try:
                self.status, self.headers = response.status_code, response.headers
                self._tell()
                async for chunk in response.aiter_bytes():
                    self.body += chunk
                    *whole, rest = (rest + chunk).split(b"\n")
                    for raw in whole:
                        if line := raw.removesuffix(b"\r"):
                            lines.append(line.decode())
                            continue
                        if frame := frame_of(lines):
                            self.frames.append(frame)
                        lines = []
                    self._tell()
            finally:
                with anyio.CancelScope(shield=True):
                    await response.aclose()
        except httpx2.HTTPError as error:
            self.error = error
        self.ended = True
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


class Client:
    """One client with one session. `replica` pins a request; without it the front's turn decides."""

    def __init__(self, http: httpx2.AsyncClient, *, version: str = LATEST, headers: Mapping[str, str] = {}) -> None:
        self._http = http
        self._headers = dict(headers)
        # Far from the ids that tests choose: an id that is used again while its stream's end is on its way into the log
        # is refused as a duplicate, and rightly so.
        self._numbers = itertools.count(1000)
        self.version = version
        self.session_id = ""

    async def initialize(self, *, replica: int | None = None, capabilities: Mapping[str, Any] = CAPABILITIES) -> Stream:
        """Begin a session, all the way to `initialized`."""
        params = {
            "protocolVersion": self.version,
            "capabilities": dict(capabilities),
            "clientInfo": {"name": "raw", "version": "1"},
        }
        async with self.requesting("initialize", params, replica=replica) as stream:
            await stream.end()
        assert stream.status == 200, stream
        self.session_id = stream.headers["mcp-session-id"]
        assert (await self.notify("notifications/initialized", replica=replica)).status_code == 202
        return stream

    def headers(self, replica: int | None = None, more: Mapping[str, str] = {}) -> dict[str, str]:
        headers = {"accept": ACCEPT, "content-type": "application/json", **self._headers}
        if self.session_id:
            headers |= {"mcp-session-id": self.session_id, "mcp-protocol-version": self.version}
        if replica is not None:
            headers["x-replica"] = str(replica)
        return {**headers, **more}

    # What ends by itself

    async def post(
        self, body: Message | bytes | list[Any], *, replica: int | None = None, headers: Mapping[str, str] = {}
    ) -> httpx2.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self._http.post("/mcp", content=content, headers=self.headers(replica, headers))

    async def get(self, *, replica: int | None = None, headers: Mapping[str, str] = {}) -> httpx2.Response:
        """A GET that is expected to be refused: it is read to its end."""
        return await self._http.get("/mcp", headers=self.headers(replica, headers))

    async def delete(self, *, replica: int | None = None) -> httpx2.Response:
        return await self._http.delete("/mcp", headers=self.headers(replica))

    async def notify(
        self, method: str, params: Message | None = None, *, replica: int | None = None
    ) -> httpx2.Response:
        message: Message = {"jsonrpc": "2.0", "method": method}
        return await self.post(message if params is None else {**message, "params": params}, replica=replica)

    async def cancel(self, request_id: int | str, *, replica: int | None = None) -> httpx2.Response:
        return await self.notify("notifications/cancelled", {"requestId": request_id}, replica=replica)

    async def answer(self, request_id: object, result: Message, *, replica: int | None = None) -> httpx2.Response:
        return await self.post({"jsonrpc": "2.0", "id": request_id, "result": result}, replica=replica)

    async def accept(self, question: Message, text: str, *, replica: int | None = None) -> httpx2.Response:
        """Answer an elicitation."""
        result = {"action": "accept", "content": {"answer": text}}
        return await self.answer(question["id"], result, replica=replica)

    async def call(self, tool: str, arguments: Message | None = None, *, replica: int | None = None) -> str:
        """Call a tool and return its text; an error raises."""
        async with self.calling(tool, arguments, replica=replica) as stream:
            await stream.end()
        assert len(stream.finals) == 1, stream
        return text_of(stream.finals[0])

    async def status(self, *, replica: int | None = None) -> int:
        """What a ping is answered with."""
        message = {"jsonrpc": "2.0", "id": f"ping-{next(self._numbers)}", "method": "ping"}
        return (await self.post(message, replica=replica)).status_code

    # What stays open while inside

    @asynccontextmanager
    async def sending(self, method: str, body: bytes | None, headers: Mapping[str, str]) -> AsyncIterator[Stream]:
        """A response, read in the background; leaving cuts it."""
        stream = Stream()
        request = self._http.build_request(method, "/mcp", content=body, headers=headers)
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.read, self._http, request)
            try:
                yield stream
            except Exception as error:  # raised again below, alone instead of in groups, so that it can be read
                failure = error
            finally:
                tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    @asynccontextmanager
    async def requesting(
        self, method: str, params: Message | None = None, *, id: int | str | None = None, replica: int | None = None
    ) -> AsyncIterator[Stream]:
        request_id = next(self._numbers) if id is None else id
        message: Message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params or {}}
        async with self.sending("POST", json.dumps(message).encode(), self.headers(replica)) as stream:
            yield stream

    @asynccontextmanager
    async def calling(
        self, tool: str, arguments: Message | None = None, *, id: int | str | None = None, replica: int | None = None
    ) -> AsyncIterator[Stream]:
        """A tool call; its progress is wanted."""
        request_id = next(self._numbers) if id is None else id
        params = {"name": tool, "arguments": arguments or {}, "_meta": {"progressToken": f"token-{request_id}"}}
        async with self.requesting("tools/call", params, id=request_id, replica=replica) as stream:
            yield stream

    @asynccontextmanager
    async def listening(self, cursor: str | None = None, *, replica: int | None = None) -> AsyncIterator[Stream]:
        """A GET: the standalone stream, or with a request stream's cursor the rest of that."""
        more = {} if cursor is None else {"last-event-id": cursor}
        async with self.sending("GET", None, self.headers(replica, {"accept": "text/event-stream", **more})) as stream:
            yield stream


def text_of(message: Message) -> str:
    """The text of a tool's result.

    Raises AssertionError for an error.
    """
    assert "result" in message, message
    assert not message["result"].get("isError"), message
    text: str = message["result"]["content"][0]["text"]
    return text


def error_of(response: httpx2.Response) -> Message:
    """The JSON-RPC error that a refusal carries, which has no id."""
    body: Message = response.json()
    assert "id" not in body, body
    error: Message = body["error"]
    return error

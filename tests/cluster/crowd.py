"""Many clients that listen at once, as light as asyncio's streams allow: they share the replicas' machine."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

import anyio

from tests.cluster.client import Client, Message

LIMIT = 4 * 1024 * 1024
# Seconds before a client whose stream ended comes back.
RETRY = 0.1


class Told(NamedTuple):
    """One piece of news as somebody heard it: of which kind, and whose which it was."""

    kind: str
    publisher: str
    number: int


def news_of(told: Told) -> tuple[str, Message]:
    """What to publish: a kind is a method, and the URI of a resource if it is about one."""
    method, _, uri = told.kind.partition(" ")
    meta = {"_meta": {"publisher": told.publisher, "number": told.number}}
    return method, {**meta, "uri": uri} if uri else meta


def told_of(method: str, params: Message) -> Told:
    """The way back; what is not of a plan has no publisher."""
    if "_meta" not in params:
        return Told(method, "", 0)
    kind = f"{method} {params['uri']}" if "uri" in params else method
    meta = params["_meta"]
    return Told(sys.intern(kind), sys.intern(meta["publisher"]), meta["number"])


class Listener:
    """One client's standalone stream; cut, it comes back, with the id of the last frame that came whole.

    Each time to the next one of the replicas, unless it has only one.
    """

    def __init__(self, client: Client, urls: Sequence[str]) -> None:
        self._client = client
        self._urls = itertools.cycle(urls)
        self._host = ""
        self._cursor = ""
        self._changed = anyio.Event()
        self._cutting = False
        self.heard: list[Told] = []
        """All that came, in order."""
        self.cuts = 0
        self.refused = 0

    def __repr__(self) -> str:
        return f"<Listener on {self._host}: {len(self.heard)} heard, {self.cuts} cuts, {self.refused} times refused>"

    async def ready(self) -> None:
        """Wait for the first frame."""
        while not self._cursor:
            await self._changed.wait()

    async def until(self, kind: str) -> None:
        """Wait until the last that came is of this kind."""
        while not self.heard or self.heard[-1].kind != kind:
            await self._changed.wait()

    def cut(self) -> None:
        """Lose the connection right after the next frame, and whatever came with it or is on its way."""
        self._cutting = True

    async def listen(self) -> None:
        """Listen until cancelled."""
        while True:
            parts = urlsplit(next(self._urls))
            self._host = parts.netloc
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=LIMIT)
            try:
                writer.write(self._request())
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"HTTP/1.1 200"):
                    await self._read(reader)
                else:
                    # The holder before has not noticed yet that its client has gone.
                    assert head.startswith(b"HTTP/1.1 409"), head
                    self.refused += 1
            except (ConnectionError, asyncio.IncompleteReadError):
                self.cuts += 1
            finally:
                writer.transport.abort()
            await anyio.sleep(RETRY)

    def _request(self) -> bytes:
        headers = {**self._client.headers(), "accept": "text/event-stream", "host": self._host}
        if self._cursor:
            headers["last-event-id"] = self._cursor
        lines = ["GET /mcp HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        return "\r\n".join(lines).encode()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        id, data, rest = "", b"", b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            chunk = await reader.readexactly(size + 2)
            *lines, rest = (rest + chunk[:-2]).split(b"\n")
            for line in lines:
                name, _, value = line.rstrip(b"\r").partition(b": ")
                match name:
                    case b"id":
                        id = value.decode()
                    case b"data":
                        data = value
                    case b"":
                        self._take(id, data)
                        id, data = "", b""
            changed, self._changed = self._changed, anyio.Event()
            changed.set()

    def _take(self, id: str, data: bytes) -> None:
        self._cursor = id or self._cursor
        if data:
            message = json.loads(data)
            self.heard.append(told_of(message["method"], message["params"]))
        if self._cutting:
            self._cutting = False
            raise ConnectionResetError

"""Clients with open standalone streams, a process of its own: `python -m benchmarks.streams_client --url URL …`.

It is told what to do by lines on its standard input, and answers each with one line of JSON: `open N` begins so many
sessions, each over HTTP at one replica, and opens their streams, each at the next one; `hear` waits until every stream
has heard once more.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from benchmarks.client import ClientSession
from examples.replica import end_with_parent, raise_file_limit

# Connections that begin sessions, and those that open streams, at once.
AT_ONCE = 32
# Seconds for one stream to open, and for all to hear.
PATIENCE = 60.0


class Ears:
    """When all the streams heard of what was published last."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.lost = 0
        self.streams = 0
        self._changed = asyncio.Event()

    def note(self, latency: float) -> None:
        self.latencies.append(latency)
        if len(self.latencies) >= self.streams:
            self._changed.set()

    async def take(self) -> Mapping[str, float]:
        """Wait until each stream has heard, or long enough; then begin anew."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._changed.wait()
            # One too many would come right after.
            await asyncio.sleep(0.5)
        except TimeoutError:
            pass
        heard, self.latencies, self._changed = sorted(self.latencies), [], asyncio.Event()
        if not heard:
            return {"heard": 0, "lost": self.lost, "first": 0.0, "median": 0.0, "last": 0.0}
        middle = heard[len(heard) // 2]
        return {"heard": len(heard), "lost": self.lost, "first": heard[0], "median": middle, "last": heard[-1]}


class Stream(asyncio.Protocol):
    """A GET; of what comes it parses its first id, and the time in each message."""

    __slots__ = ("_ears", "_request", "_rest", "open")

    def __init__(self, request: bytes, ears: Ears) -> None:
        self._request = request
        self._ears = ears
        self._rest = b""
        self.open: asyncio.Future[None] | None = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ears.lost += 1
        if self.open is not None and not self.open.done():
            self.open.set_exception(exc or EOFError("the stream ended before it began"))

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data: {"):
                self._ears.note(now - json.loads(line[6:])["params"]["_meta"]["at"])
            elif self.open is not None and line.startswith(b"id: ") and not self.open.done():
                self.open.set_result(None)


async def open_streams(urls: Sequence[str], streams: int, ears: Ears) -> Mapping[str, float]:
    """Open them all; the seconds that the sessions and then the streams took."""
    began = time.monotonic()
    requests: list[list[bytes]] = [[] for _ in urls]
    numbers = iter(range(streams))

    async def begin() -> None:
        connections = [await ClientSession.open(url) for url in urls]
        for number in numbers:
            session = connections[number % len(urls)]
            await session.renew()
            requests[(number + 1) % len(urls)].append(session.request(b"GET", b""))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(begin())
    begun = time.monotonic()
    waiting = iter([(url, request) for url, some in zip(urls, requests, strict=True) for request in some])

    async def open_some() -> None:
        for url, request in waiting:
            parts = urlsplit(url)
            _, stream = await asyncio.get_running_loop().create_connection(
                lambda request=request: Stream(request, ears),  # type: ignore[misc]
                str(parts.hostname),
                parts.port or 80,
            )
            async with asyncio.timeout(PATIENCE):
                assert stream.open is not None
                await stream.open
            stream.open = None

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(open_some())
    ears.streams += streams
    return {"sessions": begun - began, "streams": time.monotonic() - begun}


async def obey(urls: Sequence[str]) -> None:
    """Do what the lines say, until they end."""
    ears = Ears()
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while words := (await lines.readline()).decode().split():
        answer = await open_streams(urls, int(words[1]), ears) if words[0] == "open" else await ears.take()
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streams_client")
    parser.add_argument("--url", action="append", required=True)
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args()
    end_with_parent(options.parent)
    raise_file_limit()
    asyncio.run(obey(options.url))


if __name__ == "__main__":
    main()

"""A round-robin front: every request, not every connection, goes to the next replica.

`python -m examples.front --port N HOST:PORT...`. It is as plain as a balancer can be: no sticky sessions, no health
checks, no retries but one: a replica that refuses the connection is skipped. A request header `x-replica: 1` pins that
request to replica 1, and the same header of each response says who served.
"""

import argparse
import contextlib
import itertools
import logging
from collections.abc import AsyncIterable, AsyncIterator, Sequence

import anyio
import httpcore2
import uvicorn
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from examples.replica import end_with_parent, raise_file_limit

logger = logging.getLogger("examples.front")

Headers = list[tuple[bytes, bytes]]
Body = bytes | AsyncIterable[bytes] | None

# These belong to one connection, not to the message (RFC 9110, 7.6.1).
HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
)

# Seconds. Less than uvicorn keeps an idle connection by default (5), so that no request is sent into one that closes.
KEEP_ALIVE = 2.0

# Seconds. Reads have no timeout: a stream may be silent for as long as it likes.
CONNECT_TIMEOUT = 5.0

# Nothing was sent yet: another replica may have the request.
CANNOT_CONNECT = (httpcore2.ConnectError, httpcore2.ConnectTimeout)
UPSTREAM_FAILED = (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException)


class Front:
    """The front as an ASGI app over `(host, port)` pairs."""

    def __init__(self, upstreams: Sequence[tuple[str, int]]) -> None:
        self._upstreams = [Upstream(index, host, port) for index, (host, port) in enumerate(upstreams)]
        self._turns = itertools.cycle(range(len(upstreams)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on and its response back, for as long as the client stays."""
        first = await receive()
        if first["type"] == "http.disconnect":
            return
        try:
            candidates = self._candidates(scope)
        except ValueError as error:
            await PlainTextResponse(f"{error}\n", 400)(scope, receive, send)
            return
        chunks_in, chunks_out = anyio.create_memory_object_stream[bytes]()
        # A body that came whole is passed on whole; only a longer one is worth a stream.
        body: Body = read_on(first["body"], chunks_out) if first["more_body"] else first["body"] or None
        with chunks_out:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listen_to_client, first["more_body"], receive, chunks_in, tasks.cancel_scope)
                await forward(scope, body, candidates, send)
                tasks.cancel_scope.cancel()

    def _candidates(self, scope: Scope) -> "list[Upstream]":
        """Who may serve this request, in order; one only if the client pinned it."""
        pinned = dict(scope["headers"]).get(b"x-replica")
        if pinned is None:
            turn = next(self._turns)
            return self._upstreams[turn:] + self._upstreams[:turn]
        if pinned.isdigit() and int(pinned) < len(self._upstreams):
            return [self._upstreams[int(pinned)]]
        raise ValueError(f"x-replica must be a number from 0 to {len(self._upstreams) - 1}")


class Upstream:
    """One replica and the connections to it."""

    def __init__(self, index: int, host: str, port: int) -> None:
        self.index = index
        self._host = host.encode()
        self._port = port
        # Not one pool for all: a pool looks through every connection it has, twice per request.
        self._pool = httpcore2.AsyncConnectionPool(max_connections=None, keepalive_expiry=KEEP_ALIVE)

    async def request(self, scope: Scope, body: Body) -> httpcore2.Response:
        """Send the request; return the response as soon as its head is there, to be closed by the caller."""
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        return await self._pool.handle_async_request(
            httpcore2.Request(
                scope["method"].encode(),
                httpcore2.URL(scheme=b"http", host=self._host, port=self._port, target=target),
                headers=framed(end_to_end(scope["headers"]), body),
                content=body,
                extensions={"timeout": {"connect": CONNECT_TIMEOUT}},
            )
        )


async def read_on(first: bytes, chunks: MemoryObjectReceiveStream[bytes]) -> AsyncIterator[bytes]:
    with chunks:
        yield first
        async for chunk in chunks:
            yield chunk


async def listen_to_client(
    more: bool, receive: Receive, chunks: MemoryObjectSendStream[bytes], request: anyio.CancelScope
) -> None:
    """Hand on what follows of the body; cancel `request` when the client goes away."""
    with chunks:
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                request.cancel()
                return
            # A replica may answer, or die, before it has read everything: the rest is dropped.
            with contextlib.suppress(anyio.BrokenResourceError):
                await chunks.send(message["body"])
            more = message["more_body"]
    # After the body there is only one message left.
    await receive()
    request.cancel()


async def forward(scope: Scope, body: Body, candidates: Sequence[Upstream], send: Send) -> None:
    """Let the first candidate that accepts the connection serve; answer 502 if none does or it fails."""
    for upstream in candidates:
        try:
            response = await upstream.request(scope, body)
        except CANNOT_CONNECT as error:
            logger.info("replica %d is skipped: %r", upstream.index, error)
            continue
        except UPSTREAM_FAILED as error:
            await bad_gateway(f"replica {upstream.index} failed: {error!r}", scope, send)
            return
        try:
            await pass_back(response, upstream.index, send)
        except UPSTREAM_FAILED as error:
            # Not ended on purpose: the server then cuts the connection, and the client sees that something is missing.
            logger.warning("replica %d failed in the middle of a response: %r", upstream.index, error)
        return
    await bad_gateway("no replica accepts connections", scope, send)


async def pass_back(response: httpcore2.Response, index: int, send: Send) -> None:
    """Send the response to the client, each chunk at once."""
    headers = [*end_to_end(response.headers), (b"x-replica", b"%d" % index)]
    try:
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        async for chunk in response.aiter_stream():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        with anyio.CancelScope(shield=True):
            await response.aclose()


async def bad_gateway(reason: str, scope: Scope, send: Send) -> None:
    logger.warning("502: %s", reason)
    await PlainTextResponse(f"{reason}\n", 502)(scope, no_more_messages, send)


async def no_more_messages() -> Message:
    return {"type": "http.disconnect"}


def end_to_end(headers: Headers) -> Headers:
    """The headers that are the message's own; those of the connection are left out."""
    named = {
        name.strip().lower() for key, value in headers if key.lower() == b"connection" for name in value.split(b",")
    }
    return [(key, value) for key, value in headers if key.lower() not in HOP_BY_HOP | named]


def framed(headers: Headers, body: Body) -> Headers:
    """The headers, with one more that says how long the body is if none does so yet."""
    if body is None or any(key.lower() == b"content-length" for key, _ in headers):
        return headers
    if isinstance(body, bytes):
        return [*headers, (b"content-length", b"%d" % len(body))]
    return [*headers, (b"transfer-encoding", b"chunked")]


def main() -> None:
    """Serve the front until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m examples.front", description="Run a round-robin front.")
    parser.add_argument("upstreams", metavar="HOST:PORT", nargs="+", help="the replicas")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--parent", type=int, help="process id to end with (Linux)")
    arguments = parser.parse_args()

    if arguments.parent is not None:
        end_with_parent(arguments.parent)
    raise_file_limit()
    upstreams = [(host, int(port)) for host, _, port in (upstream.rpartition(":") for upstream in arguments.upstreams)]
    uvicorn.run(
        Front(upstreams),
        host="127.0.0.1",
        port=arguments.port,
        lifespan="off",
        ws="none",
        access_log=False,
        log_level="warning",
        # Headers are the replicas' business.
        server_header=False,
        date_header=False,
        proxy_headers=False,
        # Longer than any client keeps an idle connection: a request must not meet a connection that is just closing.
        timeout_keep_alive=60,
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()

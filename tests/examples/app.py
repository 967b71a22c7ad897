"""What the replicas of `test_front` run: an echo, and streams that a test holds in its hand."""

import hashlib
import os
from collections.abc import AsyncIterator

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route


def make_app() -> Starlette:
    """An echo, and a stream that says `one`, waits for a POST to /release, and says `two`."""
    released = anyio.Event()
    open_streams = 0

    async def echo(request: Request) -> Response:
        body = await request.body()
        headers = [(name.decode(), value.decode()) for name, value in request.headers.raw]
        target = (request.scope["raw_path"] + b"?" + request.scope["query_string"]).decode()
        return JSONResponse(
            {
                "method": request.method,
                "target": target,
                "headers": headers,
                "size": len(body),
                "sha256": hashlib.sha256(body).hexdigest(),
            },
            headers={"x-from-replica": os.environ["MCPSESSION_REPLICA_LABEL"]},
        )

    async def stream(_: Request) -> Response:
        async def events() -> AsyncIterator[bytes]:
            nonlocal open_streams
            open_streams += 1
            try:
                yield b"data: one\n\n"
                await released.wait()
                yield b"data: two\n\n"
            finally:
                open_streams -= 1

        return StreamingResponse(events(), media_type="text/event-stream")

    async def silence(request: Request) -> Response:
        """Wait for the client's going away, without a word."""
        nonlocal open_streams
        open_streams += 1
        while (await request.receive())["type"] != "http.disconnect":
            pass
        open_streams -= 1
        return Response()

    async def release(_: Request) -> Response:
        nonlocal released
        released.set()
        released = anyio.Event()
        return Response(status_code=204)

    async def count(_: Request) -> Response:
        return JSONResponse(open_streams)

    return Starlette(
        routes=[
            Route("/echo/{rest:path}", echo, methods=["GET", "POST", "DELETE"]),
            Route("/stream", stream, methods=["GET", "POST"]),
            Route("/release", release, methods=["POST"]),
            Route("/count", count),
            Route("/silence", silence),
        ]
    )


def make_nothing() -> Starlette:
    """A replica that fails at start, with a reason."""
    raise RuntimeError("the reason")

"""What the socket that brought a request gets of it: one whole answer, or a stream of frames."""

from __future__ import annotations

import asyncio

import anyio
from mcp_types import RequestId
from starlette.types import Receive, Send

from mcpsession.sdk import wire
from mcpsession.sdk.outbound import STUCK, Outbound, gone, may_write
from mcpsession.sdk.parts import Parts
from mcpsession.writer import StreamWriter

# Enough for a peer that reads at all to take the last frame of a stream that is being cut.
_CUT_DEADLINE = 1.0

Refusal = tuple[int, str]


class Response:
    """One side is the handler's, which waits for the socket only where it says so; the other is the ASGI task's.

    Costs one future and two sends where the answer is all there is; scopes, a watcher and a task group only
    where frames leave before it.
    """

    __slots__ = (
        "_answer",
        "_closing",
        "_cut",
        "_ended",
        "_outbound",
        "_parts",
        "_primes",
        "_raised",
        "_refusal",
        "_request_id",
        "_session_id",
        "_socket",
        "_started",
        "_strict",
        "_waiting",
        "writer",
    )

    def __init__(self, parts: Parts, request_id: RequestId) -> None:
        self._parts = parts
        self._request_id = request_id
        self._strict = parts.settings.durability == "strict"
        self._session_id = ""
        self._primes = False
        self._outbound = Outbound(parts.settings)
        self.writer: StreamWriter | None = None
        """Of the stream that it is; without one it is a single JSON body."""
        self._answer = ""
        self._refusal: Refusal | None = None
        self._closing = self._cut = self._started = self._ended = self._raised = False
        self._waiting: asyncio.Future[None] | None = None
        self._socket: anyio.CancelScope | None = None

    # The handler's side

    @property
    def answer(self) -> str:
        """Empty while there is none."""
        return self._answer

    @property
    def is_over(self) -> bool:
        """Whether it has its answer, or will have none: nothing more begins for its sake."""
        return bool(self._answer) or self._cut

    def of(self, session_id: str, *, primes: bool) -> None:
        """Say whose it is, and whether its client takes priming events."""
        self._session_id, self._primes = session_id, primes

    def put(self, seq: int, message: str) -> None:
        """Queue a message of the stream."""
        assert self.writer is not None
        self._outbound.put(seq, wire.event(f"{self.writer.stream_id}.{seq}", message))
        self.wake()

    def finish(self, answer: str) -> None:
        """The answer is known; in a stream it has been put as well."""
        self._answer = answer
        self.wake()

    def refuse(self, status: int, text: str) -> None:
        """Answer with an error instead, if nothing has left."""
        self._refusal = (status, text)
        self.wake()

    def close(self) -> None:
        """End without the answer once all that is queued has left; the client resumes when it likes."""
        self._closing = True
        self.wake()

    def cut(self) -> None:
        """Nothing leaves any more. Of a whole answer that is just being handed to the server, all or nothing."""
        self._cut = True
        self._outbound.close()
        if self._socket is not None:
            self._socket.cancel()
        self.wake()

    def wake(self) -> None:
        """There is something to be looked at."""
        self._raised = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def keeps_up(self) -> None:
        """Wait while the outbound queue is full; a socket that then takes nothing is cut. All of it is in the log."""
        while self._outbound.is_full and self._outbound.is_open:
            if not await self._outbound.taken() and not self._frames_must_wait():
                self._parts.telemetry.count("mcpsession_cut_sockets_total")
                self.cut()

    def _frames_must_wait(self) -> bool:
        """Whether it is not the client's fault that no frame leaves: they wait for a row, or for a beat."""
        return not self._started or not self._parts.heartbeat.may_write() or self._parts.journal.age > STUCK / 2

    # The ASGI task's side

    async def serve(self, send: Send, receive: Receive) -> None:
        """Write it; returns when it is complete, or its socket is no longer ours."""
        try:
            while not (self._cut or self._refusal or self._may_start()):
                await self._woken()
            if not self._cut and not self._parts.heartbeat.may_write():
                with anyio.CancelScope() as self._socket:
                    await self._parts.heartbeat.may_write_again()
            self._started = True
            if self._refusal is not None and not self._cut:
                status, text = self._refusal
                await wire.refuse(send, status, text, request_id=self._request_id)
            elif self._cut:
                await wire.refuse(send, 500, "The stream was lost before it began", request_id=self._request_id)
            elif self.writer is None:
                await wire.respond(send, 200, self._answer.encode(), session_id=self._session_id)
            else:
                await self._serve_stream(self.writer, send, receive)
        finally:
            self._outbound.close()

    def _may_start(self) -> bool:
        if self.writer is None:
            return bool(self._answer)
        # A response that is already there leaves in the same write as its stream's first event id.
        return self.writer.in_log or (bool(self._answer) and not self._strict)

    async def _serve_stream(self, writer: StreamWriter, send: Send, receive: Receive) -> None:
        headers, chunk = wire.stream_headers(self._session_id), b""
        if self._primes:
            chunk = wire.priming(f"{writer.stream_id}.0", self._parts.limits.retry_ms)
        chunk += self._ready(writer)
        if self._answer and not len(self._outbound):
            # All in one, and nothing comes after an answer: with its length, so that the server needs neither a
            # chunk's frame nor a write to end it.
            headers.append((b"content-length", str(len(chunk)).encode()))
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": chunk})
            return
        with anyio.CancelScope() as self._socket:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch, receive)
                await self._write_frames(writer, send, chunk)
                tasks.cancel_scope.cancel()
        if self._cut and not self._ended:
            await self._hang_up(send)

    async def _write_frames(self, writer: StreamWriter, send: Send, chunk: bytes) -> None:
        while True:
            last = (bool(self._answer) or self._closing) and not len(self._outbound)
            if chunk or last:
                await may_write(self._parts, send)
                self._ended = last
                await send({"type": "http.response.body", "body": chunk, "more_body": not last})
            if last:
                return
            with anyio.move_on_after(self._parts.settings.keep_alive) as waiting:
                await self._woken()
            if waiting.cancelled_caught:
                self._parts.touches.note(self._session_id)
                await send({"type": "http.response.body", "body": wire.KEEP_ALIVE, "more_body": True})
            chunk = self._ready(writer)

    async def _watch(self, receive: Receive) -> None:
        await gone(receive)
        # Servers say the same when the response is complete.
        if not self._ended:
            # The handler goes on; its stream can be resumed.
            self.cut()

    def _ready(self, writer: StreamWriter) -> bytes:
        """The frames that may leave now: all, or with strict durability those that are in the log."""
        return self._outbound.take(writer.base if self._strict and not writer.closed else None)

    async def _woken(self) -> None:
        if not self._raised:
            # A bare future: an event is one as well, with a deque and two wrappers around it.
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
            self._waiting = None
        self._raised = False

    async def _hang_up(self, send: Send) -> None:
        # A graceful end where the peer still reads; a peer that does not is cut by the server when we return.
        with anyio.move_on_after(_CUT_DEADLINE, shield=True):
            await send({"type": "http.response.body", "body": b"", "more_body": False})

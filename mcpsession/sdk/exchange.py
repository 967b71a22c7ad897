"""One POST with a request: its handler, its stream and its socket.

The handler runs in the replica's own task group, so no client's disconnect and no server's cancellation stops it. The
ASGI task only writes. A call whose response is there before its stream's row has landed in the log leaves in one write,
and waits for nothing; otherwise the priming frame goes out when the row has landed, and each message as it comes. So no
event id leaves before its stream is durable, unless the response leaves in the same write.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import anyio
from mcp.server.mcpserver.exceptions import ResourceError, ToolError
from mcp_types import REQUEST_TIMEOUT, RequestId
from starlette.types import Receive, Send

from mcpsession.errors import LimitExceededError, MCPSessionError, StreamLostError
from mcpsession.model import ReplicaId
from mcpsession.records import Session
from mcpsession.sdk import wire
from mcpsession.sdk.current import CURRENT, CurrentSession
from mcpsession.sdk.outbound import STUCK, Outbound, gone, may_write
from mcpsession.sdk.outcome import Call, outcome
from mcpsession.sdk.parts import Parts
from mcpsession.texts import method_text
from mcpsession.writer import StreamWriter

logger = logging.getLogger(__name__)

# Enough for a peer that reads at all to take the last frame of a stream that is being cut.
_CUT_DEADLINE = 1.0
# What a handler that is stopped for its time has for cleaning up; then it is answered for.
_LAST_MOMENT = 1.0


class StreamFullError(ToolError, ResourceError, LimitExceededError):
    """A call has sent as much as it may. A tool or resource that lets it escape tells the client why."""


class Exchange:
    """A request on its way, in SSE mode (with a stream in the log) or JSON mode (one body, no back-channel)."""

    def __init__(self, parts: Parts, request_id: RequestId, method: str, *, json_mode: bool) -> None:
        self.request_id = request_id
        self.method = method
        self.began = time.monotonic()
        self.began_at = time.time()
        self.replica = parts.heartbeat.replica_id
        self._parts = parts
        self._json_mode = json_mode
        self._writer: StreamWriter | None = None
        self._session_id = ""
        self._primes = False
        self._sent_messages = self._sent_bytes = 0
        self._outbound = Outbound(parts.settings)
        self._signal = anyio.Event()
        self._handler = anyio.CancelScope()
        self._socket = anyio.CancelScope()
        self._closing = False
        self._cancelled = False
        self._reason = ""
        self._overdue: float | None = None
        self._over: anyio.Event | None = None
        """Where somebody waits for the handler's end."""
        self._answer = ""
        self._refusal: tuple[int, str] | None = None
        self._ending = ""
        self._started = False
        self._ended = False
        self.on_cancelled: Callable[[], None] = lambda: None
        self.on_finished: Callable[[], None] = lambda: None

    # What the rest of the replica does to it

    def cancel(self, reason: str = "") -> None:
        """Nobody wants an answer any more; the client gets -32800, unless an answer had begun."""
        self._cancelled = True
        self._reason = self._reason or reason
        self.on_cancelled()
        self._handler.cancel()

    def end(self, message: str) -> None:
        """Finish with an error: the session has ended, or this replica goes."""
        self._ending = self._ending or message
        self._handler.cancel()

    def sever(self) -> None:
        """This replica was declared dead: others finish the stream, nothing more may be written."""
        if self._writer is not None:
            self._writer.lose(StreamLostError())
        self._cut()
        self._handler.cancel()

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    @property
    def logged(self) -> bool:
        return not self._json_mode

    def close_socket(self) -> None:
        """End the response without the answer; the client resumes the stream when it likes."""
        self._closing = True
        self._signal.set()

    # What the journal tells it

    def landed(self) -> None:
        self._signal.set()

    def read_by(self, replica: ReplicaId) -> None:
        assert self._writer is not None
        self._cut()
        self._parts.post_office.ring_stream(replica, self._session_id, self._writer.stream_id)

    def refused(self, error: Exception | None) -> None:
        if self._writer is not None and self._writer.in_log:
            # Cut: whoever resumes finds the final that is in the log.
            self._cut()
        elif error is None:
            self._refusal = (400, "Duplicate request id: a request with this id is still running in this session")
        else:
            self._refusal = (500, "This call was lost before it began to answer; whether it had effects is unknown")
        self._ending = self._ending or str(error or StreamLostError())
        self._handler.cancel()
        self._signal.set()

    # What its handler sends

    def open(self, session: Session) -> None:
        """Enter the stream in the log, soon."""
        self._session_id = session.id
        if not self._json_mode:
            request_id = wire.dump_id(self.request_id)
            self._writer = self._parts.journal.open(session.id, (request_id,), self, method_text(self.method))
            self._primes = session.protocol_version >= "2025-11-25"

    async def emit(self, message: dict[str, Any], *, request_of: ReplicaId | None = None) -> None:
        """Append a message to the stream. Waits while the journal or the socket is full; dropped after the answer.

        Raises StreamFullError if the stream has as much as it may have; the answer has room of its own.
        """
        if self._writer is None or self._answer:
            return
        text = wire.dump(message, self._parts.settings.max_message_bytes)
        await self._parts.journal.room()
        await self._socket_keeps_up()
        # A task that the handler left behind can come back from the waits after the answer.
        if not self._answer:
            self._count(len(text) if text.isascii() else len(text.encode()))
            self._append(text, request_of=request_of)

    def _count(self, size: int) -> None:
        settings = self._parts.settings
        messages, sent = self._sent_messages + 1, self._sent_bytes + size
        if messages > settings.max_stream_events:
            raise StreamFullError("max_stream_events", settings.max_stream_events)
        if sent > settings.max_stream_bytes:
            raise StreamFullError("max_stream_bytes", settings.max_stream_bytes, sent)
        self._sent_messages, self._sent_bytes = messages, sent

    async def _socket_keeps_up(self) -> None:
        """Wait while the outbound queue is full; a socket that then takes nothing is cut. All of it is in the log."""
        while self._outbound.is_full and self._outbound.is_open:
            if not await self._outbound.taken() and not self._frames_must_wait():
                self._parts.telemetry.count("mcpsession_cut_sockets_total")
                self._cut()

    def _frames_must_wait(self) -> bool:
        """Whether it is not the client's fault that no frame leaves: they wait for a row, or for a beat."""
        return not self._started or not self._parts.heartbeat.may_write() or self._parts.journal.age > STUCK / 2

    def _append(self, text: str, *, request_of: ReplicaId | None = None, final: bool = False) -> None:
        assert self._writer is not None
        before = self._writer.seq
        seq = self._writer.append(text, request_of=request_of, final=final)
        # A lost stream takes nothing; then there is nothing to send either.
        if seq > before:
            self._outbound.put(seq, wire.event(f"{self._writer.stream_id}.{seq}", text))
            self._signal.set()

    def _cut(self) -> None:
        self._outbound.close()
        self._socket.cancel()
        self._signal.set()

    # The handler's task

    async def run(self, call: Call, current: CurrentSession) -> None:
        """Run the handler and answer, whatever happens to it. Nothing it raises leaves this task."""
        CURRENT.set(current)
        message: dict[str, Any] | None = None
        try:
            with self._handler:
                message = await outcome(self.request_id, call, current)
                # Who is told that it was said may rely on it, and what the next call says comes after it.
                await self._parts.journal.told(self._session_id)
        finally:
            # Also when the replica's task group is cancelled: the stream must have its end.
            if message is None or self._cancelled or self._overdue is not None:
                message = self._interrupted()
            self._finish(message)
            if self._over is not None:
                self._over.set()
            self.on_finished()

    async def expire(self, after: float) -> None:
        """Stop a handler that takes longer, and answer; one that does not listen is left to itself."""
        if self._answer:
            return
        self._over = anyio.Event()
        with anyio.move_on_after(after):
            await self._over.wait()
            return
        self._overdue = after
        self._parts.telemetry.count("mcpsession_overdue_calls_total")
        self._handler.cancel()
        # Until it is answered it can still take its questions back.
        with anyio.move_on_after(_LAST_MOMENT):
            await self._over.wait()
            return
        self._finish(self._interrupted())

    def _interrupted(self) -> dict[str, Any]:
        if self._cancelled:
            text = f"Request cancelled: {self._reason}" if self._reason else "Request cancelled"
            return wire.error_message(self.request_id, wire.REQUEST_CANCELLED, text)
        if self._overdue is not None:
            text = f"This call took longer than the {self._overdue:g} s that it may; whether it had effects is unknown"
            return wire.error_message(self.request_id, REQUEST_TIMEOUT, text)
        message = self._ending or "This replica is shutting down; whether the call had effects is unknown"
        return wire.error_message(self.request_id, wire.CONNECTION_CLOSED, message)

    def _finish(self, message: dict[str, Any]) -> None:
        try:
            self._answer = wire.dump(message, self._parts.settings.max_message_bytes)
        except MCPSessionError as error:
            instead = wire.error_message(self.request_id, wire.INTERNAL_ERROR, str(error))
            self._answer = wire.dump(instead)
        if self._writer is not None:
            self._append(self._answer, final=True)
        self._signal.set()

    # The ASGI task

    async def serve(self, send: Send, receive: Receive) -> None:
        """Write the response; returns when it is complete, or its socket is no longer ours."""
        try:
            with self._socket:
                await self._serve(send, receive)
                return
            await self._hang_up(send)
        finally:
            self._outbound.close()

    async def _serve(self, send: Send, receive: Receive) -> None:
        while not (self._refusal or self._may_start()):
            await self._signalled()
        await self._parts.heartbeat.may_write_again()
        self._started = True
        if self._refusal:
            status, text = self._refusal
            await wire.refuse(send, status, text, request_id=self.request_id)
        elif self._json_mode:
            await wire.respond(send, 200, self._answer.encode(), session_id=self._session_id)
        else:
            await self._write_stream(send, receive)

    def _may_start(self) -> bool:
        if self._writer is None:
            return bool(self._answer)
        # A response that is already there leaves in the same write as its stream's first event id.
        return self._writer.in_log or (bool(self._answer) and self._parts.settings.durability == "group")

    async def _write_stream(self, send: Send, receive: Receive) -> None:
        assert self._writer is not None
        headers, chunk = wire.stream_headers(self._session_id), b""
        if self._primes:
            chunk = wire.priming(f"{self._writer.stream_id}.0", self._parts.limits.retry_ms)
        chunk += self._ready()
        if self._answer and not len(self._outbound):
            # All in one, and nothing comes after an answer: with its length, so that the server needs neither a
            # chunk's frame nor a write to end it.
            headers.append((b"content-length", str(len(chunk)).encode()))
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": chunk})
            return
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch, receive)
            await self._write_frames(send, chunk)
            tasks.cancel_scope.cancel()

    async def _write_frames(self, send: Send, chunk: bytes) -> None:
        while True:
            last = (bool(self._answer) or self._closing) and not len(self._outbound)
            if chunk or last:
                await may_write(self._parts, send)
                self._ended = last
                await send({"type": "http.response.body", "body": chunk, "more_body": not last})
            if last:
                return
            with anyio.move_on_after(self._parts.settings.keep_alive) as waiting:
                await self._signalled()
            if waiting.cancelled_caught:
                self._parts.touches.note(self._session_id)
                await send({"type": "http.response.body", "body": wire.KEEP_ALIVE, "more_body": True})
            chunk = self._ready()

    async def _watch(self, receive: Receive) -> None:
        await gone(receive)
        # Servers say the same when the response is complete.
        if not self._ended:
            # The handler goes on; its stream can be resumed.
            self._cut()

    def _ready(self) -> bytes:
        """The frames that may leave now: all, or with strict durability those that are in the log."""
        assert self._writer is not None
        strict = self._parts.settings.durability == "strict" and not self._writer.closed
        return self._outbound.take(self._writer.base if strict else None)

    async def _signalled(self) -> None:
        await self._signal.wait()
        self._signal = anyio.Event()

    async def _hang_up(self, send: Send) -> None:
        # A graceful end where the peer still reads; a peer that does not is cut by the server when we return.
        with anyio.move_on_after(_CUT_DEADLINE, shield=True):
            if self._ended:
                return
            if not self._started:
                await wire.refuse(send, 500, "The stream was lost before it began", request_id=self.request_id)
                return
            await send({"type": "http.response.body", "body": b"", "more_body": False})

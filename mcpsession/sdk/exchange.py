"""One POST with a request: its handler, its stream and its socket.

The handler runs in the replica's own task group, so no client's disconnect and no server's cancellation stops it. The
ASGI task only writes. A call whose response is there before its stream's row has landed in the log leaves in one write,
and waits for nothing; otherwise the priming frame goes out when the row has landed, and each message as it comes. So no
event id leaves before its stream is durable, unless the response leaves in the same write.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from mcp.shared.jsonrpc_dispatcher import handler_exception_to_error_data
from mcp_types import RequestId
from starlette.types import Send

from mcpsession.errors import MCPSessionError, StreamLostError
from mcpsession.journal import StreamWriter
from mcpsession.model import ReplicaId, Session
from mcpsession.sdk import wire
from mcpsession.sdk.current import CURRENT, CurrentSession
from mcpsession.sdk.parts import Parts

logger = logging.getLogger(__name__)

# A client that takes nothing for so long, while its queue stands full, does not read.
_STUCK = 5.0
# Enough for a peer that reads at all to take the last frame of a stream that is being cut.
_CUT_DEADLINE = 1.0

Call = Callable[[], Awaitable[dict[str, Any]]]


class Exchange:
    """A request on its way, in SSE mode (with a stream in the log) or JSON mode (one body, no back-channel)."""

    def __init__(self, parts: Parts, request_id: RequestId, *, json_mode: bool) -> None:
        self._parts = parts
        self._request_id = request_id
        self._json_mode = json_mode
        self._writer: StreamWriter | None = None
        self._session_id = ""
        self._primes = False
        # Frames on their way to the socket, each with its number.
        self._frames: deque[tuple[int, bytes]] = deque()
        self._signal = anyio.Event()
        self._drained = anyio.Event()
        self._handler = anyio.CancelScope()
        self._socket = anyio.CancelScope()
        self._socket_open = True
        self._closing = False
        self._cancelled = False
        self._answer = ""
        self._refusal: tuple[int, str] | None = None
        self._ending = ""
        self._started = False
        self.on_cancelled: Callable[[], None] = lambda: None
        self.on_finished: Callable[[], None] = lambda: None

    # What the rest of the replica does to it

    def cancel(self, reason: str | None) -> None:
        """The client wants no answer any more; it gets -32800, unless an answer had begun."""
        del reason
        self._cancelled = True
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
    def answered(self) -> bool:
        return bool(self._answer)

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
            self._refusal = (500, "The answer could not be stored")
        self._ending = self._ending or str(error or StreamLostError())
        self._handler.cancel()
        self._signal.set()

    # What its handler sends

    def open(self, session: Session) -> None:
        """Enter the stream in the log, soon."""
        self._session_id = session.id
        if not self._json_mode:
            request_id = wire.dump_id(self._request_id)
            self._writer = self._parts.journal.open(session.id, (request_id,), self)
            self._primes = session.protocol_version >= "2025-11-25"

    async def emit(self, message: dict[str, Any], *, request_of: ReplicaId | None = None) -> None:
        """Append a message to the stream. Waits while the journal is full; dropped after the answer."""
        if self._writer is None or self._answer:
            return
        text = wire.dump(message, self._parts.settings.max_message_bytes)
        await self._parts.journal.room()
        await self._socket_keeps_up()
        self._append(text, request_of=request_of)

    async def _socket_keeps_up(self) -> None:
        """Wait while the outbound queue is full; a socket that then takes nothing is cut. All of it is in the log."""
        while self._socket_open and len(self._frames) >= self._parts.settings.outbound_frames:
            # One event for all of the handler's tasks that wait: a second one would leave the first asleep.
            if self._drained.is_set():
                self._drained = anyio.Event()
            oldest = self._frames[0]
            with anyio.move_on_after(_STUCK):
                await self._drained.wait()
            # Frames that wait for their stream's row, or for a beat, are not the client's fault.
            stuck = bool(self._frames) and self._frames[0] is oldest
            waits = not self._started or not self._parts.heartbeat.may_write() or self._parts.journal.age > _STUCK / 2
            if stuck and not waits:
                self._parts.telemetry.count("mcpsession_cut_sockets_total")
                self._cut()

    def _append(self, text: str, *, request_of: ReplicaId | None = None, final: bool = False) -> None:
        assert self._writer is not None
        seq = self._writer.append(text, request_of=request_of, final=final)
        if self._socket_open:
            self._frames.append((seq, wire.event(f"{self._writer.stream_id}.{seq}", text)))
            self._signal.set()

    def _cut(self) -> None:
        self._socket_open = False
        self._frames.clear()
        self._socket.cancel()
        self._signal.set()
        self._drained.set()

    # The handler's task

    async def run(self, call: Call, current: CurrentSession) -> None:
        """Run the handler and answer, whatever happens to it. Nothing it raises leaves this task."""
        CURRENT.set(current)
        message: dict[str, Any] | None = None
        try:
            with self._handler:
                message = await self._outcome(call, current)
        finally:
            # Also when the replica's task group is cancelled: the stream must have its end.
            if message is None or self._cancelled:
                message = self._interrupted()
            self._finish(message)
            self.on_finished()

    async def _outcome(self, call: Call, current: CurrentSession) -> dict[str, Any]:
        try:
            result = await call()
            await current.commit()
        except MCPSessionError as error:
            return wire.error_message(self._request_id, wire.INTERNAL_ERROR, str(error))
        except anyio.get_cancelled_exc_class():
            if interrupted():
                raise
            # The handler's own: it awaited something that was cancelled. Left alone it would end the task group.
            logger.exception("a handler let a cancellation escape that was not its own")
            return wire.error_message(self._request_id, 0, "the handler was cancelled from within")
        except Exception as error:
            data = handler_exception_to_error_data(error)
            if data is None:
                logger.exception("a handler raised")
                # What the SDK's dispatcher makes of it.
                return wire.error_message(self._request_id, 0, str(error))
            return wire.error_message(self._request_id, data.code, data.message, data.data)
        return {"jsonrpc": "2.0", "id": self._request_id, "result": result}

    def _interrupted(self) -> dict[str, Any]:
        if self._cancelled:
            return wire.error_message(self._request_id, wire.REQUEST_CANCELLED, "Request cancelled")
        message = self._ending or "This replica is shutting down; whether the call had effects is unknown"
        return wire.error_message(self._request_id, wire.CONNECTION_CLOSED, message)

    def _finish(self, message: dict[str, Any]) -> None:
        try:
            self._answer = wire.dump(message, self._parts.settings.max_message_bytes)
        except MCPSessionError as error:
            instead = wire.error_message(self._request_id, wire.INTERNAL_ERROR, str(error))
            self._answer = wire.dump(instead)
        if self._writer is not None:
            self._append(self._answer, final=True)
        self._signal.set()

    # The ASGI task

    async def serve(self, send: Send) -> None:
        """Write the response; returns when it is complete, or its socket is no longer ours."""
        try:
            with self._socket:
                await self._serve(send)
                return
            await self._hang_up(send)
        finally:
            self._socket_open = False
            self._frames.clear()
            self._drained.set()

    async def _serve(self, send: Send) -> None:
        while not (self._refusal or self._may_start()):
            await self._signalled()
        await self._parts.heartbeat.may_write_again()
        self._started = True
        if self._refusal:
            status, text = self._refusal
            await wire.refuse(send, status, text, request_id=self._request_id)
            return
        if self._json_mode:
            await wire.respond(send, 200, self._answer.encode(), session_id=self._session_id)
            return
        await send({
            "type": "http.response.start", "status": 200, "headers": wire.stream_headers(self._session_id),
        })  # fmt: skip
        await self._write_frames(send)

    def _may_start(self) -> bool:
        if self._writer is None:
            return bool(self._answer)
        # A response that is already there leaves in the same write as its stream's first event id.
        return self._writer.in_log or (bool(self._answer) and self._parts.settings.durability == "group")

    async def _write_frames(self, send: Send) -> None:
        assert self._writer is not None
        chunk = b""
        if self._primes:
            chunk = wire.priming(f"{self._writer.stream_id}.0", self._parts.limits.retry_ms)
        while True:
            chunk += self._ready()
            last = (bool(self._answer) or self._closing) and not self._frames
            if chunk or last:
                await self._parts.heartbeat.may_write_again()
                await send({"type": "http.response.body", "body": chunk, "more_body": not last})
            if last:
                return
            chunk = b""
            with anyio.move_on_after(self._parts.settings.keep_alive) as waiting:
                await self._signalled()
            if waiting.cancelled_caught:
                self._parts.touches.note(self._session_id)
                await send({"type": "http.response.body", "body": wire.KEEP_ALIVE, "more_body": True})

    def _ready(self) -> bytes:
        """The frames that may leave now: all, or with strict durability those that are in the log."""
        assert self._writer is not None
        strict = self._parts.settings.durability == "strict" and not self._writer.closed
        frames = []
        while self._frames and not (strict and self._frames[0][0] > self._writer.base):
            frames.append(self._frames.popleft()[1])
        self._drained.set()
        return b"".join(frames)

    async def _signalled(self) -> None:
        await self._signal.wait()
        self._signal = anyio.Event()

    async def _hang_up(self, send: Send) -> None:
        # A graceful end where the peer still reads; a peer that does not is cut by the server when we return.
        with anyio.move_on_after(_CUT_DEADLINE, shield=True):
            if not self._started:
                await wire.refuse(send, 500, "The stream was lost before it began", request_id=self._request_id)
                return
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def interrupted() -> bool:
    """Whether a scope around this task was cancelled; else a CancelledError comes from what the task awaited."""
    return anyio.current_effective_deadline() == -math.inf

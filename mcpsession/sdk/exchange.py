"""One request of the handshake era on its way: its handler in a task of its own, its response on the socket, its stream
in the log.

The stream is entered in the log at once. If the response is there before that has landed, one write carries the
priming frame and the response; otherwise the priming frame goes out when the row has landed, and each message as it
comes. So no event id leaves before its stream is durable, unless the response leaves in the same write. In the mode
`auto` it is entered when the handler first says something, or takes longer than a moment; an answer before that is a
JSON body.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Literal

import anyio
from mcp.server.mcpserver.exceptions import ResourceError, ToolError
from mcp_types import REQUEST_TIMEOUT, RequestId
from starlette.types import Receive, Send

from mcpsession.errors import LimitExceededError, MCPSessionError, StreamLostError
from mcpsession.model import ReplicaId, ResponseMode
from mcpsession.post_office import PostOffice
from mcpsession.records import Session
from mcpsession.sdk import wire
from mcpsession.sdk.current import CURRENT, CurrentSession
from mcpsession.sdk.outcome import Call, outcome
from mcpsession.sdk.parts import Parts
from mcpsession.sdk.response import Response
from mcpsession.texts import method_text
from mcpsession.writer import StreamWriter

logger = logging.getLogger(__name__)

Mode = ResponseMode | Literal["json"]

# What a handler that is stopped for its time has for cleaning up; then it is answered for.
_LAST_MOMENT = 1.0
# So long a handler may take, in the mode `auto`, until its call gets a stream.
_MOMENT = 0.005


class StreamFullError(ToolError, ResourceError, LimitExceededError):
    """A call has sent as much as it may. A tool or resource that lets it escape tells the client why."""


class _Left:
    """What is left of a call that was answered while its stream is not in the log yet."""

    __slots__ = ("_post_office", "_session_id", "_stream_id")

    def __init__(self, post_office: PostOffice, writer: StreamWriter) -> None:
        self._post_office = post_office
        self._session_id = writer.session_id
        self._stream_id = writer.stream_id

    def landed(self) -> None:
        """Nobody waits for that."""

    def read_by(self, replica: ReplicaId) -> None:
        self._post_office.ring_stream(replica, self._session_id, self._stream_id)

    def refused(self, error: Exception | None) -> None:
        """It came too late for its client."""


class Exchange:
    """A request on its way: as SSE with a stream in the log, as JSON (one body, no back-channel), or as either."""

    def __init__(self, parts: Parts, request_id: RequestId, method: str, *, mode: Mode) -> None:
        self.request_id = request_id
        self.method = method
        self.began = time.monotonic()
        self.began_at = time.time()
        self.replica = parts.heartbeat.replica_id
        self.response = Response(parts, request_id)
        self._parts = parts
        self._mode = mode
        self._writer: StreamWriter | None = None
        self._session_id = ""
        self._moment: asyncio.TimerHandle | None = None
        self._is_through = self._is_served = False
        self._sent_messages = self._sent_bytes = 0
        self._handler = anyio.CancelScope()
        self._cancelled = False
        self._reason = ""
        self._overdue: float | None = None
        self._over: anyio.Event | None = None
        """Where somebody waits for the handler's end."""
        self._ending = ""
        self.on_cancelled: Callable[[], None] = _nothing
        self.on_finished: Callable[[], None] = _nothing

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
        self.response.cut()
        self._handler.cancel()

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    @property
    def logged(self) -> bool:
        return self._mode == "sse" or self._writer is not None

    def close_socket(self) -> None:
        """End the response without the answer; the client resumes the stream when it likes."""
        self._enter()
        self.response.close()

    # What the journal tells it

    def landed(self) -> None:
        self.response.wake()

    def read_by(self, replica: ReplicaId) -> None:
        assert self._writer is not None
        self.response.cut()
        self._parts.post_office.ring_stream(replica, self._session_id, self._writer.stream_id)

    def refused(self, error: Exception | None) -> None:
        if self._writer is not None and self._writer.in_log:
            # Cut: whoever resumes finds the final that is in the log.
            self.response.cut()
        elif error is None:
            text = "Duplicate request id: a request with this id is still running in this session"
            self.response.refuse(400, text)
        else:
            text = "This call was lost before it began to answer; whether it had effects is unknown"
            self.response.refuse(500, text)
        self._ending = self._ending or str(error or StreamLostError())
        self._handler.cancel()

    # What its handler sends

    def open(self, session: Session) -> None:
        """Enter the stream in the log, soon; in the mode `auto` when it is needed."""
        self._session_id = session.id
        self.response.of(session.id, primes=session.protocol_version >= "2025-11-25")
        if self._mode == "sse":
            self._enter()
        elif self._mode == "auto":
            self._moment = asyncio.get_running_loop().call_later(_MOMENT, self._enter)

    def _enter(self) -> None:
        if self._moment is not None:
            self._moment.cancel()
        if self._writer is None and self._mode != "json" and not self.response.is_over:
            request_ids = (wire.dump_id(self.request_id),)
            writer = self._parts.journal.open(self._session_id, request_ids, self, method_text(self.method))
            self._writer = self.response.writer = writer

    def decline(self) -> None:
        """Its handler will not run: the stream, which may be on its way into the log, must have its end."""
        self._finish(self._interrupted())

    async def emit(self, message: dict[str, Any], *, request_of: ReplicaId | None = None) -> None:
        """Append a message to the stream. Waits while the journal or the socket is full; dropped after the answer.

        Raises StreamFullError if the stream has as much as it may have; the answer has room of its own.
        """
        self._enter()
        if self._writer is None or self.response.answer:
            return
        text = wire.dump(message, self._parts.settings.max_message_bytes)
        await self._parts.journal.room()
        await self.response.keeps_up()
        # A task that the handler left behind can come back from the waits after the answer.
        if not self.response.answer:
            self._count(len(text) if text.isascii() else len(text.encode()))
            self._append(self._writer, text, request_of=request_of)

    def _count(self, size: int) -> None:
        settings = self._parts.settings
        messages, sent = self._sent_messages + 1, self._sent_bytes + size
        if messages > settings.max_stream_events:
            raise StreamFullError("max_stream_events", settings.max_stream_events)
        if sent > settings.max_stream_bytes:
            raise StreamFullError("max_stream_bytes", settings.max_stream_bytes, sent)
        self._sent_messages, self._sent_bytes = messages, sent

    def _append(
        self, writer: StreamWriter, text: str, *, request_of: ReplicaId | None = None, final: bool = False
    ) -> None:
        before = writer.seq
        seq = writer.append(text, request_of=request_of, final=final)
        # A lost stream takes nothing; then there is nothing to send either.
        if seq > before:
            self.response.put(seq, text)

    # The ASGI task

    async def serve(self, send: Send, receive: Receive) -> None:
        """Write the response; returns when it is complete, or its socket is no longer ours."""
        try:
            await self.response.serve(send, receive)
        finally:
            self._is_served = True
            if self._is_through:
                self._let_go()

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
            # Also when the task itself is cancelled: the stream must have its end.
            if message is None or self._cancelled or self._overdue is not None:
                message = self._interrupted()
            self._finish(message)
            if self._over is not None:
                self._over.set()
            self.on_finished()
            self._is_through = True
            if self._is_served:
                self._let_go()

    def _let_go(self) -> None:
        """Neither handler nor socket need it any more: leave no circle behind, which only the collector would find.

        Where calls leave none, its rounds are rare; each stops the whole process, a full one for as long as many calls.
        """
        self.on_cancelled = self.on_finished = _nothing
        if self._writer is not None:
            self._writer.tell(_Left(self._parts.post_office, self._writer))

    async def expire(self, after: float) -> None:
        """Stop a handler that takes longer, and answer; one that does not listen is left to itself."""
        if self.response.answer:
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
        if self._moment is not None:
            self._moment.cancel()
        try:
            answer = wire.dump(message, self._parts.settings.max_message_bytes)
        except MCPSessionError as error:
            instead = wire.error_message(self.request_id, wire.INTERNAL_ERROR, str(error))
            answer = wire.dump(instead)
        self.response.finish(answer)
        if self._writer is not None:
            self._append(self._writer, answer, final=True)


def _nothing() -> None:
    pass

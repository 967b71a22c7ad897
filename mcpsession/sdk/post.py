"""How requests and notifications of live sessions are run: through the SDK's kernel, with our context."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
from mcp.shared.jsonrpc_dispatcher import progress_token_from_params
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import RequestId
from starlette.requests import Request
from starlette.types import Receive, Send

from mcpsession.cancellation import interrupted
from mcpsession.errors import LayerClosedError
from mcpsession.progress import REPORT
from mcpsession.records import Session
from mcpsession.sdk import wire
from mcpsession.sdk.current import CurrentSession
from mcpsession.sdk.dispatch import RequestContext
from mcpsession.sdk.exchange import Exchange, Mode
from mcpsession.sdk.handlers import Handlers
from mcpsession.sdk.kernel import Kernel, RequestConnection
from mcpsession.sdk.parts import Parts
from mcpsession.sdk.request_context import CurrentRequest, remote_of, trace_of
from mcpsession.sdk.session_methods import KEPT

if TYPE_CHECKING:
    from mcp.server.lowlevel.server import Server

logger = logging.getLogger(__name__)

_SSE = TransportContext(kind="streamable-http", can_send_request=True)
_JSON = TransportContext(kind="streamable-http", can_send_request=False)

# Seconds after which a session that has as many calls as it may have can try again.
_RETRY_AFTER = 1


class _Served:
    """One request that a handler of the server's serves."""

    __slots__ = ("context", "exchange", "kernel", "message", "parts", "request", "session")

    def __init__(
        self, parts: Parts, exchange: Exchange, session: Session, message: Mapping[str, Any], request: Request
    ) -> None:
        self.parts = parts
        self.exchange = exchange
        self.session = session
        self.message = message
        self.request = request
        self.context: RequestContext
        self.kernel: Kernel

    async def call(self) -> dict[str, Any]:
        """Run the handler."""
        context, kernel = self.context, self.kernel
        method, params = self.exchange.method, self.message.get("params")
        REPORT.set(context.progress)
        try:
            result = await kernel.on_request(context, method, params)
            if method in KEPT:
                await KEPT[method](self.parts, self.session, params or {})
            return result
        finally:
            context.close()
            await kernel.close()

    def cancelled(self) -> None:
        self.context.cancel_requested.set()

    def finished(self) -> None:
        self.parts.in_flight.leave(self.session, self.exchange.request_id, self.exchange)
        self.parts.touches.note(self.session.id)
        # They know of it, too: no circle is to be left.
        del self.context, self.kernel

    async def close_stream(self) -> None:
        self.exchange.close_socket()

    async def close_standalone(self) -> None:
        # Wherever it is held; the client reconnects.
        self.parts.post_office.ring_hang_up(self.session.id)

    def current_request(self) -> CurrentRequest:
        exchange, session = self.exchange, self.session
        return CurrentRequest(
            session_id=session.id,
            owner=session.owner,
            request_id=exchange.request_id,
            method=exchange.method,
            protocol_version=session.protocol_version,
            trace=trace_of(self.message.get("params"), self.request.scope["headers"]),
            remote=remote_of(self.request.scope),
            replica=exchange.replica,
            began_at=datetime.fromtimestamp(exchange.began_at, UTC),
        )


class RequestRunner:
    """Runs requests of live sessions through the SDK's kernel."""

    def __init__(
        self,
        server: Server[Any],
        parts: Parts,
        tasks: anyio.abc.TaskGroup,
        handlers: Handlers,
        lifespan_state: Any,
        *,
        mode: Mode,
    ) -> None:
        self._server = server
        self._parts = parts
        self._tasks = tasks
        self._handlers = handlers
        self._lifespan_state = lifespan_state
        self._mode = mode
        self._transport = _JSON if mode == "json" else _SSE

    def exchange(self, request_id: RequestId, method: str) -> Exchange:
        """What becomes of a request, from its first moment on."""
        return Exchange(self._parts, request_id, method, mode=self._mode)

    async def serve(
        self,
        exchange: Exchange,
        session: Session,
        message: Mapping[str, Any],
        request: Request,
        receive: Receive,
        send: Send,
    ) -> None:
        """Run one request and write its response."""
        parts, request_id = self._parts, exchange.request_id
        most = parts.settings.max_streams_per_session
        if parts.in_flight.count(session) >= most:
            text = f"Too many calls of this session run at once: at most {most} are allowed"
            await wire.refuse(
                send, 429, text, code=wire.INTERNAL_ERROR, request_id=request_id, retry_after=_RETRY_AFTER
            )
            return
        if not parts.in_flight.enter(session, request_id, exchange):
            text = f"Duplicate request id: a request with id {wire.dump_id(request_id)[:64]} still runs in this session"
            await wire.refuse(send, 400, text, request_id=request_id)
            return
        served = _Served(parts, exchange, session, message, request)
        served.context = self._context(served)
        served.kernel = self._kernel(session, message.get("params"))
        exchange.on_cancelled = served.cancelled
        exchange.on_finished = served.finished
        if exchange.cancelled:
            # Before there was a context to tell it to.
            served.cancelled()
        exchange.open(session)
        most_bytes = parts.settings.max_state_bytes
        current = CurrentSession(session, parts.sessions, max_state_bytes=most_bytes, request=served.current_request)
        try:
            self._handlers.start(exchange.run(served.call, current))
        except LayerClosedError:
            exchange.decline()
            served.finished()
            raise
        if parts.settings.call_timeout is not None:
            self._tasks.start_soon(exchange.expire, parts.settings.call_timeout)
        await exchange.serve(send, receive)

    def _kernel(self, session: Session, params: Mapping[str, Any] | None) -> Kernel:
        return Kernel(self._server, RequestConnection(self._parts, session), self._lifespan_state, params)

    def _context(self, served: _Served) -> RequestContext:
        session = served.session
        # Clients before 2025-11-25 got no priming event, so they could not resume a stream that is closed early.
        resumable = self._mode != "json" and session.protocol_version >= "2025-11-25"
        metadata = ServerMessageMetadata(
            request_context=served.request,
            close_sse_stream=served.close_stream if resumable else None,
            close_standalone_sse_stream=served.close_standalone if resumable else None,
            can_send_request=self._transport.can_send_request,
        )
        return RequestContext(
            self._parts,
            session,
            None if self._mode == "json" else served.exchange,
            request_id=served.exchange.request_id,
            progress_token=progress_token_from_params(served.message.get("params")),
            transport=self._transport,
            metadata=metadata,
        )

    async def notify(self, session: Session, method: str, params: Mapping[str, Any] | None, request: Request) -> None:
        """Hand a notification to the server's own handlers. What they raise is logged, not raised."""
        context = RequestContext(
            self._parts,
            session,
            None,
            request_id=None,
            progress_token=None,
            transport=_JSON,
            metadata=ServerMessageMetadata(request_context=request, can_send_request=False),
        )
        kernel = self._kernel(session, params)
        try:
            await kernel.on_notify(context, method, params)
        finally:
            await kernel.close()

    def notify_soon(self, session: Session, method: str, params: Mapping[str, Any] | None, request: Request) -> None:
        """The same, after the client has its 202."""

        async def run() -> None:
            try:
                await self.notify(session, method, params, request)
            except Exception:  # the boundary: a bad handler must not end the replica's task group
                logger.exception("the handling of %s failed", method)
            except anyio.get_cancelled_exc_class():
                if interrupted():
                    raise
                logger.exception("the handling of %s was cancelled from within", method)

        self._tasks.start_soon(run)

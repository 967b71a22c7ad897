"""POST: a request, a notification, or an answer, of a session that may have begun on any replica."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
from mcp.server.connection import Connection
from mcp.server.runner import ServerRunner, aclose_shielded
from mcp.shared.jsonrpc_dispatcher import progress_token_from_params
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import InitializeRequestParams, RequestId
from mcp_types.version import LATEST_HANDSHAKE_VERSION
from starlette.requests import Request
from starlette.types import Receive, Send

from mcpsession.cancellation import interrupted
from mcpsession.progress import REPORT
from mcpsession.records import Session
from mcpsession.sdk import wire
from mcpsession.sdk.current import CurrentSession
from mcpsession.sdk.dispatch import RequestContext, StandaloneOutlet
from mcpsession.sdk.exchange import Exchange
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


def client_params(text: str) -> InitializeRequestParams:
    """What the client said of itself at `initialize`; the same text, usually of thousands of clients, is one object."""
    # A long text is some client's alone; a thousand of them must not stay in memory.
    return _remembered(text) if len(text) < _SHORT else _parsed(text)


def _parsed(text: str) -> InitializeRequestParams:
    return InitializeRequestParams.model_validate_json(text)


_SHORT = 8192
_remembered = lru_cache(maxsize=1024)(_parsed)


def connection_of(parts: Parts, session: Session) -> Connection:
    """The session as the SDK's connection, for one request (its `exit_stack` is per request here).

    Of one without client params the SDK answers nothing but ping: its own gate, with its own error.
    """
    connection = Connection(
        StandaloneOutlet(parts, session),
        protocol_version=session.protocol_version or LATEST_HANDSHAKE_VERSION,
        session_id=session.id,
        client_params=client_params(session.client_params) if session.client_params else None,
    )
    if session.initialized:
        connection.initialized.set()
    return connection


def _current_request(
    exchange: Exchange, session: Session, params: Mapping[str, Any] | None, request: Request
) -> CurrentRequest:
    return CurrentRequest(
        session_id=session.id,
        owner=session.owner,
        request_id=exchange.request_id,
        method=exchange.method,
        protocol_version=session.protocol_version,
        trace=trace_of(params, request.scope["headers"]),
        remote=remote_of(request.scope),
        replica=exchange.replica,
        began_at=datetime.fromtimestamp(exchange.began_at, UTC),
    )


class RequestRunner:
    """Runs requests of live sessions through the SDK's kernel."""

    def __init__(
        self, server: Server[Any], parts: Parts, tasks: anyio.abc.TaskGroup, lifespan_state: Any, *, json_mode: bool
    ) -> None:
        self._server = server
        self._parts = parts
        self._tasks = tasks
        self._lifespan_state = lifespan_state
        self._json_mode = json_mode

    def arrive(self, session_id: str, request_id: RequestId, method: str) -> Exchange:
        """Note the request before anything is waited for, so that a cancel finds it."""
        exchange = Exchange(self._parts, request_id, method, json_mode=self._json_mode)
        self._parts.in_flight.arrive(session_id, request_id, exchange)
        return exchange

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
        request_id: RequestId = message["id"]
        method: str = message["method"]
        params = message.get("params")
        parts = self._parts
        context = self._context(exchange, session, request_id, params, request)

        def asked() -> CurrentRequest:
            return _current_request(exchange, session, params, request)

        most_bytes = parts.settings.max_state_bytes
        current = CurrentSession(session, parts.sessions, max_state_bytes=most_bytes, request=asked)
        connection = connection_of(parts, session)
        runner = ServerRunner(self._server, connection, self._lifespan_state)

        async def call() -> dict[str, Any]:
            REPORT.set(context.progress)
            try:
                result = await runner.on_request(context, method, params)
                if method in KEPT:
                    await KEPT[method](parts, session, params or {})
                return result
            finally:
                context.close()
                # Nearly always empty, and closing it takes a scope and a deadline.
                if getattr(connection.exit_stack, "_exit_callbacks", True):
                    await aclose_shielded(connection)

        def finished() -> None:
            parts.in_flight.leave(session, request_id, exchange)
            parts.touches.note(session.id)

        exchange.on_cancelled = lambda: context.cancel_requested.set()
        exchange.on_finished = finished
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
        if exchange.cancelled:
            exchange.cancel()
        exchange.open(session)
        self._tasks.start_soon(exchange.run, call, current)
        if parts.settings.call_timeout is not None:
            self._tasks.start_soon(exchange.expire, parts.settings.call_timeout)
        await exchange.serve(send, receive)

    def _context(
        self,
        exchange: Exchange,
        session: Session,
        request_id: RequestId,
        params: Mapping[str, Any] | None,
        request: Request,
    ) -> RequestContext:
        # Clients before 2025-11-25 got no priming event, so they could not resume a stream that is closed early.
        resumable = not self._json_mode and session.protocol_version >= "2025-11-25"

        async def close_stream() -> None:
            exchange.close_socket()

        async def close_standalone() -> None:
            # Wherever it is held; the client reconnects.
            self._parts.post_office.ring_hang_up(session.id)

        return RequestContext(
            self._parts,
            session,
            None if self._json_mode else exchange,
            request_id=request_id,
            progress_token=progress_token_from_params(params),
            transport=_JSON if self._json_mode else _SSE,
            metadata=ServerMessageMetadata(
                request_context=request,
                close_sse_stream=close_stream if resumable else None,
                close_standalone_sse_stream=close_standalone if resumable else None,
                can_send_request=not self._json_mode,
            ),
        )

    async def notify(self, session: Session, method: str, params: Mapping[str, Any] | None, request: Request) -> None:
        """Hand a notification to the server's own handlers. What they raise is logged, not raised."""
        connection = connection_of(self._parts, session)
        context = RequestContext(
            self._parts,
            session,
            None,
            request_id=None,
            progress_token=None,
            transport=_JSON,
            metadata=ServerMessageMetadata(request_context=request, can_send_request=False),
        )
        try:
            await ServerRunner(self._server, connection, self._lifespan_state).on_notify(context, method, params)
        finally:
            await aclose_shielded(connection)

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

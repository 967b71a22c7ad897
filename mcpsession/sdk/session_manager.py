"""The SDK's session manager, with its stateful path replaced: the session is a row, not an object of one process.

Requests of the sessionless era (2026-07-28) go to the SDK untouched.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import anyio.abc
from mcp.server.streamable_http_manager import RequestBodyLimitMiddleware, StreamableHTTPSessionManager
from mcp.server.transport_security import DEFAULT_MAX_REQUEST_BODY_SIZE, TransportSecuritySettings
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from mcpsession.errors import LayerClosedError, StoreUnavailableError
from mcpsession.finishing import finish
from mcpsession.model import STANDALONE
from mcpsession.records import Ended
from mcpsession.sdk import wire
from mcpsession.sdk.caller import find_session
from mcpsession.sdk.drain import draining_at_sigterm
from mcpsession.sdk.exchange import Mode
from mcpsession.sdk.handlers import Handlers
from mcpsession.sdk.parts import Parts
from mcpsession.sdk.post import RequestRunner
from mcpsession.sdk.posts import REQUEST_ID, Posts
from mcpsession.sdk.refusal import come_back, fail
from mcpsession.sdk.resume import MALFORMED, Resumption
from mcpsession.sdk.security import TransportSecurity
from mcpsession.sdk.standalone import Standalone
from mcpsession.sdk.wire import Fields

if TYPE_CHECKING:
    from mcp.server.lowlevel.server import Server

logger = logging.getLogger(__name__)

_HANDSHAKE = frozenset(version.encode() for version in HANDSHAKE_PROTOCOL_VERSIONS)

Running = Callable[[], AbstractAsyncContextManager[Parts]]


class LayerSessionManager(StreamableHTTPSessionManager):
    """Serves one MCP server from this replica. Runs, like the SDK's, once."""

    def __init__(
        self,
        app: Server[Any],
        running: Running,
        *,
        drain: Callable[[], Awaitable[None]] | None = None,
        retry_ms: int | None = None,
        json_response: bool = False,
        security_settings: TransportSecuritySettings | None = None,
        max_request_body_size: int = DEFAULT_MAX_REQUEST_BODY_SIZE,
    ) -> None:
        super().__init__(
            app,
            json_response=json_response,
            security_settings=security_settings,
            max_request_body_size=max_request_body_size,
        )
        self._running = running
        self._drain = drain
        self._retry_ms = retry_ms
        self._security = TransportSecurity(security_settings)
        self._modern = RequestBodyLimitMiddleware(super()._handle_request, max_request_body_size)
        self._handlers = Handlers()
        self._parts: Parts | None = None
        self._posts: Posts | None = None
        # The SDK's own ASGI endpoint calls whatever stands here.
        self.asgi_app = self._by_era  # type: ignore[assignment]  # any ASGI app serves

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Serve while inside; starts and stops the layer."""
        async with self._running() as parts, super().run(), self._handlers.running():
            assert self._task_group is not None
            self._parts = parts
            if self._retry_ms is not None:
                parts.limits.retry_ms = self._retry_ms
            self._posts = self._made_posts(parts, self._task_group)
            if close := getattr(_listen_handler(self.app), "close", None):
                parts.drain.closing.append(close)
            try:
                with draining_at_sigterm(self._drain, self._task_group) if self._drain else nullcontext():
                    yield
            finally:
                parts.in_flight.end_all("This replica is shutting down; whether the call had effects is unknown")
                self._parts = None

    def _made_posts(self, parts: Parts, tasks: anyio.abc.TaskGroup) -> Posts:
        mode: Mode = "json" if self.json_response else parts.settings.response_mode
        runner = RequestRunner(self.app, parts, tasks, self._handlers, self._lifespan_state, mode=mode)
        return Posts(
            self.app,
            parts,
            runner,
            tasks,
            self._lifespan_state,
            json_mode=self.json_response,
            max_bytes=self.max_request_body_size,
        )

    async def _by_era(self, scope: Scope, receive: Receive, send: Send) -> None:
        fields = wire.fields_of(scope)
        version = fields.get(wire.VERSION_HEADER)
        if version is None or version in _HANDSHAKE:
            await self._with_sessions(scope, fields, receive, send)
        else:
            await self._modern(scope, receive, send)

    async def _handle_stateful_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._with_sessions(scope, wire.fields_of(scope), receive, send)

    async def _with_sessions(self, scope: Scope, fields: Fields, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        method = scope["method"]
        begun = over = False

        async def send_once(message: Message) -> None:
            nonlocal begun, over
            begun = True
            over = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        if refusal := await self._security.refusal(request, fields):
            await refusal(scope, receive, send)
            return
        try:
            match method:
                case "POST":
                    _, posts = self._serving()
                    await posts.serve(request, fields, receive, send_once)
                case "GET":
                    await self._get(request, fields, receive, send_once)
                case "DELETE":
                    await self._delete(request, fields, send_once)
                case _:
                    await wire.refuse(send, 405, "Method Not Allowed", allow=b"GET, POST, DELETE")
        except (StoreUnavailableError, LayerClosedError) as error:
            logger.warning("a %s could not be served: %s", method, error)
            drains = self._parts is None or self._parts.drain.begun
            text = f"{'This replica is shutting down' if drains else 'The session store is away'}; try again"
            if method == "GET" and not begun and isinstance(error, StoreUnavailableError):
                await come_back(send)
            else:
                await fail(send, 503, text, scope.get(REQUEST_ID), begun=begun, over=over)
        except Exception:  # the boundary: whatever else it was, the client gets an answer and the log the cause
            logger.exception("a %s could not be served", method)
            text = "The request could not be served"
            await fail(send, 500, text, scope.get(REQUEST_ID), begun=begun, over=over)

    # GET and DELETE

    async def _get(self, request: Request, fields: Fields, receive: Receive, send: Send) -> None:
        _, has_sse = wire.accepts(fields.get(b"accept", b""))
        if not has_sse:
            await wire.refuse(send, 406, "Not Acceptable: Client must accept text/event-stream")
            return
        parts, _ = self._serving()
        session = await find_session(parts, request.scope, fields, send)
        if session is None:
            return
        last_event_id = fields.get(wire.LAST_EVENT_HEADER)
        cursor = None
        if last_event_id:
            cursor = wire.parse_cursor(last_event_id.decode("latin-1"))
            if cursor is None:
                await wire.refuse(send, 400, MALFORMED)
                return
        if parts.drain.begun:
            # A balancer may not have seen it yet; of the next attempts one goes elsewhere.
            await come_back(send, seconds=1)
            return
        parts.touches.note(session.id)
        if cursor is None or cursor.stream_id == STANDALONE:
            await Standalone(parts, session, send).serve(cursor, receive)
        else:
            await Resumption(parts, session, cursor, send).serve(receive)

    async def _delete(self, request: Request, fields: Fields, send: Send) -> None:
        parts, _ = self._serving()
        session = await find_session(parts, request.scope, fields, send)
        if session is None:
            return
        tasks = self._task_group
        assert tasks is not None

        async def end() -> bool:
            with ExitStack() as holding:
                holding.enter_context(parts.endings.holding([session.id]))
                ended = await parts.endings.end([session.id], "terminated", owner=session.owner)
                # The client need not wait for that.
                tasks.start_soon(_clear_away, parts, ended, holding.pop_all())
            return bool(ended.sessions)

        if await finish(tasks, end):
            await wire.respond(send, 200, b"{}")
        else:
            await wire.refuse(send, 404, wire.NOT_FOUND)

    def _serving(self) -> tuple[Parts, Posts]:
        if self._parts is None or self._posts is None:
            raise LayerClosedError
        return self._parts, self._posts


async def _clear_away(parts: Parts, ended: Ended, holding: ExitStack) -> None:
    with holding:
        try:
            await parts.endings.clear_away(ended)
        except Exception:  # the boundary: what is left is the reaper's, and the replica serves on
            logger.exception("what belonged to an ended session could not be cleared away")


def _listen_handler(server: Server[Any]) -> object:
    """The SDK's handler of `subscriptions/listen`, which can end its streams gracefully."""
    entry = server.get_request_handler("subscriptions/listen")
    return None if entry is None else entry.handler

"""The SDK's session manager, with its stateful path replaced: the session is a row, not an object of one process.

Requests of the sessionless era (2026-07-28) go to the SDK untouched.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import anyio
from mcp.server.streamable_http_manager import RequestBodyLimitMiddleware, StreamableHTTPSessionManager
from mcp.server.transport_security import (
    DEFAULT_MAX_REQUEST_BODY_SIZE,
    TransportSecurityMiddleware,
    TransportSecuritySettings,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from mcpsession.errors import LayerClosedError, StoreUnavailableError
from mcpsession.finishing import finish
from mcpsession.model import STANDALONE
from mcpsession.records import Ended
from mcpsession.sdk import wire
from mcpsession.sdk.caller import find_session, owner_of
from mcpsession.sdk.drain import draining_at_sigterm
from mcpsession.sdk.inbound import NOBODY_WAITS, Inbound
from mcpsession.sdk.initialize import Initialize
from mcpsession.sdk.parts import Parts
from mcpsession.sdk.post import RequestRunner
from mcpsession.sdk.reading import read_message
from mcpsession.sdk.refusal import come_back, fail
from mcpsession.sdk.resume import MALFORMED, Resumption
from mcpsession.sdk.standalone import Standalone

if TYPE_CHECKING:
    from mcp.server.lowlevel.server import Server

logger = logging.getLogger(__name__)

_HANDSHAKE = frozenset(version.encode() for version in HANDSHAKE_PROTOCOL_VERSIONS)
_REQUEST_ID = "mcpsession.request_id"

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
        self._security = TransportSecurityMiddleware(security_settings)
        self._modern = RequestBodyLimitMiddleware(super()._handle_request, max_request_body_size)
        self._parts: Parts | None = None
        self._runner: RequestRunner | None = None
        self._inbound: Inbound | None = None
        # The SDK's own ASGI endpoint calls whatever stands here.
        self.asgi_app = self._by_era  # type: ignore[assignment]  # any ASGI app serves

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Serve while inside; starts and stops the layer."""
        async with self._running() as parts, super().run():
            assert self._task_group is not None
            self._parts = parts
            if self._retry_ms is not None:
                parts.limits.retry_ms = self._retry_ms
            self._runner = RequestRunner(
                self.app, parts, self._task_group, self._lifespan_state, json_mode=self.json_response
            )
            self._inbound = Inbound(parts)
            if close := getattr(_listen_handler(self.app), "close", None):
                parts.drain.closing.append(close)
            try:
                with draining_at_sigterm(self._drain, self._task_group) if self._drain else nullcontext():
                    yield
            finally:
                parts.in_flight.end_all("This replica is shutting down; whether the call had effects is unknown")
                self._parts = None

    async def _by_era(self, scope: Scope, receive: Receive, send: Send) -> None:
        version = wire.header(scope["headers"], wire.VERSION_HEADER)
        if version is None or version in _HANDSHAKE:
            await self._handle_stateful_request(scope, receive, send)
        else:
            await self._modern(scope, receive, send)

    async def _handle_stateful_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        method = scope["method"]
        begun = over = False

        async def send_once(message: Message) -> None:
            nonlocal begun, over
            begun = True
            over = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        if refusal := await self._security.validate_request(request, is_post=method == "POST"):
            await refusal(scope, receive, send)
            return
        try:
            match method:
                case "POST":
                    await self._post(request, receive, send_once)
                case "GET":
                    await self._get(request, receive, send_once)
                case "DELETE":
                    await self._delete(request, send_once)
                case _:
                    await wire.refuse(send, 405, "Method Not Allowed", allow=b"GET, POST, DELETE")
        except (StoreUnavailableError, LayerClosedError) as error:
            logger.warning("a %s could not be served: %s", method, error)
            drains = self._parts is None or self._parts.drain.begun
            text = f"{'This replica is shutting down' if drains else 'The session store is away'}; try again"
            if method == "GET" and not begun and isinstance(error, StoreUnavailableError):
                await come_back(send)
            else:
                await fail(send, 503, text, scope.get(_REQUEST_ID), begun=begun, over=over)
        except Exception:  # the boundary: whatever else it was, the client gets an answer and the log the cause
            logger.exception("a %s could not be served", method)
            text = "The request could not be served"
            await fail(send, 500, text, scope.get(_REQUEST_ID), begun=begun, over=over)

    # POST

    async def _post(self, request: Request, receive: Receive, send: Send) -> None:
        message = await read_message(
            request.scope, receive, send, json_mode=self.json_response, max_bytes=self.max_request_body_size
        )
        if message is None:
            return
        parts, _, _ = self._serving()
        method = message.get("method")
        if method is None:
            await self._answer(message, request, send)
            return
        request.scope[_REQUEST_ID] = message.get("id")
        if "id" not in message:
            await self._notification(method, message.get("params"), request, send)
        elif parts.journal.age > parts.settings.journal_age:
            raise StoreUnavailableError("the journal cannot write")
        elif method == "initialize":
            await self._initialize(message, request, send)
        else:
            await self._request(message, request, receive, send)

    async def _answer(self, message: dict[str, Any], request: Request, send: Send) -> None:
        parts, _, inbound = self._serving()
        session = await find_session(parts, request.scope, send)
        if session is None:
            return
        if len(wire.dump(message)) > parts.settings.max_message_bytes:
            text = f"Answer too large: at most {parts.settings.max_message_bytes} bytes are allowed"
            await wire.refuse(send, 413, text)
        elif await inbound.answer(session, message):
            await wire.respond(send, 202)
        else:
            await wire.refuse(send, 400, NOBODY_WAITS)

    async def _notification(self, method: str, params: Any, request: Request, send: Send) -> None:
        parts, runner, inbound = self._serving()
        session = await find_session(parts, request.scope, send)
        if session is None:
            return
        heard = session.client_params is not None
        if method == "notifications/initialized":
            heard = await parts.initialization.mark_initialized(session.id, owner=session.owner)
        elif heard and method == "notifications/cancelled":
            await inbound.cancelled(session, params)
        elif heard and method == "notifications/progress":
            await inbound.progress(session, params)
        await wire.respond(send, 202)
        if heard:
            runner.notify_soon(session, method, params, request)
        else:
            # Its client has not introduced itself yet, and a notification has no answer that could say so.
            parts.telemetry.count("mcpsession_dropped_notifications_total")

    async def _initialize(self, message: dict[str, Any], request: Request, send: Send) -> None:
        parts, _, _ = self._serving()
        assert self._task_group is not None
        asked = Initialize(
            self.app, parts, self._task_group, self._lifespan_state, message, request, send,
            json_mode=self.json_response,
        )  # fmt: skip
        if wire.header(request.scope["headers"], wire.SESSION_HEADER) is None:
            await asked.create(owner_of(request.scope))
        elif (session := await find_session(parts, request.scope, send)) is not None:
            await asked.introduce(session)

    async def _request(self, message: dict[str, Any], request: Request, receive: Receive, send: Send) -> None:
        parts, runner, _ = self._serving()
        claimed = wire.header(request.scope["headers"], wire.SESSION_HEADER)
        key = claimed.decode("latin-1") if claimed else ""
        # Registered before the first wait, so that a cancel that overtakes it finds it.
        exchange = runner.arrive(key, message["id"], message["method"])
        try:
            session = await find_session(parts, request.scope, send)
            while session is not None:
                if parts.drain.over:
                    raise StoreUnavailableError("this replica has drained")
                with anyio.move_on_after(parts.settings.dead_after) as waiting:
                    await parts.heartbeat.may_write_again()
                if waiting.cancelled_caught:
                    raise StoreUnavailableError("this replica pauses, because its beats are not confirmed")
                if session not in parts.ended:
                    break
                # It ended while this request was on its way here, before its end could find the request.
                session = await find_session(parts, request.scope, send)
        finally:
            parts.in_flight.leave_arriving(key, message["id"], exchange)
        if session is not None:
            await runner.serve(exchange, session, message, request, receive, send)

    # GET and DELETE

    async def _get(self, request: Request, receive: Receive, send: Send) -> None:
        headers = request.scope["headers"]
        _, has_sse = wire.accepts(wire.header(headers, b"accept") or b"")
        if not has_sse:
            await wire.refuse(send, 406, "Not Acceptable: Client must accept text/event-stream")
            return
        parts, _, _ = self._serving()
        session = await find_session(parts, request.scope, send)
        if session is None:
            return
        last_event_id = wire.header(headers, wire.LAST_EVENT_HEADER)
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

    async def _delete(self, request: Request, send: Send) -> None:
        parts, _, _ = self._serving()
        session = await find_session(parts, request.scope, send)
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

    def _serving(self) -> tuple[Parts, RequestRunner, Inbound]:
        if self._parts is None or self._runner is None or self._inbound is None:
            raise LayerClosedError
        return self._parts, self._runner, self._inbound


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

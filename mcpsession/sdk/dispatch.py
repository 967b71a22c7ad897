"""The `DispatchContext` that handlers meet: what they send travels through our journal, on any replica.

Bringing one's own context makes what the SDK's dispatcher did one's own contract. It is kept here, and pinned by tests:
nothing is sent and `can_send_request` is False once the request has finished; a timed-out or abandoned server request
sends `notifications/cancelled`; timeouts are MCPError(REQUEST_TIMEOUT); the progress token of a server request is its
id; trace context is injected.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

import anyio
from mcp.shared._otel import inject_trace_context, otel_span
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp.shared.message import MessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import (
    CONNECTION_CLOSED,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    REQUEST_TIMEOUT,
    ErrorData,
    ProgressToken,
    RequestId,
)
from opentelemetry.trace import SpanKind, StatusCode

from mcpsession.errors import LimitExceededError, StoreUnavailableError
from mcpsession.model import ReplicaId
from mcpsession.records import Session
from mcpsession.sdk import wire
from mcpsession.sdk.back_channel import Outcome, new_request_id
from mcpsession.sdk.levels import LogGate
from mcpsession.sdk.parts import Parts

logger = logging.getLogger(__name__)

_ABANDON_DEADLINE = 5.0
# Who waits for a stream looks so often; it can come to any replica.
_LOOK = 0.1

SESSION_ENDED = ErrorData(code=CONNECTION_CLOSED, message="Session ended")
"""What a waiting question is answered with when its session ends."""


class NoStandaloneStreamError(NoBackChannelError):
    """A request to the client was not sent, because the client holds no stream that it could travel on."""

    def __init__(self, method: str, waited: float) -> None:
        super(NoBackChannelError, self).__init__(
            code=INVALID_REQUEST,
            message=f"Cannot send {method!r}: the client holds no standalone (GET) stream"
            + (f", and opened none within {waited:g} s" if waited else "")
            + "; send it on the stream of the call that is being handled (ctx.elicit, or related_request_id), "
            "have the client open its GET stream, or let requests wait for one: the setting stream_wait",
        )
        self.method = method


class Outlet(Protocol):
    """A stream that messages to the client can be appended to."""

    async def emit(self, message: dict[str, Any], *, request_of: ReplicaId | None = None) -> None:
        """Append. Waits while the journal is full; dropped if the stream has ended."""


async def ask(
    parts: Parts,
    session: Session,
    outlet: Outlet,
    method: str,
    params: Mapping[str, Any] | None,
    opts: CallOptions | None,
) -> dict[str, Any]:
    """Send a request to the client on `outlet` and wait for its answer, through whichever replica it comes.

    Raises MCPError: the client's own error; REQUEST_TIMEOUT after `opts["timeout"]`, or else the setting
    `answer_timeout`; CONNECTION_CLOSED if the session ends.
    """
    opts = opts or {}
    timeout = _timeout(parts, opts)
    if session in parts.ended:
        raise MCPError.from_error_data(SESSION_ENDED)
    request_id = new_request_id(parts.heartbeat.replica_id)
    span_name = f"MCP send {method}"
    with (
        otel_span(
            span_name,
            kind=SpanKind.CLIENT,
            attributes={"mcp.method.name": method, "jsonrpc.request.id": request_id},
        ) as span,
        parts.waiters.waiting(session, request_id, opts.get("on_progress")) as waiter,
    ):
        message = _request(request_id, method, params, with_progress=opts.get("on_progress") is not None)
        try:
            await outlet.emit(message, request_of=parts.heartbeat.replica_id)
            with anyio.fail_after(timeout):
                outcome = await waiter.wait()
        except TimeoutError:
            await _take_back(outlet, opts, request_id, f"timed out after {timeout}s")
            raise MCPError(code=REQUEST_TIMEOUT, message=f"Request {method!r} timed out") from None
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True), anyio.move_on_after(_ABANDON_DEADLINE):
                await _take_back(outlet, opts, request_id, "caller cancelled")
            raise
        return _result(outcome, span)


def _timeout(parts: Parts, opts: CallOptions) -> float | None:
    timeout = opts.get("timeout")
    return parts.settings.answer_timeout if timeout is None else timeout


def _request(request_id: str, method: str, params: Mapping[str, Any] | None, *, with_progress: bool) -> dict[str, Any]:
    out = dict(params or {})
    meta = dict(out.get("_meta") or {})
    if with_progress:
        meta["progressToken"] = request_id
    inject_trace_context(meta)
    if meta:
        out["_meta"] = meta
    else:
        out.pop("_meta", None)
    message: dict[str, Any] = {"jsonrpc": "2.0", "id": request_id, "method": method}
    if out:
        message["params"] = out
    return message


def _result(outcome: Outcome, span: Any) -> dict[str, Any]:
    if not isinstance(outcome, ErrorData):
        return outcome
    code = str(outcome.code)
    span.set_attributes({"error.type": code, "rpc.response.status_code": code})
    span.set_status(StatusCode.ERROR, outcome.message)
    raise MCPError(code=outcome.code, message=outcome.message, data=outcome.data)


async def _take_back(outlet: Outlet, opts: CallOptions, request_id: str, reason: str) -> None:
    if opts.get("cancel_on_abandon", True):
        params = {"requestId": request_id, "reason": reason}
        # A stream that takes no more takes this neither, and whoever gave the question up is to hear of that.
        with suppress(LimitExceededError):
            await outlet.emit(wire.notification("notifications/cancelled", params))


class _Speaker:
    """Speaks for a session; its log messages pass a gate, which few need."""

    def __init__(self, parts: Parts, session: Session) -> None:
        self._parts = parts
        self._session = session
        self._log: LogGate | None = None

    async def _passes(self, method: str, params: Mapping[str, Any] | None) -> bool:
        if self._log is None:
            self._log = LogGate(self._session, self._parts.changes, self._parts.cache.load)
        return await self._log.passes(method, params)


class RequestContext(_Speaker):
    """One inbound message's context; its back-channel is the message's own stream."""

    def __init__(
        self,
        parts: Parts,
        session: Session,
        outlet: Outlet | None,
        *,
        request_id: RequestId | None,
        progress_token: ProgressToken | None,
        transport: TransportContext,
        metadata: MessageMetadata,
    ) -> None:
        super().__init__(parts, session)
        self._outlet = outlet
        self._progress_token = progress_token
        self._closed = False
        self._cancel_requested: anyio.Event | None = None
        self.request_id = request_id
        self.transport = transport
        self.message_metadata = metadata

    @property
    def can_send_request(self) -> bool:
        return self.transport.can_send_request and not self._closed

    @property
    def cancel_requested(self) -> anyio.Event:
        if self._cancel_requested is None:
            self._cancel_requested = anyio.Event()
        return self._cancel_requested

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        if not self.can_send_request or self._outlet is None:
            raise NoBackChannelError(method)
        return await ask(self._parts, self._session, self._outlet, method, params, opts)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        del opts
        if self._closed or self._outlet is None:
            logger.debug("dropped %s: the request has finished", method)
            return
        if not await self._passes(method, params):
            return
        # The look at the level may have taken a while.
        if not self._closed:
            await self._outlet.emit(wire.notification(method, params))

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        if self._progress_token is None:
            return
        params: dict[str, Any] = {"progressToken": self._progress_token, "progress": progress}
        if total is not None:
            params["total"] = total
        if message is not None:
            params["message"] = message
        await self.notify("notifications/progress", params)

    def close(self) -> None:
        """The request has finished: nothing more is sent."""
        self._closed = True


class StandaloneOutlet(_Speaker):
    """The connection-scoped channel: a session's standalone stream, whichever replica holds it."""

    async def emit(self, message: dict[str, Any], *, request_of: ReplicaId | None = None) -> None:
        if self._session in self._parts.ended:
            # By now its id may be somebody else's.
            return
        text = wire.dump(message, self._parts.settings.max_message_bytes)
        self._parts.journal.append_standalone(self._session.id, text, request_of=request_of)
        await self._parts.journal.room()

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Ask the client, if it holds the stream, or opens it within `stream_wait` (and the timeout, which counts on).

        Raises what `ask` raises, and NoStandaloneStreamError: then nothing was sent, nor will be.
        """
        opts = opts or {}
        began, timeout = anyio.current_time(), _timeout(self._parts, opts)
        await self._stream_is_there(method, timeout)
        if timeout is not None:
            opts = {**opts, "timeout": timeout - (anyio.current_time() - began)}
        return await ask(self._parts, self._session, self, method, params, opts)

    async def _stream_is_there(self, method: str, at_most: float | None) -> None:
        parts, session = self._parts, self._session
        wait = parts.settings.stream_wait if at_most is None else min(parts.settings.stream_wait, at_most)
        give_up_at = anyio.current_time() + wait
        while session not in parts.ended and not await self._is_held(method):
            left = give_up_at - anyio.current_time()
            if left <= 0:
                raise NoStandaloneStreamError(method, wait)
            await anyio.sleep(min(_LOOK, left))

    async def _is_held(self, method: str) -> bool:
        # One that is held here need not be looked up.
        if self._parts.standalones.of(self._session.id):
            return True
        try:
            return await self._parts.holds.holder(self._session.id) is not None
        except StoreUnavailableError as error:
            logger.warning("whether a client holds its standalone stream could not be looked up: %s", error)
            message = f"Cannot send {method!r}: the session store is away; try again"
            raise MCPError(code=INTERNAL_ERROR, message=message) from None

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        del opts
        if await self._passes(method, params):
            await self.emit(wire.notification(method, params))

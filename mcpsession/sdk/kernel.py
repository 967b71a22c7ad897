"""The SDK's kernel for one message of a session, with a connection that is made for it alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any

import anyio
from mcp.server._otel import OpenTelemetryMiddleware
from mcp.server.connection import Connection
from mcp.server.context import CallNext
from mcp.server.runner import ServerRunner, aclose_shielded
from mcp.shared.dispatcher import DispatchContext
from mcp.shared.transport_context import TransportContext
from mcp_types import InitializeRequestParams
from mcp_types.version import LATEST_HANDSHAKE_VERSION
from opentelemetry.trace import NoOpTracerProvider, ProxyTracerProvider, get_tracer_provider

from mcpsession.records import Session
from mcpsession.sdk.dispatch import StandaloneOutlet
from mcpsession.sdk.parts import Parts

if TYPE_CHECKING:
    from mcp.server.lowlevel.server import Server

_NO_SPANS = (ProxyTracerProvider, NoOpTracerProvider)
_UNTRACED = {"progressToken"}

# A long text is some client's alone; a thousand of them must not stay in memory.
_SHORT = 8192


def client_params(text: str) -> InitializeRequestParams:
    """What the client said of itself at `initialize`; the same text, usually of thousands of clients, is one object."""
    return _remembered(text) if len(text) < _SHORT else _parsed(text)


def _parsed(text: str) -> InitializeRequestParams:
    return InitializeRequestParams.model_validate_json(text)


_remembered = lru_cache(maxsize=1024)(_parsed)


class RequestConnection(Connection):
    """The session as the SDK's connection, for one request (its `state` and `exit_stack` are per request here).

    Of one without client params the SDK answers nothing but ping: its own gate, with its own error.
    """

    def __init__(self, parts: Parts, session: Session) -> None:
        # Not the SDK's own: it makes an event, a dict and a stack for each request, which hardly any asks for.
        self.outbound = StandaloneOutlet(parts, session)
        self.protocol_version = session.protocol_version or LATEST_HANDSHAKE_VERSION
        self.session_id = session.id
        self.client_capabilities = None
        self.client_params = client_params(session.client_params) if session.client_params else None
        self._session = session

    @cached_property
    def initialized(self) -> anyio.Event:  # type: ignore[override]  # made when asked for
        event = anyio.Event()
        if self._session.initialized:
            event.set()
        return event

    @cached_property
    def state(self) -> dict[str, Any]:  # type: ignore[override]  # made when asked for
        return {}

    @cached_property
    def exit_stack(self) -> AsyncExitStack:  # type: ignore[override]  # made when asked for
        return AsyncExitStack()


class Kernel(ServerRunner[Any]):
    """Runs one message through the server's middleware and handler."""

    def __init__(
        self, server: Server[Any], connection: RequestConnection, lifespan_state: Any, params: Mapping[str, Any] | None
    ) -> None:
        super().__init__(server, connection, lifespan_state)
        self._spans = _may_be_traced(params) or type(get_tracer_provider()) not in _NO_SPANS

    async def on_request(
        self, dctx: DispatchContext[TransportContext], method: str, params: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """Run a request; raises what its handler raises."""
        return await self._on_request(dctx, method, params)

    async def close(self) -> None:
        """End what was pushed to the connection's stack. Raises nothing of that."""
        if "exit_stack" in self.connection.__dict__:
            await aclose_shielded(self.connection)

    def _compose_server_middleware(self, inner: CallNext) -> CallNext:
        if self._spans:
            return super()._compose_server_middleware(inner)
        call = inner
        for middleware in reversed(self.server.middleware):
            # Where nobody provides spans it makes one that is thrown away, for a sixth of a small call.
            if type(middleware) is not OpenTelemetryMiddleware:
                call = partial(_apply, middleware, call)
        return call


def _apply(middleware: Callable[[Any, CallNext], Awaitable[Any]], call: CallNext, ctx: Any) -> Awaitable[Any]:
    return middleware(ctx, call)


def _may_be_traced(params: Mapping[str, Any] | None) -> bool:
    """Whether the client may say where the request stands in a trace, which is passed on also where nobody records."""
    meta = params.get("_meta") if params else None
    return meta is not None and not (isinstance(meta, dict) and meta.keys() <= _UNTRACED)

"""The SDK's own Starlette app, with our session manager in the place of its own.

Everything else of the app stays the SDK's: routes, authentication, metadata. The seams used here are pinned by
`tests/sdk/test_seams.py`.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Protocol

from mcp.server.auth.middleware.bearer_auth import RequireAuthMiddleware
from mcp.server.lowlevel.server import Server
from mcp.server.mcpserver import MCPServer
from mcp.server.streamable_http_manager import DEFAULT_MAX_SESSIONS, DEFAULT_SESSION_IDLE_TIMEOUT, StreamableHTTPASGIApp
from mcp.server.transport_security import DEFAULT_MAX_REQUEST_BODY_SIZE
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Mount, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from mcpsession.errors import ConfigurationError
from mcpsession.sdk.health import Health
from mcpsession.sdk.offered import offer
from mcpsession.sdk.session_manager import LayerSessionManager, Running

if TYPE_CHECKING:
    from mcpsession.settings import Settings

__all__ = ["Starlette", "low_level", "session_manager", "streamable_http_app"]

AnyServer = Server[Any] | MCPServer[Any]


class Layer(Protocol):
    """What the app needs of the layer."""

    @property
    def settings(self) -> Settings: ...
    @property
    def running(self) -> Running: ...
    def health(self) -> Health: ...
    async def drain(self, grace: float | None = None) -> None: ...
    def set_session_limits(self, *, ttl: float | None, max_sessions: int | None) -> None: ...


def low_level(server: AnyServer) -> Server[Any]:
    """The low-level server inside an MCPServer, or the server itself."""
    return server._lowlevel_server if isinstance(server, MCPServer) else server


def _prepared(server: AnyServer) -> Server[Any]:
    inner = low_level(server)
    if isinstance(server, MCPServer):
        offer(inner)
    return inner


def session_manager(server: AnyServer, layer: Layer, **options: Any) -> LayerSessionManager:
    """A manager for those who mount it themselves."""
    _refuse(options)
    return LayerSessionManager(_prepared(server), layer.running, drain=layer.drain, **options)


def streamable_http_app(
    server: AnyServer, layer: Layer, *, health_path: str | None = "/healthz", **options: Any
) -> Starlette:
    """Build the SDK's app and put our manager into it.

    Raises ConfigurationError for an option that cannot be combined with the layer, TypeError for an unknown one.
    """
    _refuse(options)
    inner = _prepared(server)
    if isinstance(server, MCPServer):
        options = _of_its_own(server) | options
    inspect.signature(inner.streamable_http_app).bind(**options)
    if (retry_ms := options.get("retry_interval")) is None:
        retry_ms = layer.settings.retry_ms
    layer.set_session_limits(
        ttl=_given(options, "session_idle_timeout", DEFAULT_SESSION_IDLE_TIMEOUT, layer.settings.session_ttl),
        max_sessions=_given(options, "max_sessions", DEFAULT_MAX_SESSIONS, layer.settings.max_sessions),
    )
    app = inner.streamable_http_app(**options)
    theirs = inner.session_manager
    ours = LayerSessionManager(
        inner,
        layer.running,
        drain=layer.drain,
        retry_ms=retry_ms,
        json_response=theirs.json_response,
        security_settings=theirs.security_settings,
        max_request_body_size=options.get("max_request_body_size", DEFAULT_MAX_REQUEST_BODY_SIZE),
    )
    inner._session_manager = ours
    endpoint = _endpoint(app)
    endpoint.session_manager = ours
    app.router.lifespan_context = lambda _: ours.run()
    _lead_straight(app, endpoint)
    if health_path is not None:
        app.router.routes.append(Route(health_path, _health(layer), methods=["GET"]))
    return app


def _of_its_own(server: MCPServer[Any]) -> dict[str, Any]:
    """What an MCPServer hands to the app besides its arguments: who may come in, and its own routes."""
    return {
        "auth": server.settings.auth,
        "token_verifier": server._token_verifier,
        "auth_server_provider": server._auth_server_provider,
        "custom_starlette_routes": server._custom_starlette_routes,
        "debug": server.settings.debug,
    }


def _refuse(options: dict[str, Any]) -> None:
    if options.get("event_store") is not None:
        raise ConfigurationError("event_store", "…", "leave it out: the layer is the event store, on all replicas")
    if options.pop("stateless_http", False) or options.pop("stateless", False):
        allowed = "leave it out: a stateless server has no sessions for the layer to keep; use the SDK's own app for it"
        raise ConfigurationError("stateless_http", True, allowed)


def _given(options: dict[str, Any], name: str, default: object, otherwise: Any) -> Any:
    """An option that somebody chose; the SDK's default is not a choice."""
    value = options.get(name, default)
    return otherwise if value == default else value


def _endpoint(app: Starlette) -> StreamableHTTPASGIApp:
    for route in app.routes:
        endpoint = getattr(route, "endpoint", None)
        if isinstance(endpoint, RequireAuthMiddleware):
            endpoint = endpoint.app
        if isinstance(endpoint, StreamableHTTPASGIApp):
            return endpoint
    raise RuntimeError(
        "the SDK's app has no StreamableHTTPASGIApp any more: this mcp release moved a seam; use an older one, "
        "and see tests/sdk/test_seams.py"
    )


def _lead_straight(app: Starlette, endpoint: StreamableHTTPASGIApp) -> None:
    """Have requests to the endpoint's own path go there without the app's stack, where that adds nothing to them.

    It is built at the first request: until then middleware, handlers of exceptions and routes can be added.
    """
    build = app.build_middleware_stack

    def built() -> ASGIApp:
        stack = build()
        route = _way_to(app, endpoint)
        if route is None or app.user_middleware or app.exception_handlers or app.debug or app.max_body_size is not None:
            return stack

        async def lead(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and scope["path"] == route.path and not scope.get("root_path"):
                scope["router"], scope["route"] = app.router, route
                scope["endpoint"], scope["path_params"] = route.endpoint, {}
                await route.app(scope, receive, send)
            else:
                await stack(scope, receive, send)

        return lead

    app.build_middleware_stack = built  # type: ignore[method-assign]  # what Starlette calls, once


def _way_to(app: Starlette, endpoint: StreamableHTTPASGIApp) -> Route | None:
    """The route that is the endpoint itself, if it comes first for its path, and for every method and host."""
    route = next((one for one in app.routes if getattr(one, "endpoint", None) is endpoint), None)
    if not isinstance(route, Route) or route.methods or route.param_convertors:
        return None
    earlier = app.routes[: app.routes.index(route)]
    if any(type(one) not in (Route, Mount, WebSocketRoute) for one in earlier):
        # What looks at more than the path (a Host does) may want some of its requests.
        return None
    asked = {"type": "http", "method": "POST", "path": route.path}
    first = next(one for one in app.routes if one.matches(asked)[0] is not Match.NONE)
    return route if first is route else None


def _health(layer: Layer) -> Any:
    async def healthz(request: Request) -> Response:
        del request
        health = layer.health()
        # Public: the word, not the numbers.
        return JSONResponse({"status": health.status}, status_code=200 if health.ready else 503)

    return healthz

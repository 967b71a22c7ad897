"""The seams of the MCP SDK, and of uvicorn, that this project stands on. When one fails, a new release moved it: the
message says which module of ours to look at. Until a seam of the SDK is mended `mcp` in pyproject.toml must stay below
that release."""

from __future__ import annotations

import importlib
import inspect
import signal

import pytest
import uvicorn
from mcp.server.lowlevel.server import Server
from mcp.server.mcpserver import MCPServer
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_HANDSHAKE_VERSION, MODERN_PROTOCOL_VERSIONS

from mcpsession import SessionLayer
from mcpsession.sdk.app import low_level
from mcpsession.sdk.drain import _asked_to_exit
from mcpsession.sdk.session_manager import LayerSessionManager

REMEDY = (
    "this mcp release moved a seam: pin `mcp` below it in pyproject.toml, then adapt {ours} and release; "
    "what moved: {seam}"
)

# (the SDK's module, the name, parameters that we pass or None for what is not called, our module)
SEAMS = [
    ("mcp.server.runner", "ServerRunner", ["server", "connection", "lifespan_state"], "sdk/post.py"),
    ("mcp.server.runner", "aclose_shielded", ["connection"], "sdk/post.py"),
    (
        "mcp.server.connection",
        "Connection",
        ["outbound", "protocol_version", "session_id", "client_params"],
        "sdk/post.py",
    ),
    ("mcp.server.streamable_http_manager", "StreamableHTTPASGIApp", ["session_manager"], "sdk/app.py"),
    ("mcp.server.streamable_http_manager", "RequestBodyLimitMiddleware", ["app", "max_body_size"], "sdk/app.py"),
    (
        "mcp.server.streamable_http_manager",
        "StreamableHTTPSessionManager",
        ["app", "json_response", "security_settings", "max_request_body_size"],
        "sdk/session_manager.py",
    ),
    ("mcp.server.transport_security", "TransportSecurityMiddleware", ["settings"], "sdk/session_manager.py"),
    ("mcp.server.auth.middleware.bearer_auth", "authorization_context", ["user"], "sdk/session_manager.py"),
    ("mcp.shared._otel", "otel_span", ["name", "kind", "attributes"], "sdk/dispatch.py"),
    ("mcp.shared._otel", "inject_trace_context", ["meta"], "sdk/dispatch.py"),
    ("mcp.shared.jsonrpc_dispatcher", "handler_exception_to_error_data", ["exc"], "sdk/exchange.py"),
    ("mcp.shared.jsonrpc_dispatcher", "progress_token_from_params", ["params"], "sdk/post.py"),
    ("mcp.shared.jsonrpc_dispatcher", "cancelled_request_id_from_params", ["params"], "sdk/inbound.py"),
    ("mcp.shared.dispatcher", "coerce_request_id", ["request_id"], "sdk/in_flight.py"),
    ("mcp.shared.subscriptions", "event_from_wire", ["method", "params"], "sdk/subscriptions.py"),
    (
        "mcp.shared.message",
        "ServerMessageMetadata",
        ["request_context", "close_sse_stream", "close_standalone_sse_stream", "can_send_request"],
        "sdk/post.py",
    ),
    ("mcp.shared.transport_context", "TransportContext", ["kind", "can_send_request"], "sdk/post.py"),
]


@pytest.mark.parametrize(("module", "name", "parameters", "ours"), SEAMS)
def test_the_sdk_still_has_the_seam(module, name, parameters, ours):
    remedy = REMEDY.format(ours=f"mcpsession/{ours}", seam=f"{module}.{name}({', '.join(parameters)})")
    found = getattr(importlib.import_module(module), name, None)
    assert found is not None, remedy
    missing = set(parameters) - set(inspect.signature(found).parameters)
    assert not missing, f"{remedy}; parameters that are gone: {sorted(missing)}"


@pytest.mark.parametrize("attribute", ["_handle_request", "_handle_stateful_request", "run", "handle_request"])
def test_the_session_manager_still_has_what_we_override_or_call(attribute):
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

    seam = f"StreamableHTTPSessionManager.{attribute}"
    assert hasattr(StreamableHTTPSessionManager, attribute), REMEDY.format(
        ours="mcpsession/sdk/session_manager.py", seam=seam
    )


def test_the_session_manager_keeps_its_task_group_and_lifespan_state_where_we_read_them():
    manager = Server("s").streamable_http_app
    assert "session_manager" in inspect.getsource(manager), REMEDY.format(ours="mcpsession/sdk/app.py", seam="the app")
    server = Server("s")
    server.streamable_http_app()
    for name in ("_task_group", "_lifespan_state", "asgi_app", "json_response", "security_settings"):
        seam = f"StreamableHTTPSessionManager().{name}"
        assert hasattr(server.session_manager, name), REMEDY.format(ours="mcpsession/sdk/session_manager.py", seam=seam)


def test_the_kernel_still_takes_our_dispatch_context():
    from mcp.server.runner import ServerRunner

    remedy = REMEDY.format(ours="mcpsession/sdk/dispatch.py", seam="ServerRunner.on_request(dctx, method, params)")
    assert ["self", "dctx", "method", "params"] == list(inspect.signature(ServerRunner._on_request).parameters), remedy
    assert ["self", "dctx", "method", "params"] == list(inspect.signature(ServerRunner._on_notify).parameters), remedy


def test_a_dispatch_context_still_needs_nothing_that_ours_does_not_have():
    from mcp.shared.dispatcher import DispatchContext

    from mcpsession.sdk.dispatch import RequestContext

    wanted = {name for name in dir(DispatchContext) if not name.startswith("_")}
    instance_attributes = {"request_id", "transport", "message_metadata"}
    missing = wanted - set(dir(RequestContext)) - instance_attributes
    assert not missing, REMEDY.format(ours="mcpsession/sdk/dispatch.py", seam=f"DispatchContext gained {missing}")


def test_an_mcpserver_still_has_a_low_level_server_inside():
    assert isinstance(low_level(MCPServer("s")), Server)


def test_the_eras_are_still_those_that_we_serve():
    remedy = REMEDY.format(ours="mcpsession/sdk/session_manager.py", seam="the protocol versions")
    assert ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] == list(HANDSHAKE_PROTOCOL_VERSIONS), remedy
    assert "2025-11-25" == LATEST_HANDSHAKE_VERSION, remedy
    assert ["2026-07-28"] == list(MODERN_PROTOCOL_VERSIONS), remedy


@pytest.mark.parametrize("make", [lambda: MCPServer("s"), lambda: Server("s")], ids=["MCPServer", "Server"])
def test_our_manager_stands_in_the_place_of_the_sdks(make):
    layer = SessionLayer.from_url("memory://")
    server = make()
    layer.streamable_http_app(server)
    assert isinstance(low_level(server).session_manager, LayerSessionManager)


def test_uvicorn_still_ends_by_itself_where_it_is_asked_to_and_its_handler_still_says_whose_it_is():
    remedy = (
        "this uvicorn release moved a seam: at SIGTERM replicas drain all the same, but end with -15 in place of 0; "
        "adapt _asked_to_exit in mcpsession/sdk/drain.py; what moved: {}"
    )
    server = uvicorn.Server(uvicorn.Config(lambda: None))
    before = signal.getsignal(signal.SIGTERM)
    with server.capture_signals():
        handler = signal.getsignal(signal.SIGTERM)
        assert server is getattr(handler, "__self__", None), remedy.format("Server.handle_exit, a bound method")
        assert server.should_exit is False, remedy.format("Server.should_exit")
        assert _asked_to_exit(handler)
        assert server.should_exit is True
    # A signal that the handler took would have been raised again.
    assert before == signal.getsignal(signal.SIGTERM)


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN, None, lambda *_: None, Server("s").run])
def test_another_servers_handler_is_called_as_it_is(handler):
    assert not _asked_to_exit(handler)

"""A server with everything that the public conformance suite asks for: on the stock SDK, or on our layer."""

import warnings
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.request_state import RequestStateSecurity
from mcp.server.subscriptions import SubscriptionBus
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPDeprecationWarning
from starlette.applications import Starlette

from tests.conformance import input_required, tools
from tests.conformance.event_store import InMemoryEventStore
from tests.conformance.prompts_and_resources import add_methods, add_prompts, add_resources

# Not a secret: requestState must open on every replica, and this server knows nothing worth hiding.
REQUEST_STATE_KEY = "mcpsession conformance: the same key on every replica"

# The suite speaks to 127.0.0.1 and expects that any other Host or Origin is refused (DNS rebinding).
HTTP_OPTIONS: dict[str, Any] = {
    "retry_interval": 500,
    "transport_security": TransportSecuritySettings(
        allowed_hosts=["127.0.0.1:*", "localhost:*", "[::1]:*"],
        allowed_origins=["http://127.0.0.1:*", "http://localhost:*", "http://[::1]:*"],
    ),
}


def build_server(subscriptions: SubscriptionBus | None = None) -> MCPServer:
    """Build the server; replicas are alike, so any of them can serve any round of any call."""
    server = MCPServer(
        "mcpsession-conformance",
        version="1.0.0",
        tools=[*tools.tools(), *input_required.tools()],
        request_state_security=RequestStateSecurity(keys=[REQUEST_STATE_KEY]),
        subscriptions=subscriptions,
    )
    add_prompts(server)
    add_resources(server)
    add_methods(server)
    return server


def stock_app() -> Starlette:
    """The stock SDK's app, whose sessions live and die in one process."""
    _silence_deprecations()
    return build_server().streamable_http_app(event_store=InMemoryEventStore(), **HTTP_OPTIONS)


def app() -> Starlette:
    """Our layer's app, configured by the environment."""
    # Here and not above: the stock app must run without the layer.
    from mcpsession import SessionLayer

    _silence_deprecations()
    layer = SessionLayer.from_env()
    return layer.streamable_http_app(build_server(layer.subscriptions), **HTTP_OPTIONS)


def _silence_deprecations() -> None:
    # Logging and sampling are deprecated as of 2026-07-28; the suite tests them as they were until then.
    warnings.simplefilter("ignore", MCPDeprecationWarning)

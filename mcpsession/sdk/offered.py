"""What the layer keeps for a session, offered to its client: an `MCPServer` has no way to say that it takes these.

A low-level server says itself what it takes, and what a server answers already is left to it.
"""

from __future__ import annotations

from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp_types import (
    EmptyResult,
    RequestParams,
    SetLevelRequestParams,
    SubscribeRequestParams,
    UnsubscribeRequestParams,
)

_OFFERED: dict[str, type[RequestParams]] = {
    "logging/setLevel": SetLevelRequestParams,
    "resources/subscribe": SubscribeRequestParams,
    "resources/unsubscribe": UnsubscribeRequestParams,
}


async def _accept(context: ServerRequestContext[Any, Any], params: RequestParams) -> EmptyResult:
    # It is kept, or refused, once this has agreed: see session_methods.
    del context, params
    return EmptyResult()


def offer(server: Server[Any]) -> None:
    """Have a server agree to what it has no handler for."""
    for method, params in _OFFERED.items():
        if server.get_request_handler(method) is None:
            server.add_request_handler(method, params, _accept)

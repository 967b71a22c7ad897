"""The server that is measured: the same tools on the stock SDK and on the layer; the peers have theirs from here."""

import os
from collections.abc import Callable
from typing import Any, Protocol

from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette

from benchmarks.sampler import listen_for_signals

NAME = "bench"


def stock_app() -> Starlette:
    """The stock SDK, its sessions in memory."""
    _profile_if_asked()
    server = MCPServer(NAME)
    add_tools(server)
    return server.streamable_http_app()


def app() -> Starlette:
    """The layer on MCPSESSION_URL, its settings from MCPSESSION_* like anyone's."""
    # Not at the top: the stock side's process and a peer's are to have nothing of ours in them.
    from mcpsession import SessionLayer

    _profile_if_asked()
    layer = SessionLayer.from_env()
    server = MCPServer(NAME, subscriptions=layer.subscriptions)
    add_tools(server)
    return layer.streamable_http_app(server)


class HasTools(Protocol):
    """A server of the SDK or of a peer."""

    def tool(self) -> Callable[[Callable[..., Any]], Any]: ...


def add_tools(server: HasTools) -> None:
    """Add the tools that the load calls."""

    # The SDK runs a plain function in a worker thread, on every side: the hop there and back is part of the call.
    @server.tool()
    def echo(text: str) -> str:
        """Return the text."""
        return text

    @server.tool()
    async def echo_async(text: str) -> str:
        """Return the text, without the hop to a thread: what is left is protocol and sessions."""
        return text


def _profile_if_asked() -> None:
    if path := os.environ.get("BENCH_PROFILE"):
        listen_for_signals(path, exact=os.environ.get("BENCH_PROFILE_EXACT") == "1")

"""The server that is measured: the same tool on the stock SDK and on the layer."""

import os

from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette

from benchmarks.sampler import listen_for_signals
from mcpsession import SessionLayer

NAME = "bench"


def stock_app() -> Starlette:
    """The stock SDK, its sessions in memory."""
    _profile_if_asked()
    server = MCPServer(NAME)
    _add_tools(server)
    return server.streamable_http_app()


def app() -> Starlette:
    """The layer on MCPSESSION_URL, its settings from MCPSESSION_* like anyone's."""
    _profile_if_asked()
    layer = SessionLayer.from_env()
    server = MCPServer(NAME, subscriptions=layer.subscriptions)
    _add_tools(server)
    return layer.streamable_http_app(server)


def _add_tools(server: MCPServer) -> None:
    # The SDK runs a plain function in a worker thread, on both sides: the hop there and back is part of the call.
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

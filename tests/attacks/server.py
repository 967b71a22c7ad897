"""What the replicas of the attacks run: tools that flood, and that have their process killed at the worst moment."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Sequence
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPDeprecationWarning
from starlette.applications import Starlette

from mcpsession import SessionLayer, current_session
from mcpsession.sdk import outbound
from tests.cluster.server import TOOLS, note, passed

# Seconds; five are five too many for a test.
outbound.STUCK = 1.0


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def flood(ctx: Context, messages: int, size: int, gate: str) -> str:
    """Send a short message, and once the file is there long ones, whether anybody takes them or not."""
    await ctx.report_progress(0, messages)
    await passed(gate)
    for number in range(1, messages):
        await ctx.report_progress(number, messages, "x" * size)
    note(f"{gate}.flooded")
    return "flooded"


async def work(ctx: Context, gate: str) -> str:
    """Write to its stream, and once the file is there to its session."""
    await ctx.report_progress(1)
    await passed(gate)
    state = await current_session().state()
    state["worked"] = True
    return "worked"


def app() -> Starlette:
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    layer = SessionLayer.from_env()
    server = MCPServer("attacks", subscriptions=layer.subscriptions)
    doomed = Doomed(layer)
    for tool in (*TOOLS, flood, work):
        server.tool(structured_output=False)(tool)

    @server.tool(structured_output=False)
    async def publish_and_die() -> str:
        """Publish and be killed after the commit, before the bell."""
        layer.broadcaster._ring = die
        await layer.broadcaster.tools_list_changed()
        return "never"

    @server.tool(structured_output=False)
    async def die_after(session_id: str, statement: str) -> str:
        """Be killed when a statement of this session has been committed that contains a text; `final`: its answer."""
        doomed.victim, doomed.statement = session_id, statement
        return "armed"

    return layer.streamable_http_app(server)


class Doomed:
    """Kills this process right after a statement, before anybody hears of its outcome."""

    def __init__(self, layer: SessionLayer) -> None:
        self.victim = self.statement = ""
        options = layer._backend._database.address.options
        base, doomed = options["connection_class"], self

        class Connection(base):
            __slots__ = ()

            async def _execute(self, query: str, args: Sequence[Any], *rest: Any, **more: Any) -> Any:
                result = await super()._execute(query, args, *rest, **more)
                if doomed.is_done(query, args):
                    die()
                return result

        options["connection_class"] = Connection

    def is_done(self, query: str, args: Sequence[Any]) -> bool:
        lists = [arg for arg in args if isinstance(arg, list)]
        if not self.victim or not (self.victim in args or any(self.victim in values for values in lists)):
            return False
        if self.statement == "final":
            return self._is_final(lists)
        return self.statement in query

    def _is_final(self, lists: Sequence[list[Any]]) -> bool:
        """Whether a batch of many sessions' streams finishes one of this session's."""
        sessions: list[str] = []
        for column in lists:
            if column and isinstance(column[0], str) and len(column[0]) == len(self.victim):
                sessions = column
            elif column and isinstance(column[0], bool) and (self.victim, True) in zip(sessions, column, strict=False):
                return True
        return False

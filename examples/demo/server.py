"""The demo's server: what each of the three replicas runs. Nothing in it knows that there are others."""

import logging

import anyio
from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel
from starlette.applications import Starlette

from mcpsession import SessionLayer, current_session
from mcpsession.model import Heard, News

# Seconds that one unit of the long tool's work takes.
WORK = 0.03

LEARNED = "demo/learned"

# Before the SDK does it: a log is read in the demo's screen, line by line.
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")

layer = SessionLayer.from_env()
mcp = MCPServer("mcpsession demo", subscriptions=layer.subscriptions)

# Of this process alone: which calls of `stand_still` began here, and whether they were stopped.
stopped: dict[str, anyio.Event] = {}


class Confirmation(BaseModel):
    sure: bool


def app() -> Starlette:
    """The ASGI app of one replica."""
    layer.broadcaster.listen(hear)
    return layer.streamable_http_app(mcp)


@mcp.tool()
def replica() -> str:
    """Say which replica runs this call."""
    return layer.settings.label


@mcp.tool()
async def count() -> dict[str, int | str]:
    """Count the calls of this session, and say which replica runs this one."""
    state = await current_session().state()
    state["calls"] = state.get("calls", 0) + 1
    return {"calls": state["calls"], "replica": layer.settings.label}


@mcp.tool()
async def order(item: str, ctx: Context) -> str:
    """Order something, after asking the user."""
    answer = await ctx.elicit(f"Order {item}?", Confirmation)
    sure = answer.action == "accept" and answer.data.sure
    return f"{item}: {'ordered' if sure else 'not ordered'} by {layer.settings.label}"


@mcp.tool()
async def work(units: int, ctx: Context) -> str:
    """Work for a while, and report each unit that is done."""
    for unit in range(1, units + 1):
        await anyio.sleep(WORK)
        await ctx.report_progress(unit, units)
    return f"{units} units of work by {layer.settings.label}"


@mcp.tool()
async def stand_still(ticket: str, ctx: Context) -> None:
    """Report that it began, and then do nothing until it is cancelled."""
    stopped[ticket] = anyio.Event()
    try:
        await ctx.report_progress(1)
        await anyio.sleep_forever()
    finally:
        stopped[ticket].set()


@mcp.tool()
async def wait_until_stopped(ticket: str) -> str:
    """Return once the call of `stand_still` with this ticket, which must be this replica's, was stopped."""
    await stopped[ticket].wait()
    return layer.settings.label


@mcp.tool()
async def learn(name: str, ctx: Context) -> str:
    """Give every replica a new tool, and tell all clients that the list changed.

    A replica that starts later does not know it: a real server would keep its list in a table.
    """
    await layer.broadcaster.publish(News(LEARNED, {"name": name}))
    await ctx.notify_tools_changed()
    return layer.settings.label


def hear(heard: Heard | None) -> None:
    """What another replica (or this one) learned, this one can do too. Called before the clients are told."""
    if heard is not None and heard.news.method == LEARNED:
        name = str(heard.news.params["name"])
        mcp.add_tool(lambda: f"{name} by {layer.settings.label}", name=name, description="Learned in the demo.")

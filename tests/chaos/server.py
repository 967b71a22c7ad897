"""What the replicas run under fire: tools that talk, ask, count and publish, each with the tag of its call."""

from __future__ import annotations

import json
import os
import warnings

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp.shared.message import ServerMessageMetadata
from mcp_types import (
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    SamplingMessage,
    TextContent,
)
from starlette.applications import Starlette

from mcpsession import News, SessionLayer, current_session
from tests.chaos.records import KIND_CUSTOM, KIND_TOOLS

LABEL = os.environ.get("MCPSESSION_LABEL", "")
SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
METHODS = {KIND_TOOLS: "notifications/tools/list_changed", KIND_CUSTOM: "notifications/x/chaos"}

ANSWER_WITHIN = 15.0
"""Seconds. The SDK's client sends an answer once; if that was refused, nobody else will end the wait."""


async def talk(ctx: Context, tag: str, steps: int, pause: float) -> str:
    """Report progress 1, 2, …, with a pause after each."""
    for step in range(1, steps + 1):
        await ctx.report_progress(step, steps, f"{LABEL} {tag}")
        await anyio.sleep(pause)
    return f"{tag} talked {steps}"


async def ask(ctx: Context, tag: str) -> str:
    """Ask the user for the tag in capitals."""
    request = ElicitRequest(params=ElicitRequestFormParams(message=tag, requested_schema=SCHEMA))
    metadata = ServerMessageMetadata(related_request_id=ctx.request_id)
    answer = await ctx.session.send_request(
        request, ElicitResult, metadata=metadata, request_read_timeout_seconds=ANSWER_WITHIN
    )
    return f"{tag} heard {(answer.content or {}).get('answer')}"


async def sample(ctx: Context, tag: str) -> str:
    """Ask the client's model for the tag in capitals."""
    prompt = [SamplingMessage(role="user", content=TextContent(text=tag))]
    request = CreateMessageRequest(params=CreateMessageRequestParams(messages=prompt, max_tokens=10))
    metadata = ServerMessageMetadata(related_request_id=ctx.request_id)
    said = await ctx.session.send_request(
        request, CreateMessageResult, metadata=metadata, request_read_timeout_seconds=ANSWER_WITHIN
    )
    return f"{tag} heard {said.content.text if isinstance(said.content, TextContent) else None}"


async def count(tag: str) -> str:
    """Count up the session's counter, and note that this call did so."""
    state = await current_session().state()
    state["count"] = state.get("count", 0) + 1
    state[f"did {tag}"] = state.get(f"did {tag}", 0) + 1
    return f"{tag} counted {state['count']}"


async def tell(ctx: Context, tag: str, number: int) -> str:
    """Send a number on the session's standalone stream."""
    await ctx.session.send_log_message("info", number)
    return f"{tag} told {number}"


async def counted(tag: str) -> str:
    """Return the whole state, as JSON."""
    del tag
    return json.dumps(dict(await current_session().state()))


def app() -> Starlette:
    """Build the app of one replica."""
    # Logging and sampling are deprecated as of 2026-07-28; here they are used as they were until then.
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    layer = SessionLayer.from_env()
    server = MCPServer("chaos", subscriptions=layer.subscriptions)

    async def publish(tag: str, kind: str, number: int) -> str:
        """Publish a numbered piece of news."""
        await layer.broadcaster.publish(News(METHODS[kind], {"_meta": {"number": number}}))
        return f"{tag} published {number}"

    for tool in (talk, ask, sample, count, tell, counted, publish):
        server.tool(structured_output=False)(tool)
    return layer.streamable_http_app(server)

"""What the replicas of these tests run: a server whose tools do what a test needs, when the test says so.

Tools wait for files instead of sleeping, and leave files behind to be looked at. A file is named by an argument, under
the folder that CLUSTER_FILES names.
"""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path
from typing import Any

import anyio
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp.shared.message import ServerMessageMetadata
from mcp_types import (
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    SamplingMessage,
    TextContent,
)
from pydantic import AnyHttpUrl
from starlette.applications import Starlette

from mcpsession import SessionLayer, current_session

FILES = Path(os.environ.get("CLUSTER_FILES", "/nowhere"))
LABEL = os.environ.get("MCPSESSION_LABEL", "")
LOOK = 0.005
SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}


def note(name: str, text: str = "") -> None:
    """Append a line to a file, which exists then."""
    with (FILES / name).open("a") as file:
        file.write(f"{text}\n")


async def passed(gate: str) -> None:
    """Wait until the test has made this file."""
    while not (FILES / gate).exists():  # noqa: ASYNC110 (a file of another process announces nothing)
        await anyio.sleep(LOOK)


# Plain ones


async def whoami() -> str:
    """Name the replica that serves this."""
    return LABEL


async def count(key: str = "count") -> str:
    """Count up a key of the session's state."""
    state = await current_session().state()
    state[key] = state.get(key, 0) + 1
    return str(state[key])


async def put(key: str, at: str = "") -> str:
    """Set one key of the session's state; everyone who names `at` reads before anyone writes."""
    state = await current_session().state()
    if at:
        note(f"{at}.read", key)
        await passed(f"{at}.write")
    state[key] = True
    return key


async def keys() -> str:
    """List the keys of the session's state."""
    return ",".join(sorted(await current_session().state()))


async def wait(gate: str) -> str:
    """Wait for a file, and leave a line in another for each time this was run."""
    note(f"{gate}.runs", LABEL)
    await passed(gate)
    return f"waited on {LABEL}"


async def hang(name: str) -> str:
    """Wait until cancelled, and leave a line that says so."""
    note(f"{name}.started", LABEL)
    try:
        await anyio.sleep_forever()
    finally:
        note(f"{name}.stopped", LABEL)
    return "never"


async def block(seconds: float) -> str:
    """Block the whole event loop."""
    time.sleep(seconds)  # noqa: ASYNC251 (that is what is tested)
    return "unblocked"


async def big(size: int) -> str:
    """Return a long text."""
    return "x" * size


# What they say on the way


async def talk(ctx: Context, steps: int, gate: str = "") -> str:
    """Report progress 1, 2, … and who does, each when its file `gate.N` is there; return when `gate.end` is."""
    for step in range(1, steps + 1):
        if gate:
            await passed(f"{gate}.{step}")
        await ctx.report_progress(step, steps, LABEL)
    if gate:
        await passed(f"{gate}.end")
    return f"talked {steps} on {LABEL}"


async def tick(ctx: Context, steps: int, every: float) -> str:
    """Report progress 1, 2, … with a pause before each."""
    for step in range(1, steps + 1):
        await anyio.sleep(every)
        await ctx.report_progress(step, steps)
    return f"ticked {steps} on {LABEL}"


async def close_stream(ctx: Context, gate: str) -> str:
    """Close the request's own stream, and go on when the file is there."""
    await ctx.close_sse_stream()
    await passed(gate)
    return "closed and went on"


async def tell(ctx: Context, text: str) -> str:
    """Send a message on the session's standalone stream."""
    await ctx.session.send_log_message("info", text)
    return "told"


async def announce(ctx: Context, kind: str = "tools", times: int = 1) -> str:
    """Tell every listener that a list changed."""
    for _ in range(times):
        await getattr(ctx, f"notify_{kind}_changed")()
    return f"announced on {LABEL}"


# What they ask


async def elicit(ctx: Context, question: str) -> str:
    """Ask the user."""
    answer = await ctx.session.elicit_form(question, SCHEMA, related_request_id=ctx.request_id)
    return f"{answer.action} {(answer.content or {}).get('answer')} on {LABEL}"


async def elicit_with_progress(ctx: Context, question: str) -> str:
    """Ask the user, and say how the client reported its progress."""
    reports: list[float] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        reports.append(progress)

    request = ElicitRequest(params=ElicitRequestFormParams(message=question, requested_schema=SCHEMA))
    answer = await ctx.session.send_request(
        request,
        ElicitResult,
        metadata=ServerMessageMetadata(related_request_id=ctx.request_id),
        progress_callback=hear,
    )
    return f"{answer.action} after {reports}"


async def sample(ctx: Context, prompt: str) -> str:
    """Ask the client's model."""
    said = await ctx.session.create_message(
        [SamplingMessage(role="user", content=TextContent(text=prompt))],
        max_tokens=10,
        related_request_id=ctx.request_id,
    )
    return f"it said {said.content.text if isinstance(said.content, TextContent) else None}"


TOOLS = (
    *(whoami, count, put, keys, wait, hang, block, big),
    *(talk, tick, close_stream, tell, announce),
    *(elicit, elicit_with_progress, sample),
)

# Who may come in, in the secured app.
TOKENS = {
    "anna": AccessToken(token="anna", client_id="desk", scopes=[], subject="anna", claims={"iss": "https://id.test"}),
    "bert": AccessToken(token="bert", client_id="desk", scopes=[], subject="bert", claims={"iss": "https://id.test"}),
}


class Verifier:
    """Knows two users of one client."""

    async def verify_token(self, token: str) -> AccessToken | None:
        return TOKENS.get(token)


def make(**options: Any) -> Starlette:
    """Build the app of one replica."""
    # Logging and sampling are deprecated as of 2026-07-28; here they are tested as they were until then.
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    layer = SessionLayer.from_env()
    server = MCPServer("cluster", subscriptions=layer.subscriptions)
    for tool in TOOLS:
        server.tool(structured_output=False)(tool)
    return layer.streamable_http_app(server, **options)


def app() -> Starlette:
    """SSE answers, for anyone."""
    return make(max_request_body_size=64 * 1024)


def json_app() -> Starlette:
    """JSON answers."""
    return make(json_response=True)


def secured_app() -> Starlette:
    """For those with a token."""
    auth = AuthSettings(
        issuer_url=AnyHttpUrl("https://id.test"),
        resource_server_url=AnyHttpUrl("http://127.0.0.1/mcp"),
        validate_token_resource=False,
    )
    return make(auth=auth, token_verifier=Verifier())

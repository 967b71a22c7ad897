"""The tools that the public conformance suite calls by name, plain ones and those that talk back to the client.

Functions here are registered under their own names. None of them keeps anything between two calls: behind a front that
rotates per request, whatever one process remembered would be unknown to the next.
"""

from typing import Annotated, Any

import anyio
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.shared.exceptions import MCPError
from mcp_types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    ClientCapabilities,
    EmbeddedResource,
    ImageContent,
    MissingRequiredClientCapabilityErrorData,
    SamplingCapability,
    SamplingMessage,
    TextContent,
    TextResourceContents,
)
from pydantic import Field

from tests.conformance.media import PNG_BASE64, WAV_BASE64
from tests.conformance.schemas import DEFAULTS_SCHEMA, ENUMS_SCHEMA, JSON_SCHEMA_2020_12, USER_SCHEMA

STEP_DELAY = 0.05
"""Seconds between two notifications of one call, as the suite asks."""

RECONNECT_DELAY = 0.2
"""Seconds that a call goes on after its stream was closed: long enough for a client to come back while it runs."""

# Content


async def test_simple_text() -> str:
    """Return one text block."""
    return "This is a simple text response for testing."


async def test_image_content() -> ImageContent:
    """Return one image block."""
    return ImageContent(data=PNG_BASE64, mime_type="image/png")


async def test_audio_content() -> AudioContent:
    """Return one audio block."""
    return AudioContent(data=WAV_BASE64, mime_type="audio/wav")


async def test_embedded_resource() -> EmbeddedResource:
    """Return one embedded resource."""
    return _embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")


async def test_multiple_content_types() -> list[TextContent | ImageContent | EmbeddedResource]:
    """Return text, an image and a resource in one result."""
    return [
        TextContent(text="Multiple content types test:"),
        ImageContent(data=PNG_BASE64, mime_type="image/png"),
        _embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
    ]


def _embedded(uri: str, mime_type: str, text: str) -> EmbeddedResource:
    return EmbeddedResource(resource=TextResourceContents(uri=uri, mime_type=mime_type, text=text))


async def test_error_handling() -> str:
    """Fail always."""
    raise ToolError("This tool intentionally returns an error for testing")


# Arguments


async def json_schema_2020_12_tool(name: str = "", address: dict[str, Any] | None = None) -> str:
    """Advertise an input schema with JSON Schema 2020-12 features."""
    return f"name={name!r}, address={address!r}"


async def test_x_mcp_header(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
    """Take an argument that must be repeated in an HTTP header (SEP-2243)."""
    return f"region={region}"


# Notifications along the way


async def test_tool_with_logging(ctx: Context) -> str:
    """Send three log messages while running."""
    await ctx.info("Tool execution started")
    await anyio.sleep(STEP_DELAY)
    await ctx.info("Tool processing data")
    await anyio.sleep(STEP_DELAY)
    await ctx.info("Tool execution completed")
    return "Tool with logging executed"


async def test_logging_tool(ctx: Context) -> str:
    """Log once, which a client hears only if its request asked for logs (2026-07-28)."""
    await ctx.info("Nobody hears this unless the request set a log level")
    return "Logging tool executed"


async def test_tool_with_progress(ctx: Context) -> str:
    """Report progress three times."""
    await ctx.report_progress(0, 100)
    await anyio.sleep(STEP_DELAY)
    await ctx.report_progress(50, 100)
    await anyio.sleep(STEP_DELAY)
    await ctx.report_progress(100, 100)
    return "Tool with progress executed"


async def test_trigger_tool_change(ctx: Context) -> str:
    """Tell every listener that the list of tools changed.

    The list itself stays as it is: it is the same in every process, and no process could change it for the others.
    """
    await ctx.notify_tools_changed()
    return "Announced a change of the tools"


async def test_trigger_prompt_change(ctx: Context) -> str:
    """Tell every listener that the list of prompts changed."""
    await ctx.notify_prompts_changed()
    return "Announced a change of the prompts"


async def test_reconnection(ctx: Context) -> str:
    """Close the request's stream in mid-call: the client must come back with Last-Event-ID for the result."""
    await ctx.close_sse_stream()
    await anyio.sleep(RECONNECT_DELAY)
    return "Reconnection test completed: this result reached a client that came back for it."


# Requests to the client (up to 2025-11-25)


async def test_sampling(prompt: str, ctx: Context) -> str:
    """Ask the client's model."""
    answer = await ctx.session.create_message(
        [SamplingMessage(role="user", content=TextContent(text=prompt))],
        max_tokens=100,
        related_request_id=ctx.request_id,
    )
    text = answer.content.text if isinstance(answer.content, TextContent) else "no text"
    return f"LLM response: {text}"


async def test_elicitation(message: str, ctx: Context) -> str:
    """Ask the user for a name and an address."""
    return f"User response: {await _elicit(ctx, message, USER_SCHEMA)}"


async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
    """Ask the user with a default for every primitive type."""
    return f"Elicitation completed: {await _elicit(ctx, 'Review the defaults', DEFAULTS_SCHEMA)}"


async def test_elicitation_sep1330_enums(ctx: Context) -> str:
    """Ask the user with every kind of enumeration."""
    return f"Elicitation completed: {await _elicit(ctx, 'Choose from the options', ENUMS_SCHEMA)}"


async def _elicit(ctx: Context, message: str, schema: dict[str, Any]) -> str:
    answer = await ctx.session.elicit_form(message, schema, related_request_id=ctx.request_id)
    return f"action={answer.action}, content={answer.content}"


# Capabilities of the client (2026-07-28)


async def test_missing_capability(ctx: Context) -> str:
    """Refuse to run for a client that does not declare sampling."""
    needed = ClientCapabilities(sampling=SamplingCapability())
    if not ctx.session.check_client_capability(needed):
        raise MCPError(
            MISSING_REQUIRED_CLIENT_CAPABILITY,
            "This tool needs a client that declares the sampling capability",
            MissingRequiredClientCapabilityErrorData(required_capabilities=needed).model_dump(
                by_alias=True, mode="json", exclude_none=True
            ),
        )
    return "The client declared sampling"


# In the order of tools/list: the suite calls the first one without arguments.
FUNCTIONS = [
    test_simple_text,
    test_image_content,
    test_audio_content,
    test_embedded_resource,
    test_multiple_content_types,
    test_error_handling,
    json_schema_2020_12_tool,
    test_x_mcp_header,
    test_tool_with_logging,
    test_logging_tool,
    test_tool_with_progress,
    test_trigger_tool_change,
    test_trigger_prompt_change,
    test_reconnection,
    test_sampling,
    test_elicitation,
    test_elicitation_sep1034_defaults,
    test_elicitation_sep1330_enums,
    test_missing_capability,
]


def tools() -> list[Tool]:
    """All tools of this module, newly made."""
    made = [Tool.from_function(function, structured_output=False) for function in FUNCTIONS]
    for tool in made:
        if tool.name == json_schema_2020_12_tool.__name__:
            # No signature renders if/then/else or $anchor: the schema is given as it must be listed.
            tool.parameters = JSON_SCHEMA_2020_12
    return made

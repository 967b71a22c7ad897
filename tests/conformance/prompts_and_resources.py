"""The prompts, resources and small methods that the conformance suite asks for by name."""

import json

from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.prompts.base import Message, UserMessage
from mcp_types import (
    Completion,
    CompletionArgument,
    CompletionContext,
    EmbeddedResource,
    EmptyResult,
    ImageContent,
    InputRequiredResult,
    PromptReference,
    ResourceTemplateReference,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextResourceContents,
    UnsubscribeRequestParams,
)

from tests.conformance.input_required import accepted, ask_user
from tests.conformance.media import PNG, PNG_BASE64


def add_prompts(server: MCPServer) -> None:
    """Register every prompt of the suite."""

    @server.prompt("test_simple_prompt")
    def simple() -> str:
        """Say one thing."""
        return "This is a simple prompt for testing."

    @server.prompt("test_prompt_with_arguments")
    def with_arguments(arg1: str, arg2: str) -> str:
        """Repeat two arguments."""
        return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"

    @server.prompt("test_prompt_with_embedded_resource")
    def with_embedded_resource(resourceUri: str) -> list[Message]:  # noqa: N803 - the suite's name for it
        """Embed a resource."""
        text = "Embedded resource content for testing."
        contents = TextResourceContents(uri=resourceUri, mime_type="text/plain", text=text)
        return [
            UserMessage(EmbeddedResource(resource=contents)),
            UserMessage("Please process the embedded resource above."),
        ]

    @server.prompt("test_prompt_with_image")
    def with_image() -> list[Message]:
        """Show an image."""
        return [
            UserMessage(ImageContent(data=PNG_BASE64, mime_type="image/png")),
            UserMessage("Please analyze the image above."),
        ]

    @server.prompt("test_input_required_result_prompt")
    async def with_input(ctx: Context) -> str | InputRequiredResult:
        """Ask what the prompt shall be about first."""
        if (answer := accepted(ctx, "user_context")) is None or "context" not in answer:
            question = ask_user("What context should the prompt use?", context="string")
            return InputRequiredResult(input_requests={"user_context": question})
        return f"Prompt with context: {answer['context']}"


def add_resources(server: MCPServer) -> None:
    """Register every resource and template of the suite."""

    @server.resource("test://static-text", name="static-text", mime_type="text/plain")
    def static_text() -> str:
        """A text that never changes."""
        return "This is the content of the static text resource."

    @server.resource("test://static-binary", name="static-binary", mime_type="image/png")
    def static_binary() -> bytes:
        """An image that never changes."""
        return PNG

    @server.resource("test://watched-resource", name="watched-resource", mime_type="text/plain")
    def watched() -> str:
        """A text that one can subscribe to."""
        return "Watched resource content."

    @server.resource("test://template/{id}/data", name="template", mime_type="application/json")
    def template(id: str) -> str:
        """Data for any id."""
        return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


def add_methods(server: MCPServer) -> None:
    """Register completion, and the methods that `MCPServer` has no decorator for."""

    @server.completion()
    async def complete(
        ref: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion:
        values = [word for word in ("paris", "park", "party", "testing") if word.startswith(argument.value)]
        return Completion(values=values, total=len(values), has_more=False)

    # Level and subscriptions belong to the session, so the transport keeps them: here they are only accepted.
    async def accept(ctx: ServerRequestContext, params: object) -> EmptyResult:
        return EmptyResult()

    lowlevel = server._lowlevel_server
    lowlevel.add_request_handler("logging/setLevel", SetLevelRequestParams, accept)
    lowlevel.add_request_handler("resources/subscribe", SubscribeRequestParams, accept)
    lowlevel.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, accept)

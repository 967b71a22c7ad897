"""The tools that answer with `input_required` (SEP-2322): each round may be served by another replica.

What a later round must know travels in `requestState`, sealed and opened by the SDK with a key that all replicas share.
"""

import json
from typing import Any

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.tools import Tool
from mcp_types import (
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    SamplingMessage,
    TextContent,
)

# What to ask


def ask_user(message: str, **properties: str) -> ElicitRequest:
    """Ask the user for these properties, given as name=JSON type, all required."""
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in properties.items()},
        "required": list(properties),
    }
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def ask_model(prompt: str, *, max_tokens: int) -> CreateMessageRequest:
    """Ask the client's model."""
    message = SamplingMessage(role="user", content=TextContent(text=prompt))
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[message], max_tokens=max_tokens))


def accepted(ctx: Context, key: str) -> dict[str, Any] | None:
    """What the user entered for `key`, or None where there is no usable answer, so that it is asked again."""
    answer = (ctx.input_responses or {}).get(key)
    return answer.content if isinstance(answer, ElicitResult) and answer.action == "accept" else None


# One question


async def test_input_required_result_elicitation(ctx: Context) -> str | InputRequiredResult:
    """Ask for a name, then greet."""
    if (answer := accepted(ctx, "user_name")) is None or "name" not in answer:
        return InputRequiredResult(input_requests={"user_name": ask_user("What is your name?", name="string")})
    return f"Hello, {answer['name']}!"


async def test_streaming_elicitation(ctx: Context) -> str | InputRequiredResult:
    """Ask in the result, and never by a request of its own on the stream."""
    return await test_input_required_result_elicitation(ctx)


async def test_input_required_result_sampling(ctx: Context) -> str | InputRequiredResult:
    """Ask the client's model, then repeat what it said."""
    answer = (ctx.input_responses or {}).get("capital_question")
    if not isinstance(answer, CreateMessageResult):
        question = ask_model("What is the capital of France?", max_tokens=100)
        return InputRequiredResult(input_requests={"capital_question": question})
    return answer.content.text if isinstance(answer.content, TextContent) else "no text"


async def test_input_required_result_list_roots(ctx: Context) -> str | InputRequiredResult:
    """Ask for the client's roots, then list them."""
    answer = (ctx.input_responses or {}).get("client_roots")
    if not isinstance(answer, ListRootsResult):
        return InputRequiredResult(input_requests={"client_roots": ListRootsRequest()})
    return "Roots: " + ", ".join(str(root.uri) for root in answer.roots)


# Questions with state


async def test_input_required_result_request_state(ctx: Context) -> str | InputRequiredResult:
    """Ask for a confirmation, and find in the second round what the first one left."""
    if ctx.request_state != "waiting for ok" or accepted(ctx, "confirm") is None:
        question = ask_user("Please confirm", ok="boolean")
        return InputRequiredResult(input_requests={"confirm": question}, request_state="waiting for ok")
    return "state-ok"


async def test_input_required_result_tampered_state(ctx: Context) -> str | InputRequiredResult:
    """Ask with state: one that was changed on the way never gets here, the seal is checked before."""
    return await test_input_required_result_request_state(ctx)


async def test_input_required_result_multiple_inputs(ctx: Context) -> str | InputRequiredResult:
    """Ask the user, the model and for the roots at once."""
    questions: dict[str, InputRequest] = {
        "user_name": ask_user("What is your name?", name="string"),
        "greeting": ask_model("Generate a greeting", max_tokens=50),
        "client_roots": ListRootsRequest(),
    }
    answers = ctx.input_responses or {}
    if ctx.request_state is None or not questions.keys() <= answers.keys():
        return InputRequiredResult(input_requests=questions, request_state="waiting for three")
    return "Got answers to: " + ", ".join(sorted(answers))


async def test_input_required_result_multi_round(ctx: Context) -> str | InputRequiredResult:
    """Ask for a name, then for a colour, then tell both."""
    known: dict[str, str] = json.loads(ctx.request_state) if ctx.request_state else {}
    for key, field in (("step1", "name"), ("step2", "color")):
        if (answer := accepted(ctx, key)) is not None and field in answer:
            known[field] = str(answer[field])
    if "name" not in known:
        return _next_step("step1", ask_user("Step 1: What is your name?", name="string"), known)
    if "color" not in known:
        return _next_step("step2", ask_user("Step 2: What is your favorite color?", color="string"), known)
    return f"{known['name']} likes {known['color']}"


def _next_step(key: str, question: InputRequest, known: dict[str, str]) -> InputRequiredResult:
    return InputRequiredResult(input_requests={key: question}, request_state=json.dumps(known))


async def test_input_required_result_capabilities(ctx: Context) -> str | InputRequiredResult:
    """Ask only what the client declared that it can answer."""
    can = ctx.client_capabilities
    questions: dict[str, InputRequest] = {}
    if can is not None and can.sampling is not None:
        questions["greeting"] = ask_model("Generate a greeting", max_tokens=50)
    if can is not None and can.elicitation is not None:
        questions["user_name"] = ask_user("What is your name?", name="string")
    if ctx.input_responses is None and questions:
        return InputRequiredResult(input_requests=questions)
    return "Nothing more to ask"


FUNCTIONS = [
    test_input_required_result_elicitation,
    test_streaming_elicitation,
    test_input_required_result_sampling,
    test_input_required_result_list_roots,
    test_input_required_result_request_state,
    test_input_required_result_tampered_state,
    test_input_required_result_multiple_inputs,
    test_input_required_result_multi_round,
    test_input_required_result_capabilities,
]


def tools() -> list[Tool]:
    """All tools of this module, newly made."""
    return [Tool.from_function(function, structured_output=False) for function in FUNCTIONS]

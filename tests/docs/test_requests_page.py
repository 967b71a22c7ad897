"""What the page about requests shows runs, on Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from mcp.server.mcpserver import MCPServer

from mcpsession import SessionLayer
from tests.docs.snippets import run, snippets_of
from tests.sdk.asgi_client import request
from tests.sdk.replicas import Client, text_of

WHOSE, LOOK, STOP, TRACK = snippets_of("docs/requests.md")
PARENT = f"00-{'a' * 32}-{'b' * 16}-01"


@pytest.fixture
async def page(database_url: str) -> AsyncIterator[dict[str, Any]]:
    """What the page takes for given: a replica that serves tools, and a session of a client."""
    layer = SessionLayer.from_url(database_url, namespace="page")
    mcp = MCPServer("page", subscriptions=layer.subscriptions)
    names: dict[str, Any] = {"layer": layer, "mcp": mcp}
    await run(WHOSE, names)

    @mcp.tool()
    async def hang() -> str:
        await anyio.sleep_forever()
        return "never"

    names["app"] = layer.streamable_http_app(mcp)
    async with names["app"].router.lifespan_context(names["app"]):
        names["client"] = client = await Client().initialize(At(names["app"]))  # type: ignore[arg-type]
        names["session"] = await layer.sessions.get(client.session_id)
        yield names


class At:
    """Where a client sends its messages."""

    def __init__(self, app: Any) -> None:
        self.app = app


async def call(page: dict[str, Any], tool: str, request_id: Any) -> Any:
    params = {"name": tool, "arguments": {}, "_meta": {"traceparent": PARENT}}
    message = {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}
    async with request(page["app"], "POST", headers=page["client"].headers, json_body=message) as response:
        [answer] = await response.messages()
    return answer


async def test_a_tool_says_whose_request_it_handles(page):
    with anyio.fail_after(10):
        answer = await call(page, "whose", "five")
    session = page["session"]
    assert f"tools/call 'five' of {repr(session).split()[1]}, trace {'a' * 32}" == text_of(answer)


async def test_a_call_is_seen_and_stopped(page, capsys):
    answers = []
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:

            async def hang() -> None:
                answers.append(await call(page, "hang", 7))

            tasks.start_soon(hang)
            printed = ""
            while "tools/call 7 for 0 s on" not in printed:
                await run(LOOK, page)
                printed = capsys.readouterr().out
            await run(STOP, page)
    assert capsys.readouterr().out.startswith("tools/call ran for ")
    assert "Request cancelled: the budget is spent" == answers[0]["error"]["message"]
    with anyio.fail_after(10):
        # Its client has its answer a moment before the log has.
        while await page["layer"].requests.has(page["session"].id, 7):  # noqa: ASYNC110 (a log announces nothing)
            await anyio.sleep(0.01)
    await run(STOP, page)
    assert "" == capsys.readouterr().out


async def test_what_the_application_does_is_tracked_while_it_runs(page):
    seen = []

    async def export() -> None:
        seen.append(await page["layer"].requests.has(page["session"].id, "export-7"))

    await run(TRACK, {**page, "export": export})
    assert [True] == seen
    assert not await page["layer"].requests.has(page["session"].id, "export-7")

"""The stories of the demo with the SDK's own client, every request to the next replica."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import mcp_types as types
import pytest
from mcp import Client as SDKClient
from mcp.shared.exceptions import MCPError

from examples.cluster import Cluster
from tests.cluster.client import DEADLINE
from tests.cluster.conftest import Files, heal

FAULTS = True


def text(result: types.CallToolResult) -> str:
    assert not result.is_error, result
    assert isinstance(result.content[0], types.TextContent)
    return result.content[0].text


@asynccontextmanager
async def sdk_client(cluster: Cluster, **options: Any) -> AsyncIterator[SDKClient]:
    with anyio.fail_after(60):
        async with SDKClient(f"{cluster.url}/mcp", mode="legacy", **options) as client:
            yield client


async def test_one_session_is_served_by_all_three(cluster: Cluster) -> None:
    async with sdk_client(cluster) as client:
        served = {text(await client.call_tool("whoami", {})) for _ in range(12)}
        counts = [text(await client.call_tool("count", {})) for _ in range(12)]
    assert served == {"0", "1", "2"}
    assert counts == [str(number) for number in range(1, 13)]


async def test_elicitations_and_samplings_are_answered_through_any_replica(cluster: Cluster) -> None:
    async def elicited(context: object, params: types.ElicitRequestParams) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"answer": params.message.upper()})

    async def sampled(context: object, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
        return types.CreateMessageResult(
            role="assistant", model="m", content=types.TextContent(type="text", text="hello")
        )

    async with sdk_client(cluster, elicitation_callback=elicited, sampling_callback=sampled) as client:
        for number in range(6):
            answer = text(await client.call_tool("elicit", {"question": f"well {number}"}))
            assert answer.startswith(f"accept WELL {number} on ")
            assert text(await client.call_tool("sample", {"prompt": "say"})) == "it said hello"


async def test_a_client_resumes_a_stream_that_the_tool_closed(cluster: Cluster, files: Files) -> None:
    async with sdk_client(cluster) as client:
        files.touch("gate")
        assert text(await client.call_tool("close_stream", {"gate": files("gate")})) == "closed and went on"


async def test_progress_arrives_in_order(cluster: Cluster) -> None:
    heard: list[float] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append(progress)

    async with sdk_client(cluster) as client:
        await client.call_tool("talk", {"steps": 20}, progress_callback=hear)
    assert heard == list(range(1, 21))


async def test_an_abandoned_call_stops_on_the_replica_that_runs_it(cluster: Cluster, files: Files) -> None:
    async with sdk_client(cluster) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, "hang", {"name": files("hang")})
            await files.wait_for("hang.started")
            # The SDK's client sends notifications/cancelled, and the front gives it to another replica.
            tasks.cancel_scope.cancel()
        await files.wait_for("hang.stopped")
        assert text(await client.call_tool("count", {})) == "1"


async def test_a_change_on_any_replica_is_heard(cluster: Cluster) -> None:
    heard: list[str] = []
    changed = anyio.Event()

    async def hear(message: object) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            heard.append(message.method)
            changed.set()

    async with sdk_client(cluster, message_handler=hear) as client:
        for _ in range(3):
            changed = anyio.Event()
            await client.call_tool("announce", {})
            with anyio.fail_after(DEADLINE):
                await changed.wait()
    assert len(heard) >= 3


async def test_a_modern_client_hears_a_change_from_any_replica(cluster: Cluster) -> None:
    with anyio.fail_after(60):
        async with (
            SDKClient(f"{cluster.url}/mcp", mode="auto") as client,
            client.listen(tools_list_changed=True) as events,
        ):
            for _ in range(3):
                await client.call_tool("announce", {})
                await anext(aiter(events))


async def test_the_session_goes_on_after_kill_9(cluster: Cluster, files: Files) -> None:
    ran_by: list[str] = []
    heard = anyio.Event()
    failures: list[str] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        ran_by.append(message or "")
        heard.set()

    async with sdk_client(cluster) as client:
        assert text(await client.call_tool("count", {})) == "1"

        async def call() -> None:
            try:
                await client.call_tool("talk", {"steps": 2, "gate": files("gate")}, progress_callback=hear)
            except MCPError as error:
                failures.append(str(error))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            files.touch("gate.1")
            # Before its first frame the call has no stream that could be resumed: its client then sees a plain 502.
            await heard.wait()
            await cluster.replicas[int(ran_by[0])].kill()
        assert 1 == len(failures)
        assert "unknown" in failures[0]
        assert [text(await client.call_tool("count", {})) for _ in range(4)] == ["2", "3", "4", "5"]
    await heal(cluster)


async def test_a_client_that_leaves_ends_its_session_everywhere(cluster: Cluster) -> None:
    async with sdk_client(cluster) as client:
        await client.call_tool("count", {})
    # Leaving has sent a DELETE; a new client begins anew.
    async with sdk_client(cluster) as client:
        assert text(await client.call_tool("count", {})) == "1"


@pytest.mark.parametrize("size", [100_000, 900_000])
async def test_a_big_result_arrives_whole(cluster: Cluster, size: int) -> None:
    async with sdk_client(cluster) as client:
        assert text(await client.call_tool("big", {"size": size})) == "x" * size

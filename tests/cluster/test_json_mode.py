"""JSON responses instead of streams, over three replicas."""

from __future__ import annotations

import httpx2
import pytest

from tests.cluster.client import Client, Message
from tests.cluster.conftest import Files

APP = "tests.cluster.server:json_app"
REPLICAS = 2


@pytest.fixture
async def client(http: httpx2.AsyncClient) -> Client:
    client = Client(http)
    params = {"protocolVersion": client.version, "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
    body: Message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
    response = await client.post(body, replica=0)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    client.session_id = response.headers["mcp-session-id"]
    assert (await client.notify("notifications/initialized", replica=1)).status_code == 202
    return client


def called(tool: str, arguments: Message | None = None, request_id: int = 1) -> Message:
    params = {"name": tool, "arguments": arguments or {}}
    return {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}


async def test_calls_are_answered_with_json_on_every_replica(client: Client) -> None:
    for replica in (0, 1):
        response = await client.post(called("whoami"), replica=replica, headers={"accept": "application/json"})
        assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
        assert str(replica) == response.json()["result"]["content"][0]["text"]


async def test_state_travels(client: Client) -> None:
    texts = [
        (await client.post(called("count"), replica=turn % 2)).json()["result"]["content"][0]["text"]
        for turn in range(4)
    ]
    assert texts == ["1", "2", "3", "4"]


@pytest.mark.parametrize(("tool", "arguments"), [("elicit", {"question": "?"}), ("sample", {"prompt": "?"})])
async def test_a_question_is_refused_with_a_clear_error(client: Client, tool: str, arguments: Message) -> None:
    response = await client.post(called(tool, arguments), replica=1)
    assert response.status_code == 200
    assert "back-channel" in response.text or "back channel" in response.text


async def test_a_cancel_through_another_replica_is_answered_once(client: Client, files: Files) -> None:
    async with client.calling("hang", {"name": files("hang")}, id=7, replica=0) as stream:
        await files.wait_for("hang.started")
        assert (await client.cancel(7, replica=1)).status_code == 202
        await stream.end()
    assert b'"code":-32800' in stream.body
    assert ["0"] == files.lines("hang.stopped")


async def test_progress_has_nowhere_to_go_and_fails_nothing(client: Client) -> None:
    async with client.calling("talk", {"steps": 3}, replica=1) as stream:
        await stream.end()
    assert b"talked 3 on 1" in stream.body
    assert b"notifications/progress" not in stream.body


async def test_a_delete_elsewhere_is_a_404_here(client: Client) -> None:
    assert (await client.delete(replica=0)).status_code == 200
    assert (await client.post(called("whoami"), replica=1)).status_code == 404

"""Cancellation: sent to any replica, it stops the tool on the right one, which answers once."""

from __future__ import annotations

import pytest

from tests.cluster.client import Client
from tests.cluster.conftest import Connect, Files

CANCELLED = -32800


@pytest.mark.parametrize("through", [0, 1, 2])
async def test_a_cancel_sent_anywhere_stops_the_tool_on_replica_0(client: Client, files: Files, through: int) -> None:
    async with client.calling("hang", {"name": files("hang")}, id=7, replica=0) as stream:
        await files.wait_for("hang.started")
        assert (await client.cancel(7, replica=through)).status_code == 202
        await stream.end()
        assert await files.wait_for("hang.stopped") == ["0"]
    assert [(7, CANCELLED)] == [(final["id"], final["error"]["code"]) for final in stream.finals]


async def test_a_cancel_that_overtakes_its_request_stops_it(client: Client, files: Files) -> None:
    for replica in (0, 1, 2):
        assert await client.status(replica=replica) == 200
    assert (await client.cancel(7, replica=0)).status_code == 202
    async with client.calling("hang", {"name": files("hang")}, id=7, replica=0) as stream:
        await stream.end()
    assert [CANCELLED] == [final["error"]["code"] for final in stream.finals]
    assert len(files.lines("hang.started")) == len(files.lines("hang.stopped"))


async def test_a_cancel_that_overtakes_its_request_on_another_replica_stops_it(client: Client, files: Files) -> None:
    assert (await client.cancel(7, replica=1)).status_code == 202
    async with client.calling("hang", {"name": files("hang")}, id=7, replica=0) as stream:
        await stream.end()
    assert [CANCELLED] == [final["error"]["code"] for final in stream.finals]


async def test_a_cancelled_call_that_is_resumed_has_its_answer_once(client: Client, files: Files) -> None:
    async with client.calling("hang", {"name": files("hang")}, id=7, replica=0) as cut:
        await files.wait_for("hang.started")
        await cut.until(lambda: cut.ids)
    async with client.listening(cut.last_id, replica=1) as stream:
        await stream.open()
        assert (await client.cancel(7, replica=2)).status_code == 202
        await stream.end()
    assert [(7, CANCELLED)] == [(final["id"], final["error"]["code"]) for final in stream.finals]


async def test_a_disconnect_cancels_nothing(client: Client, files: Files) -> None:
    async with client.calling("wait", {"gate": files("gate")}, id=7, replica=0) as cut:
        await files.wait_for("gate.runs")
        await cut.until(lambda: cut.ids)
    files.touch("gate")
    async with client.listening(cut.last_id, replica=1) as stream:
        await stream.end()
    assert "waited on 0" in str(stream.finals)


async def test_another_session_cannot_cancel(client: Client, connect: Connect, files: Files) -> None:
    stranger = await connect(replica=1)
    async with client.calling("wait", {"gate": files("gate")}, id=7, replica=0) as stream:
        await files.wait_for("gate.runs")
        for replica in (0, 1):
            assert (await stranger.cancel(7, replica=replica)).status_code == 202
        # Broadcast mail of one publisher keeps its order: what is heard after it proves that the cancel was heard.
        async with client.listening(replica=0) as news:
            await news.open()
            await stranger.call("announce", replica=1)
            await news.until(lambda: news.methods)
        files.touch("gate")
        await stream.end()
    assert "waited on 0" in str(stream.finals)


@pytest.mark.parametrize("replica", [0, 1])
async def test_a_cancel_after_the_answer_changes_nothing(client: Client, replica: int) -> None:
    async with client.calling("whoami", id=7, replica=0) as stream:
        await stream.end()
    assert (await client.cancel(7, replica=replica)).status_code == 202
    async with client.listening(stream.ids[0], replica=1) as again:
        await again.end()
    assert again.messages == stream.messages


@pytest.mark.parametrize("params", [None, {}, {"requestId": None}, {"requestId": [1]}])
async def test_a_cancel_of_nothing_is_accepted_and_ignored(client: Client, params: dict[str, object] | None) -> None:
    response = await client.notify("notifications/cancelled", params, replica=1)
    assert response.status_code in (202, 400)
    assert await client.status(replica=0) == 200


async def test_a_cancelled_elicitation_answers_its_call_and_takes_its_question_back(client: Client) -> None:
    async with client.calling("elicit", {"question": "well?"}, id=7, replica=0) as stream:
        question = await stream.ask("elicitation/create")
        assert (await client.cancel(7, replica=1)).status_code == 202
        await stream.end()
    assert [CANCELLED] == [final["error"]["code"] for final in stream.finals]
    taken_back = [message for message in stream.messages if message.get("method") == "notifications/cancelled"]
    assert [question["id"]] == [message["params"]["requestId"] for message in taken_back]

"""Questions to the client, answered through whichever replica the answer lands on."""

from __future__ import annotations

import pytest

from examples.cluster import Cluster
from tests.cluster.client import Client, error_of, text_of
from tests.cluster.conftest import Connect, fetch

ELICIT = "elicitation/create"


@pytest.mark.parametrize("through", [0, 1, 2])
async def test_f36_an_elicitation_of_replica_0_is_answered_through_any(client: Client, through: int) -> None:
    async with client.calling("elicit", {"question": "well?"}, replica=0) as stream:
        question = await stream.ask(ELICIT)
        assert (await client.accept(question, "yes", replica=through)).status_code == 202
        await stream.end()
    assert ["accept yes on 0"] == [text_of(message) for message in stream.finals]


async def test_a_sampling_of_replica_0_is_answered_through_another(client: Client) -> None:
    async with client.calling("sample", {"prompt": "say"}, replica=0) as stream:
        question = await stream.ask("sampling/createMessage")
        answer = {"role": "assistant", "model": "m", "content": {"type": "text", "text": "hello"}}
        assert (await client.answer(question["id"], answer, replica=2)).status_code == 202
        await stream.end()
    assert ["it said hello"] == [text_of(message) for message in stream.finals]


async def test_a_client_that_answers_with_an_error_fails_the_tool_on_the_other_replica(client: Client) -> None:
    async with client.calling("elicit", {"question": "well?"}, replica=0) as stream:
        question = await stream.ask(ELICIT)
        error = {"code": -1, "message": "the user left"}
        answer = await client.post({"jsonrpc": "2.0", "id": question["id"], "error": error}, replica=1)
        assert answer.status_code == 202
        await stream.end()
    assert "the user left" in str(stream.finals[0])


async def test_a_question_asked_after_a_cut_is_answered_by_the_client_that_resumed(client: Client) -> None:
    async with client.calling("elicit", {"question": "well?"}, replica=0) as cut:
        await cut.until(lambda: cut.ids)
    async with client.listening(cut.ids[0], replica=1) as stream:
        question = await stream.ask(ELICIT)
        assert (await client.accept(question, "back", replica=2)).status_code == 202
        await stream.end()
    assert ["accept back on 0"] == [text_of(message) for message in stream.finals]


@pytest.mark.parametrize("through", [0, 1])
async def test_another_session_cannot_answer(client: Client, connect: Connect, through: int) -> None:
    stranger = await connect(replica=1)
    async with client.calling("elicit", {"question": "well?"}, replica=0) as stream:
        question = await stream.ask(ELICIT)
        # It may be told 202 (nobody looks whether somebody waits), but it resolves nothing.
        assert (await stranger.accept(question, "stolen", replica=through)).status_code in (202, 400)
        # Mail to one replica is delivered in order: when the own answer is there, the stranger's was.
        assert (await client.accept(question, "mine", replica=through)).status_code == 202
        await stream.end()
    assert ["accept mine on 0"] == [text_of(message) for message in stream.finals]


@pytest.mark.parametrize("through", [0, 1])
async def test_only_the_first_of_two_answers_counts(client: Client, through: int) -> None:
    async with client.calling("elicit", {"question": "well?"}, replica=0) as stream:
        question = await stream.ask(ELICIT)
        assert (await client.accept(question, "first", replica=through)).status_code == 202
        # A retried POST is no error: the client did nothing wrong.
        assert (await client.accept(question, "second", replica=through)).status_code == 202
        await stream.end()
    assert ["accept first on 0"] == [text_of(message) for message in stream.finals]


@pytest.mark.parametrize("request_id", ["f" * 18 + "-" + "0" * 24, "not-ours", 7])
async def test_an_answer_to_nobody_is_refused_without_an_id(client: Client, request_id: object) -> None:
    """Not 404: the client would drop its session. Not 202: that would be a lie."""
    refused = await client.answer(request_id, {"action": "accept"}, replica=1)
    assert refused.status_code == 400
    assert error_of(refused)["message"].startswith("Nobody waits for this answer")
    assert await client.status(replica=1) == 200


async def test_the_progress_of_an_answer_reaches_the_replica_that_asked(client: Client) -> None:
    async with client.calling("elicit_with_progress", {"question": "well?"}, replica=0) as stream:
        question = await stream.ask(ELICIT)
        token = question["params"]["_meta"]["progressToken"]
        for number, replica in ((1, 1), (2, 1), (3, 1)):
            params = {"progressToken": token, "progress": number}
            assert (await client.notify("notifications/progress", params, replica=replica)).status_code == 202
        assert (await client.accept(question, "done", replica=1)).status_code == 202
        await stream.end()
    assert ["accept after [1.0, 2.0, 3.0]"] == [text_of(message) for message in stream.finals]


async def test_another_session_cannot_move_the_progress(client: Client, connect: Connect) -> None:
    stranger = await connect(replica=1)
    async with client.calling("elicit_with_progress", {"question": "well?"}, replica=0) as stream:
        question = await stream.ask(ELICIT)
        params = {"progressToken": question["params"]["_meta"]["progressToken"], "progress": 99}
        assert (await stranger.notify("notifications/progress", params, replica=1)).status_code == 202
        assert (await client.accept(question, "done", replica=1)).status_code == 202
        await stream.end()
    assert ["accept after []"] == [text_of(message) for message in stream.finals]


async def test_a_delete_ends_a_question_on_another_replica_with_one_error(client: Client) -> None:
    async with client.calling("elicit", {"question": "well?"}, replica=0) as stream:
        await stream.ask(ELICIT)
        assert (await client.delete(replica=1)).status_code == 200
        await stream.end()
    assert 1 == len(stream.finals)
    assert "ended" in str(stream.finals[0])


async def test_delivered_mail_is_deleted(client: Client, cluster: Cluster) -> None:
    async with client.calling("elicit", {"question": "well?"}, replica=0) as stream:
        question = await stream.ask(ELICIT)
        await client.accept(question, "yes", replica=1)
        await stream.end()
    query = "SELECT count(*) FROM mcpsession.mail WHERE recipient IS NOT NULL AND session_id = $1"
    while (await fetch(cluster.database_url, query, client.session_id))[0][0]:
        pass

"""What is too many or too large is refused with a clear answer, and harms nothing else."""

from __future__ import annotations

import json

import anyio
import pytest
from mcp_types import EmptyResult, SubscribeRequestParams, UnsubscribeRequestParams

from mcpsession import current_session
from tests.sdk.asgi_client import request
from tests.sdk.gates import settle
from tests.sdk.replicas import ACCEPT, Client, hello, make_server, replica, signed_in, stored, text_of


async def begin(at):
    """POST `initialize`; returns its status, its message and when to try again."""
    async with request(at.app, "POST", headers=ACCEPT, json_body=hello()) as response:
        await response.ended()
        message = json.loads(response.body) if response.status != 200 else None
        return response.status, message, response.headers.get("retry-after")


async def test_f94_one_session_more_than_allowed_is_503_and_leaves_nothing(database_url):
    async with replica(database_url, max_sessions=2) as here:
        with anyio.fail_after(5):
            first = await Client().initialize(here)
            assert 200 == (await begin(here))[0]
            status, refusal, retry_after = await begin(here)
            assert (503, "10", "init") == (status, retry_after, refusal["id"])
            assert "Too many open sessions: at most 2 are allowed" == refusal["error"]["message"]
            assert 2 == await stored(here, "sessions")
            assert 200 == await first.delete(here)
            assert 200 == (await begin(here))[0]


async def test_f94_one_session_more_of_one_principal_is_429_and_others_are_let_in(database_url):
    async with replica(database_url, max_sessions_per_owner=2) as here:
        anna, bert = signed_in(here, "anna"), signed_in(here, "bert")
        with anyio.fail_after(5):
            assert [200, 200] == [(await begin(anna))[0] for _ in range(2)]
            status, refusal, retry_after = await begin(anna)
            assert (429, "10", "init") == (status, retry_after, refusal["id"])
            assert "Too many open sessions of one client: at most 2 are allowed" == refusal["error"]["message"]
            # Anonymous clients are nobody in particular.
            assert [200] * 4 == [(await begin(who))[0] for who in (bert, here, here, here)]


async def test_f94_of_twenty_that_begin_at_once_on_two_replicas_as_many_get_in_as_are_allowed(database_url):
    statuses = []

    async def enter(at):
        statuses.append((await begin(at))[0])

    async with (
        replica(database_url, max_sessions=5) as here,
        replica(database_url, max_sessions=5) as there,
    ):
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(enter, (here, there)[number % 2])
            assert 5 == await stored(here, "sessions")
    assert [200] * 5 + [503] * 15 == sorted(statuses)


async def test_f94_an_id_longer_than_allowed_is_400_with_the_rule(database_url):
    async with replica(database_url, max_id_length=50) as here:
        with anyio.fail_after(5):
            await here.layer.sessions.create("x" * 50)
            answers = []
            for length in (50, 51):
                message = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
                async with Client(session_id="x" * length).post(here, message) as response:
                    body = await response.ended()
                    answers.append((response.status, body))
    assert [200, 400] == [status for status, _ in answers]
    assert b"1 to 50 visible ASCII characters" in answers[1][1]


async def test_f94_one_call_more_than_may_run_at_once_is_429_with_its_id(database_url):
    release = anyio.Event()

    async def wait(ctx):
        await release.wait()
        return "done"

    async with replica(database_url, max_streams_per_session=2) as here:
        here.scripts["wait"] = wait
        with anyio.fail_after(5):
            client, other = await Client().initialize(here), await Client().initialize(here)
            async with client.call(here, "wait") as first, client.call(here, "wait") as second:
                await settle()
                async with client.call(here, "wait", id="third") as third:
                    refusal = await third.json()
                assert (429, "1", "third") == (third.status, third.headers["retry-after"], refusal["id"])
                assert "at most 2 are allowed" in refusal["error"]["message"]
                async with other.echo(here) as response:
                    assert "hello" == text_of(await response.message())
                release.set()
                assert ["done", "done"] == [text_of(await call.message()) for call in (first, second)]
            async with client.call(here, "wait", id="third") as third:
                assert "done" == text_of(await third.message())


async def test_f94_a_call_that_sends_more_messages_than_allowed_fails_and_its_answer_gets_through(database_url):
    async def talk(ctx):
        for number in range(10):
            await ctx.report_progress(number)

    async with replica(database_url, max_stream_events=3) as here:
        here.scripts["talk"] = talk
        with anyio.fail_after(5):
            client = await Client().initialize(here)
            async with client.call(here, "talk", token="t") as response:
                *progress, answer = await response.messages()
    assert [0, 1, 2] == [message["params"]["progress"] for message in progress]
    assert answer["result"]["isError"]
    assert "the limit max_stream_events=3 is reached" in text_of(answer)


async def test_f94_a_call_that_sends_more_bytes_than_allowed_fails_and_its_answer_gets_through(database_url):
    async def talk(ctx):
        # Two bytes each.
        await ctx.report_progress(0, message="ä" * 1500)
        await ctx.report_progress(1, message="ä" * 1500)

    async with replica(database_url, max_stream_bytes=5000) as here:
        here.scripts["talk"] = talk
        with anyio.fail_after(5):
            client = await Client().initialize(here)
            async with client.call(here, "talk", token="t") as response:
                *progress, answer = await response.messages()
    assert [0] == [message["params"]["progress"] for message in progress]
    assert "the limit max_stream_bytes=5000 would be exceeded" in text_of(answer)


async def test_f94_a_full_stream_takes_no_question_and_an_abandoned_one_stays_abandoned(database_url):
    from tests.sdk.test_asking_the_client import ask

    async def talk(ctx):
        await ctx.report_progress(1)
        with anyio.move_on_after(0.05) as waiting:
            await ask(ctx)
        try:
            await ask(ctx)
        except ValueError as error:
            return f"{waiting.cancelled_caught}: {error}"

    async with replica(database_url, max_stream_events=2) as here:
        here.scripts["talk"] = talk
        with anyio.fail_after(5):
            client = await Client().initialize(here)
            async with client.call(here, "talk", token="t") as response:
                progress, question, answer = await response.messages()
    assert ("notifications/progress", "elicitation/create") == (progress["method"], question["method"])
    assert "True: the limit max_stream_events=2 is reached" in text_of(answer)


async def test_f94_a_state_larger_than_allowed_is_an_error_that_names_the_limit_and_is_not_stored(database_url):
    async def put(ctx):
        state = await current_session().state()
        state["text"] = "ä" * 50

    async with replica(database_url, max_state_bytes=300) as here:
        here.scripts["put"] = put
        with anyio.fail_after(5):
            client = await Client().initialize(here)
            await here.layer.sessions.merge_state(client.session_id, {"n": 1})
            # It is ASCII where it is stored.
            size = len(json.dumps({"n": 1, "text": "ä" * 50}))
            async with client.call(here, "put", id=3) as response:
                [answer] = await response.messages()
            assert {"n": 1} == await here.layer.sessions.state(client.session_id)
    assert (3, -32603) == (answer["id"], answer["error"]["code"])
    assert f"the limit max_state_bytes=300 would be exceeded: {size}" in answer["error"]["message"]


async def test_f94_one_subscription_more_than_allowed_is_an_error_that_names_the_limit(database_url):
    def make(layer, scripts):
        server = make_server(layer, scripts)

        async def accept(ctx, params):
            if params.uri == "test://no":
                raise ValueError("there is no such resource")
            return EmptyResult()

        add = server._lowlevel_server.add_request_handler
        add("resources/subscribe", SubscribeRequestParams, accept)
        add("resources/unsubscribe", UnsubscribeRequestParams, accept)
        return server

    async def ask(client, at, method, uri):
        message = {"jsonrpc": "2.0", "id": 1, "method": f"resources/{method}", "params": {"uri": uri}}
        async with client.post(at, message) as response:
            [answer] = await response.messages()
            return answer

    async with (
        replica(database_url, make=make, max_subscriptions_per_session=2) as here,
        replica(database_url, make=make, max_subscriptions_per_session=2) as there,
    ):
        with anyio.fail_after(5):
            client = await Client().initialize(here)
            for at, uri in ((here, "test://1"), (there, "test://2"), (here, "test://2")):
                assert {} == (await ask(client, at, "subscribe", uri))["result"]
            assert "error" in await ask(client, here, "subscribe", "test://no")
            refusal = (await ask(client, there, "subscribe", "test://3"))["error"]
            assert -32603 == refusal["code"]
            assert "the limit max_subscriptions_per_session=2 is reached" in refusal["message"]
            assert ["test://1", "test://2"] == list(await there.parts.subscriptions.uris(client.session_id))

            assert {} == (await ask(client, there, "unsubscribe", "test://1"))["result"]
            assert {} == (await ask(client, here, "subscribe", "test://3"))["result"]
            assert ["test://2", "test://3"] == list(await here.parts.subscriptions.uris(client.session_id))


@pytest.mark.parametrize(("form", "length"), [("base64url", 43), ("hex", 64), ("uuid4", 36)])
async def test_f1_ids_have_the_form_that_was_asked_for(database_url, form, length):
    async with replica(database_url, id_form=form, id_prefix="app-") as here:
        with anyio.fail_after(5):
            client = await Client().initialize(here)
            async with client.echo(here) as response:
                assert "hello" == text_of(await response.message())
    assert client.session_id.startswith("app-")
    assert length == len(client.session_id.removeprefix("app-"))

"""A request is cancelled from anywhere, by the server's side: it stops where it runs, and its client hears why. F35."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from mcpsession import DuplicateRequestError, SessionLayer
from mcpsession.model import Mail
from tests.requests.served import Served, Waiting, served
from tests.sdk.gates import settle
from tests.sdk.replicas import Client, signed_in, text_of
from tests.sessions.replicas import Place, until

CANCELLED = -32800


async def in_log(layer: SessionLayer, client: Client, request_id: int | str) -> None:
    """Wait until other replicas can know of a call."""

    async def known() -> object:
        return await layer._backend.requests.find(client.session_id, json.dumps(request_id))

    await until(known)


def cancelled(layer: SessionLayer) -> int:
    return layer._parts.telemetry.counts["mcpsession_cancelled_requests_total"]


@pytest.mark.parametrize("through", ["the replica that runs it", "another replica"])
async def test_f35_a_cancel_stops_the_handler_and_tells_how_long_it_ran(
    near: Served, far: Served, client: Client, through: str
) -> None:
    script = near.scripts["wait"] = Waiting()
    layer = (far if through == "another replica" else near).layer
    with anyio.fail_after(10):
        async with client.call(near, "wait", id=5) as response:
            await script.began.wait()
            await in_log(layer, client, 5)
            info = await layer.requests.cancel(client.session_id, 5, "too expensive")
            assert info is not None
            assert (5, "tools/call", False) == (info.request_id, info.method, info.tracked)
            assert near.id == info.replica
            assert 0 <= info.duration < 10
            await script.stopped.wait()
            (answer,) = await response.messages()
    assert (5, CANCELLED, "Request cancelled: too expensive") == (
        answer["id"],
        answer["error"]["code"],
        answer["error"]["message"],
    )
    await settle()
    assert (1, 0) == (cancelled(near.layer), cancelled(far.layer))


async def test_f35_a_cancel_that_comes_late_spares_a_later_session_with_the_same_id(
    here: SessionLayer, far: Served, client: Client
) -> None:
    script = far.scripts["wait"] = Waiting()
    session = await here.sessions.get(client.session_id)
    assert session is not None
    late = {"id": 5, "reason": "late", "incarnation": session.incarnation - 1}
    with anyio.fail_after(10):
        async with client.call(far, "wait", id=5) as response:
            await script.began.wait()
            await in_log(here, client, 5)
            await here._parts.post_office.broadcast(Mail("cancel", "dead", None, session.id, json.dumps(late)))
            # The order of one sender is kept: this one is heard after it.
            assert await here.requests.cancel(session.id, 5, "meant")
            (answer,) = await response.messages()
    assert "Request cancelled: meant" == answer["error"]["message"]


async def test_f35_an_unknown_id_is_no_error_and_nobody_is_told(near: Served, far: Served, client: Client) -> None:
    script = near.scripts["wait"] = Waiting()
    told: list[Mail] = []
    far.layer._parts.post_office.on("cancel", told.append)
    with anyio.fail_after(10):
        async with client.call(near, "wait", id=5) as response:
            await script.began.wait()
            await in_log(far.layer, client, 5)
            for layer in (near.layer, far.layer):
                assert await layer.requests.cancel(client.session_id, 6) is None
                assert await layer.requests.cancel("never", 5) is None
                # 5 is no text: in the log the two differ.
                assert await layer.requests.cancel(client.session_id, "5") is None
            script.release.set()
            assert "released" == text_of(await response.message())
        # Mail of one replica keeps its order: whatever was mailed before this is heard before it.
        for at in (near, far):
            await at.layer._parts.post_office.broadcast(Mail("cancel", at.id, None, client.session_id, '{"id": 99}'))

        async def both() -> bool:
            return len(told) >= 2

        await until(both)
    assert ['{"id": 99}'] * 2 == [mail.body for mail in told]


async def test_f35_what_has_ended_cannot_be_cancelled_any_more(near: Served, far: Served, client: Client) -> None:
    with anyio.fail_after(10):
        async with client.echo(near) as response:
            await response.ended()
        await near.layer._parts.journal.flushed()
        for layer in (near.layer, far.layer):
            assert [] == await layer.requests.list(client.session_id)
            assert await layer.requests.cancel(client.session_id, 1) is None


async def test_f35_one_owner_cannot_cancel_what_runs_for_another(near: Served, far: Served) -> None:
    script = near.scripts["wait"] = Waiting()
    alice: Any = signed_in(near, "alice")  # type: ignore[arg-type]
    with anyio.fail_after(10):
        client = await Client().initialize(alice)
        async with client.call(alice, "wait", id=5) as response:
            await script.began.wait()
            await in_log(far.layer, client, 5)
            session = await near.layer.sessions.get(client.session_id)
            assert session is not None
            for layer in (near.layer, far.layer):
                assert await layer.requests.of("bob").cancel(client.session_id, 5) is None
                assert await layer.requests.of("").cancel(client.session_id, 5) is None
                assert [] == await layer.requests.of("bob").list(client.session_id)
            assert not script.stopped.is_set()
            assert await far.layer.requests.of(session.owner).cancel(client.session_id, 5)
            (answer,) = await response.messages()
    assert CANCELLED == answer["error"]["code"]


async def test_f35_a_number_is_cancelled_and_its_text_on_another_replica_goes_on(
    near: Served, far: Served, client: Client
) -> None:
    number, text = Waiting(), Waiting()
    near.scripts["wait"], far.scripts["wait"] = number, text
    with anyio.fail_after(10):
        async with client.call(near, "wait", id=7) as stopped, client.call(far, "wait", id="7") as other:
            await number.began.wait()
            await text.began.wait()
            for request_id in (7, "7"):
                await in_log(far.layer, client, request_id)
            assert await far.layer.requests.cancel(client.session_id, 7)
            assert CANCELLED == (await stopped.messages())[0]["error"]["code"]
            await until(lambda: only_the_text_is_left(far.layer, client))
            text.release.set()
            assert "released" == text_of(await other.message())


async def only_the_text_is_left(layer: SessionLayer, client: Client) -> bool:
    return ["7"] == [info.request_id for info in await layer.requests.list(client.session_id)]


async def test_f35_a_tracked_request_that_is_cancelled_is_taken_out(here: SessionLayer, there: SessionLayer) -> None:
    await here.sessions.create("session")
    await here.requests.track("session", "job", "jobs/run")
    info = await there.requests.cancel("session", "job", "not wanted any more")
    assert info is not None
    assert ("jobs/run", True) == (info.method, info.tracked)
    assert await here.requests.complete("session", "job") is None
    assert await there.requests.cancel("session", "job") is None


async def test_f35_a_long_reason_is_cut_and_one_that_is_no_text_is_refused(near: Served, client: Client) -> None:
    script = near.scripts["wait"] = Waiting()
    with anyio.fail_after(10):
        async with client.call(near, "wait", id=5) as response:
            await script.began.wait()
            with pytest.raises(TypeError):
                await near.layer.requests.cancel(client.session_id, 5, 7)  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="stored"):
                await near.layer.requests.cancel(client.session_id, 5, "\ud800")
            assert not script.stopped.is_set()
            assert await near.layer.requests.cancel(client.session_id, 5, "x" * 100_000)
            (answer,) = await response.messages()
    assert f"Request cancelled: {'x' * 499}…" == answer["error"]["message"]


# JSON mode: not in the log


async def test_f35_in_json_mode_the_replica_that_runs_a_call_cancels_it(place: Place) -> None:
    async with place.replica() as here, place.replica() as there, served(here, json_response=True) as near:
        script = near.scripts["wait"] = Waiting()
        with anyio.fail_after(10):
            client = await Client().initialize(near)
            async with client.call(near, "wait", id=5) as response:
                await script.began.wait()
                assert await there.requests.cancel(client.session_id, 5) is None
                assert await here.requests.cancel(client.session_id, "5") is None
                assert await here.requests.of("bob").cancel(client.session_id, 5) is None
                assert await here.requests.has(client.session_id, 5)
                info = await here.requests.cancel(client.session_id, 5, "enough")
                assert info is not None
                assert ("tools/call", 5) == (info.method, info.request_id)
                answer = await response.json()
    assert (CANCELLED, "Request cancelled: enough") == (answer["error"]["code"], answer["error"]["message"])


async def test_f35_in_json_mode_a_tool_that_tracks_itself_is_cancelled_from_anywhere(place: Place) -> None:
    async with place.replica() as here, place.replica() as there, served(here, json_response=True) as near:
        tracked, waiting = anyio.Event(), Waiting()

        async def script(ctx: Any) -> str:
            async with here.requests.tracking(client.session_id, 5, "tools/call"):
                tracked.set()
                return await waiting(ctx)

        near.scripts["wait"] = script
        with anyio.fail_after(10):
            client = await Client().initialize(near)
            async with client.call(near, "wait", id=5) as response:
                await tracked.wait()
                assert await there.requests.cancel(client.session_id, 5)
                await waiting.stopped.wait()
                answer = await response.json()
    assert CANCELLED == answer["error"]["code"]


# F31, F32: clients' calls


async def test_f32_a_tool_that_tracks_itself_where_the_log_has_its_call_is_told_so(
    here: SessionLayer, near: Served, client: Client
) -> None:
    refused: list[int | str] = []

    async def script(ctx: Any) -> str:
        # At once: the call's own stream is not in the log yet.
        with pytest.raises(DuplicateRequestError) as raised:
            await here.requests.track(client.session_id, number, "tools/call")
        refused.append(raised.value.request_id)
        return "done"

    near.scripts["wait"] = script
    with anyio.fail_after(10):
        for number in range(5, 15):
            async with client.call(near, "wait", id=number) as response:
                (answer,) = await response.messages()
            assert not answer["result"]["isError"]
    assert [*range(5, 15)] == refused


async def test_f31_a_clients_call_is_listed_with_its_method_while_it_runs(
    near: Served, far: Served, client: Client
) -> None:
    script = near.scripts["wait"] = Waiting()
    with anyio.fail_after(10):
        async with client.call(near, "wait", id="call-5") as response:
            await script.began.wait()
            await in_log(far.layer, client, "call-5")
            (info,) = await far.layer.requests.list(client.session_id)
            assert ("call-5", "tools/call", False) == (info.request_id, info.method, info.tracked)
            assert near.id == info.replica
            # A call is completed by its answer, and by nothing else.
            assert await far.layer.requests.complete(client.session_id, "call-5") is None
            script.release.set()
            await response.messages()
        await near.layer._parts.journal.flushed()
        assert not await far.layer.requests.has(client.session_id, "call-5")


async def test_f32_a_clients_call_and_a_tracked_request_cannot_have_the_same_id(
    near: Served, far: Served, client: Client
) -> None:
    script = near.scripts["wait"] = far.scripts["wait"] = Waiting()
    with anyio.fail_after(10):
        async with client.call(near, "wait", id=5) as response:
            await script.began.wait()
            await in_log(far.layer, client, 5)
            with pytest.raises(DuplicateRequestError):
                await far.layer.requests.track(client.session_id, 5, "jobs/run")
            await far.layer.requests.track(client.session_id, "5", "jobs/run")
            script.release.set()
            await response.messages()

        script.release = anyio.Event()
        await near.layer.requests.track(client.session_id, 6, "jobs/run")
        async with client.call(far, "wait", id=6) as refused:
            assert "error" in await refused.json()
        assert 400 == refused.status
        assert await near.layer.requests.has(client.session_id, 6)


async def test_f32_in_the_table_of_a_replica_a_number_and_its_text_are_one_as_in_the_sdk(
    near: Served, far: Served, client: Client
) -> None:
    """The SDK takes `7` and `"7"` for one id, and so does a client's cancel; the log tells them apart."""
    scripts = near.scripts["wait"], far.scripts["wait"] = Waiting(), Waiting()
    with anyio.fail_after(10):
        async with client.call(near, "wait", id=7) as one, client.call(far, "wait", id="7") as two:
            for script in scripts:
                await script.began.wait()
            async with client.call(near, "wait", id="7") as refused:
                assert "Duplicate request id" in (await refused.json())["error"]["message"]
            for request_id in (7, "7"):
                await in_log(near.layer, client, request_id)

            async def both() -> bool:
                return {7, "7"} == {info.request_id for info in await near.layer.requests.list(client.session_id)}

            await until(both)
            assert 202 == await client.notify(near, "notifications/cancelled", {"requestId": 7})
            for response in (one, two):
                assert CANCELLED == (await response.messages())[0]["error"]["code"]

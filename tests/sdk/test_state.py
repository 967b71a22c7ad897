"""A session's state: committed before the response leaves, merged by key, JSON only."""

from __future__ import annotations

import json
import logging

import anyio

from mcpsession import current_session
from tests.sdk.gates import settle
from tests.sdk.replicas import text_of


async def put(**values):
    (await current_session().state()).update(values)
    return "put"


async def test_no_byte_of_a_response_leaves_before_the_state_that_it_changed_is_committed(here, client):
    async def script(ctx):
        return await put(colour="red")

    here.scripts["put"] = script
    gate = here.backend.sessions.before["save_state"]
    gate.close()
    with anyio.fail_after(5):
        async with client.call(here, "put") as response:
            await gate.reached.wait()
            await settle()
            # Its stream is durable, so the priming frame may be there; the answer may not.
            assert all(frame.message is None for frame in response.frames)
            gate.open()
            assert "put" == text_of(await response.message())
        assert {"colour": "red"} == await here.layer.sessions.state(client.session_id)


async def test_the_next_request_on_another_replica_sees_the_state(here, there, client):
    async def read(ctx):
        return sorted((await current_session().state()).items())

    async def write(ctx):
        state = await current_session().state()
        state["n"] = state.get("n", 0) + 1
        state.pop("gone", None)
        state.setdefault("kept", [1])
        return "put"

    here.scripts["write"] = there.scripts["write"] = write
    there.scripts["read"] = read
    with anyio.fail_after(10):
        await here.layer.sessions.update(client.session_id, lambda state: {"gone": 1})
        for at in (here, there, here):
            async with client.call(at, "write") as response:
                await response.messages()
        async with client.call(there, "read") as response:
            assert "[('kept', [1]), ('n', 3)]" == text_of(await response.message())


async def both_at_once(here, there, client, first, second):
    """Two requests that have both read the state before either wrote; returns both answers, the first's first."""
    loaded, release = anyio.Event(), anyio.Event()

    async def slow(ctx):
        (await current_session().state()).update(second)
        loaded.set()
        await release.wait()
        return "second"

    async def quick(ctx):
        (await current_session().state()).update(first)
        return "first"

    here.scripts["slow"], there.scripts["quick"] = slow, quick
    async with client.call(here, "slow") as slow_response:
        await loaded.wait()
        async with client.call(there, "quick") as response:
            answered = await response.message()
        release.set()
        return answered, await slow_response.message()


async def test_two_requests_that_change_the_same_key_at_once_conflict_with_an_error_that_names_it(here, there, client):
    with anyio.fail_after(10):
        first, second = await both_at_once(here, there, client, {"key": 1}, {"key": 2})
        assert "first" == text_of(first)
        assert "'key'" in second["error"]["message"]
        assert "at the same time" in second["error"]["message"]
        assert {"key": 1} == await here.layer.sessions.state(client.session_id)


async def test_two_requests_that_change_different_keys_at_once_both_succeed(here, there, client):
    with anyio.fail_after(10):
        first, second = await both_at_once(here, there, client, {"one": 1}, {"two": 2})
        assert ["first", "second"] == [text_of(first), text_of(second)]
        assert {"one": 1, "two": 2} == await here.layer.sessions.state(client.session_id)


async def test_a_value_that_is_not_json_stays_in_its_request_with_a_warning_that_names_the_key(here, client, caplog):
    async def script(ctx):
        await put(lock=object(), endless=float("nan"), fine=1)
        return type((await current_session().state())["lock"]).__name__

    here.scripts["put"] = script
    with anyio.fail_after(5), caplog.at_level(logging.WARNING, logger="mcpsession"):
        async with client.call(here, "put") as response:
            assert "object" == text_of(await response.message())
        assert {"fine": 1} == await here.layer.sessions.state(client.session_id)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("'lock'" in warning for warning in warnings)
    assert any("'endless'" in warning for warning in warnings)


async def test_a_value_of_another_type_is_another_value(here, client):
    async def script(ctx):
        return await put(flag=True, deep=[{"n": 1.0}], kept={"a": 1, "b": 2})

    here.scripts["put"] = script
    with anyio.fail_after(5):
        await here.layer.sessions.update(client.session_id, lambda _: {"flag": 1, "deep": [{"n": 1}], "kept": {}})
        async with client.call(here, "put") as response:
            assert "put" == text_of(await response.message())
        state = await here.layer.sessions.state(client.session_id)
    assert '{"flag": true, "deep": [{"n": 1.0}], "kept": {"a": 1, "b": 2}}' == json.dumps(state)


async def test_a_request_that_changes_nothing_writes_nothing(here, client):
    async def script(ctx):
        return await put(kept={"b": 2, "a": 1})

    here.scripts["put"] = script
    with anyio.fail_after(5):
        await here.layer.sessions.update(client.session_id, lambda _: {"kept": {"a": 1, "b": 2}})
        before = here.backend.sessions.calls["save_state"]
        async with client.call(here, "put") as response:
            assert "put" == text_of(await response.message())
    assert before == here.backend.sessions.calls["save_state"]


async def test_a_request_that_asks_for_no_state_reads_and_writes_none(here, client):
    with anyio.fail_after(5):
        async with client.echo(here) as response:
            await response.ended()
    assert 0 == here.backend.sessions.calls["load_state"] + here.backend.sessions.calls["save_state"]


async def test_a_session_that_ended_meanwhile_cannot_be_written_and_the_call_says_so(here, there, client):
    entered, release = anyio.Event(), anyio.Event()

    async def script(ctx):
        await put(key=1)
        entered.set()
        with anyio.CancelScope(shield=True):
            await release.wait()
        return "too late"

    here.scripts["put"] = script
    with anyio.fail_after(10):
        async with client.call(here, "put") as response:
            await entered.wait()
            assert 200 == await client.delete(there)
            release.set()
            (answer,) = await response.messages()
            assert "error" in answer

"""A request to the client that belongs to no call travels on its standalone stream; without one it fails at once."""

from __future__ import annotations

import anyio
import pytest
from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp_types import REQUEST_TIMEOUT

from mcpsession.errors import StoreUnavailableError
from mcpsession.sdk.dispatch import NoStandaloneStreamError
from tests.sdk.gates import until
from tests.sdk.newsroom import standing
from tests.sdk.replicas import Client, replica, stored, text_of

PING = "ping"


def outlet(ctx):
    """The connection-scoped channel behind a tool's context."""
    return ctx.session._connection.outbound


async def ping(ctx):
    await ctx.session.send_ping()
    return "answered"


async def refused(ctx):
    with pytest.raises(NoStandaloneStreamError) as raised:
        await ctx.session.send_ping()
    return raised.value.error.message


async def test_without_a_stream_it_fails_at_once_and_says_what_to_do(here, there, client):
    here.scripts["ask"] = refused
    with anyio.fail_after(5):
        async with client.call(here, "ask") as response:
            [answer] = await response.messages()
        assert "Cannot send 'ping': the client holds no standalone (GET) stream" in text_of(answer)
        assert "stream_wait" in text_of(answer)
        assert not len(here.parts.waiters)
        # It does not come later, either.
        async with standing(client, there) as stream:
            here.scripts["tell"] = lambda ctx: ctx.session.send_resource_list_changed()
            async with client.call(here, "tell") as response:
                await response.messages()
            assert "notifications/resources/list_changed" == (await stream.message())["method"]


async def test_to_a_tool_that_lets_it_escape_it_is_the_tools_error(here, client):
    here.scripts["ask"] = ping
    with anyio.fail_after(5):
        async with client.call(here, "ask") as response:
            [answer] = await response.messages()
    assert "the client holds no standalone (GET) stream" in str(answer)


def test_it_is_what_the_sdk_raises_where_there_is_no_back_channel():
    error = NoStandaloneStreamError("roots/list", 0.0)
    assert isinstance(error, NoBackChannelError)
    assert "roots/list" == error.method


@pytest.mark.parametrize("at", ["the same replica", "another replica"])
async def test_with_a_stream_it_travels_there_and_the_answer_returns(here, there, client, at):
    target = there if at == "another replica" else here
    here.scripts["ask"] = ping
    with anyio.fail_after(5):
        async with standing(client, target) as stream, client.call(here, "ask") as response:
            asked = await stream.message()
            assert PING == asked["method"]
            assert 202 == await client.answer(there, asked, {})
            assert "answered" == text_of(await response.message())


@pytest.mark.parametrize("at", ["the same replica", "another replica"])
async def test_f36_with_stream_wait_a_get_that_comes_later_gets_the_request(database_url, there, client, at):
    async def script(ctx):
        await outlet(ctx).send_raw_request(PING, None, {"timeout": 10})
        return "answered"

    async with replica(database_url, stream_wait=3.0) as patient:
        target = there if at == "another replica" else patient
        patient.scripts["ask"] = script
        with anyio.fail_after(10):
            async with client.call(patient, "ask") as response:
                await until(lambda: patient.backend.holds.calls["holder"] >= 2)
                assert 0 == await stored(patient, "events", client.session_id) - await others(patient, client)
                async with standing(client, target) as stream:
                    asked = await stream.message()
                    assert PING == asked["method"]
                    # Through the replica that did not ask.
                    assert 202 == await client.answer(there, asked, {})
                    assert "answered" == text_of(await response.message())


async def others(at, client):
    """Events of request streams, of which the initialize has one."""
    return (
        await stored(at, "events", client.session_id)
        - (await at.backend.log.read(client.session_id, "s", 0, 10)).last_seq
    )


async def test_the_wait_for_a_stream_is_bounded_and_named(database_url, client):
    async with replica(database_url, stream_wait=0.2) as patient:
        patient.scripts["ask"] = refused
        with anyio.fail_after(5):
            async with client.call(patient, "ask") as response:
                [answer] = await response.messages()
        assert "and opened none within 0.2 s" in text_of(answer)


async def test_the_time_that_a_request_may_take_includes_its_wait_for_a_stream(database_url, client):
    async def script(ctx):
        with pytest.raises(MCPError) as raised:
            await outlet(ctx).send_raw_request(PING, None, {"timeout": 0.4})
        return raised.value.error.code

    async with replica(database_url, stream_wait=60.0) as patient:
        patient.scripts["ask"] = script
        with anyio.fail_after(5):
            async with client.call(patient, "ask") as response:
                [answer] = await response.messages()
                assert str(NoStandaloneStreamError("", 0.0).error.code) == text_of(answer)
            async with client.call(patient, "ask") as response:
                await until(lambda: patient.backend.holds.calls["holder"] >= 1)
                began = anyio.current_time()
                async with standing(client, patient) as stream:
                    assert PING == (await stream.message())["method"]
                    assert str(REQUEST_TIMEOUT) == text_of((await response.messages())[-1])
                assert anyio.current_time() - began < 1.0


async def test_a_session_that_ends_while_a_request_waits_for_a_stream_ends_the_wait(database_url, here, client):
    async def script(ctx):
        with anyio.CancelScope(shield=True):
            with pytest.raises(MCPError, match="Session ended"):
                await ctx.session.send_ping()
            waited.set()

    waited = anyio.Event()
    async with replica(database_url, stream_wait=60.0) as patient:
        patient.scripts["ask"] = script
        with anyio.fail_after(10):
            async with client.call(patient, "ask"):
                await until(lambda: patient.backend.holds.calls["holder"])
                await here.layer.sessions.delete(client.session_id)
                await waited.wait()


async def test_while_the_store_is_away_it_fails_at_once_too_and_does_not_name_hosts(here, client):
    async def script(ctx):
        here.backend.holds.failing["holder"] = lambda *_: StoreUnavailableError("db.internal")
        with pytest.raises(MCPError, match="the session store is away") as raised:
            await ctx.session.send_ping()
        assert "db.internal" not in raised.value.error.message
        return "away"

    here.scripts["ask"] = script
    with anyio.fail_after(5):
        async with client.call(here, "ask") as response:
            assert "away" == text_of(await response.message())


async def test_what_another_incarnation_of_the_session_holds_is_not_asked(here, client):
    """Its id may be somebody else's by now."""
    here.scripts["ask"] = refused
    with anyio.fail_after(5):
        other = await Client().initialize(here)
        async with standing(other, here), client.call(here, "ask") as response:
            assert "holds no standalone" in text_of(await response.message())

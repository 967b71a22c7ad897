"""A session's log level is kept with it and holds on every replica, on every stream."""

from __future__ import annotations

import anyio
import pytest
from mcp.server.lowlevel.server import Server
from mcp_types import EmptyResult, SetLevelRequestParams

from mcpsession.sdk.levels import LEVELS, is_wanted
from tests.sdk.asgi_client import request
from tests.sdk.gates import settle, until
from tests.sdk.replicas import ACCEPT, Client, hello, make_server, replica, text_of

# The SDK calls logging deprecated since the era that has no sessions.
pytestmark = pytest.mark.filterwarnings("ignore:The logging capability is deprecated")

SESSION_LOG = "notifications/message"


def make_logging_server(layer, scripts):
    server = make_server(layer, scripts)

    async def set_level(ctx, params):
        if params.level == "alert":
            raise ValueError("not that one")
        return EmptyResult()

    server._lowlevel_server.add_request_handler("logging/setLevel", SetLevelRequestParams, set_level)
    return server


@pytest.fixture
async def here(database_url):
    async with replica(database_url, make=make_logging_server) as one:
        yield one


@pytest.fixture
async def there(database_url, here):
    async with replica(database_url, make=make_logging_server) as two:
        yield two


def level_request(level, id="level"):
    return {"jsonrpc": "2.0", "id": id, "method": "logging/setLevel", "params": {"level": level}}


async def set_level(client, at, level):
    async with client.post(at, level_request(level)) as response:
        [answer] = await response.messages()
        return answer


async def heard(replica, client):
    """Until the replica knows of the session's change."""
    await until(lambda: not replica.parts.post_office.behind and replica.parts.cache.peek(client.session_id) is None)


def levels(messages):
    return [message["params"]["level"] for message in messages if message.get("method") == SESSION_LOG]


async def log_all(ctx):
    """One message of each level, on the call's own stream."""
    for level in LEVELS:
        await ctx.log(level, "said")
    return "logged"


async def log_all_standing(ctx):
    """The same, on the session's standalone stream."""
    for level in LEVELS:
        await ctx.session.send_log_message(level, "said")
    return "logged"


async def logged_by_a_call(client, at, name="log"):
    async with client.call(at, name) as response:
        messages = await response.messages()
        assert "logged" == text_of(messages[-1])
        return levels(messages)


@pytest.mark.parametrize("at", ["the same replica", "another replica"])
@pytest.mark.parametrize("level", ["debug", "error", "emergency"])
async def test_f29_a_call_sends_what_its_session_wants_and_nothing_below(here, there, client, level, at):
    target = there if at == "another replica" else here
    target.scripts["log"] = log_all
    with anyio.fail_after(10):
        assert list(LEVELS) == await logged_by_a_call(client, target)
        assert {} == (await set_level(client, here, level))["result"]
        await heard(target, client)
        assert list(LEVELS[LEVELS.index(level) :]) == await logged_by_a_call(client, target)
        assert level == (await here.layer.sessions.get(client.session_id)).log_level


async def test_f29_a_session_at_error_does_not_receive_info_on_its_standalone_stream(here, there, client):
    there.scripts["log"] = log_all_standing
    with anyio.fail_after(10):
        async with client.get(here) as standing:
            assert {} == (await set_level(client, here, "error"))["result"]
            await heard(there, client)
            await logged_by_a_call(client, there)
            said = [await standing.message() for _ in range(4)]
            await settle()
            assert said == [frame.message for frame in standing.frames if frame.message]
    assert ["error", "critical", "alert", "emergency"] == levels(said)


async def test_f29_the_level_of_one_session_is_not_anothers(here, client):
    here.scripts["log"] = log_all
    with anyio.fail_after(10):
        other = await Client().initialize(here)
        await set_level(client, here, "error")
        assert list(LEVELS) == await logged_by_a_call(other, here)


@pytest.mark.parametrize("at", ["the same replica", "another replica"])
async def test_f29_a_call_that_runs_already_sees_the_change(here, there, client, at):
    go_on = anyio.Event()

    async def script(ctx):
        await log_all(ctx)
        await ctx.report_progress(1)
        await go_on.wait()
        return await log_all(ctx)

    target = there if at == "another replica" else here
    target.scripts["log"] = script
    with anyio.fail_after(10):
        async with client.call(target, "log", token="t") as response:
            before = []
            while (message := await response.message()).get("method") == SESSION_LOG:
                before.append(message)
            await set_level(client, here, "critical")
            await heard(target, client)
            go_on.set()
            after = await response.messages()
    assert list(LEVELS) == levels(before)
    assert ["critical", "alert", "emergency"] == levels(after)


async def test_f29_the_level_is_committed_before_its_answer_leaves(here, client):
    gate = here.backend.sessions.before["change"]
    gate.close()
    with anyio.fail_after(5):
        async with client.post(here, level_request("error")) as response:
            await gate.reached.wait()
            await settle()
            assert all(frame.message is None for frame in response.frames)
            gate.open()
            assert {} == (await response.message())["result"]
        here.scripts["log"] = log_all
        # Here nothing has to be heard first.
        assert ["error", "critical", "alert", "emergency"] == await logged_by_a_call(client, here)


@pytest.mark.parametrize("level", ["loud", "ERROR", "", 3, None])
async def test_f29_an_invalid_level_is_refused_and_changes_nothing(here, client, level):
    with anyio.fail_after(5):
        await set_level(client, here, "error")
        answer = await set_level(client, here, level)
        assert ("level", -32602) == (answer["id"], answer["error"]["code"])
        assert "error" == (await here.layer.sessions.get(client.session_id)).log_level


async def test_f29_a_level_that_the_servers_own_handler_refuses_is_not_kept(here, client):
    with anyio.fail_after(5):
        assert "not that one" == (await set_level(client, here, "alert"))["error"]["message"]
        assert (await here.layer.sessions.get(client.session_id)).log_level is None


async def capabilities_of(at):
    """What the server announces, and a client that heard it."""
    async with request(at.app, "POST", headers=ACCEPT, json_body=hello()) as response:
        announced = (await response.message())["result"]["capabilities"]
    return announced, Client(session_id=response.headers["mcp-session-id"])


async def test_f29_a_low_level_server_without_a_handler_announces_no_logging_and_refuses_to_set_a_level(database_url):
    async with replica(database_url, make=lambda layer, scripts: Server("low")) as here:
        with anyio.fail_after(5):
            announced, client = await capabilities_of(here)
            assert -32601 == (await set_level(client, here, "error"))["error"]["code"]
            assert (await here.layer.sessions.get(client.session_id)).log_level is None
    assert "logging" not in announced


async def test_f29_an_mcp_server_keeps_levels_without_a_handler_of_its_own(database_url):
    async with replica(database_url) as here:
        here.scripts["log"] = log_all
        with anyio.fail_after(5):
            announced, client = await capabilities_of(here)
            assert {} == (await set_level(client, here, "alert"))["result"]
            assert ["alert", "emergency"] == await logged_by_a_call(client, here)
    assert "logging" in announced


async def test_f29_what_is_sent_while_the_store_is_away_keeps_to_the_level_known_before(here, client):
    from mcpsession.errors import StoreUnavailableError

    async def script(ctx):
        here.parts.changes.note(client.session_id)
        here.parts.cache.drop(client.session_id)
        here.backend.sessions.failing["get"] = lambda _: StoreUnavailableError("a test says so")
        return await log_all(ctx)

    here.scripts["log"] = script
    with anyio.fail_after(5):
        await set_level(client, here, "error")
        assert ["error", "critical", "alert", "emergency"] == await logged_by_a_call(client, here)


def test_f29_levels_are_in_the_specifications_order():
    from typing import get_args

    from mcp_types import LoggingLevel

    assert get_args(LoggingLevel) == LEVELS
    for place, wanted in enumerate(LEVELS):
        passed = [level for level in LEVELS if is_wanted(level, wanted)]
        assert list(LEVELS[place:]) == passed
    assert all(is_wanted(level, None) for level in LEVELS)

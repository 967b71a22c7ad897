"""What a call sent on its session's standalone stream is in the log before the call's own answer leaves."""

from __future__ import annotations

import anyio
import pytest

from mcpsession.errors import StoreUnavailableError
from tests.sdk.gates import settle
from tests.sdk.replicas import logged, text_of

pytestmark = pytest.mark.filterwarnings("ignore:The logging capability is deprecated")


async def tell(ctx):
    await ctx.session.send_log_message("info", "said")
    return "told"


async def said(at, client):
    state = await logged(at, client, "s.0")
    return [] if state is None else [event.message for event in state.events]


async def test_f49_the_answer_waits_until_the_message_is_in_the_log(here, client):
    """Else a message whose call was answered dies with its replica, or comes after that of the session's next call."""
    here.scripts["tell"] = tell
    append = here.backend.log.before["append_standalone"]
    append.close()
    with anyio.fail_after(10):
        async with client.call(here, "tell") as response:
            await append.reached.wait()
            await settle()
            assert [] == [frame.message for frame in response.frames if frame.message]
            append.open()
            assert "told" == text_of(await response.message())
            assert 1 == len(await said(here, client))


async def test_f49_while_the_store_is_away_the_answer_waits_and_then_comes(here, client):
    here.scripts["tell"] = tell
    failures = [StoreUnavailableError("away")] * 2
    here.backend.log.failing["append_standalone"] = lambda *_: failures.pop() if failures else None
    with anyio.fail_after(10):
        async with client.call(here, "tell") as response:
            assert "told" == text_of(await response.message())
            assert 1 == len(await said(here, client))


@pytest.mark.parametrize("text", ["\x00", "fine"])
async def test_f49_a_message_that_the_store_refuses_keeps_no_answer_back(here, client, text):
    async def tell_this(ctx):
        await ctx.session.send_log_message("info", text)
        return "told"

    here.scripts["tell"] = tell_this
    with anyio.fail_after(10):
        async with client.call(here, "tell") as response:
            assert "told" == text_of(await response.message())


async def test_f49_a_cancelled_call_does_not_wait_for_it(here, client):
    here.scripts["tell"] = tell
    append = here.backend.log.before["append_standalone"]
    append.close()
    with anyio.fail_after(10):
        async with client.call(here, "tell", id="told") as response:
            await append.reached.wait()
            assert 202 == await client.notify(here, "notifications/cancelled", {"requestId": "told"})
            assert -32800 == (await response.message())["error"]["code"]
        append.open()

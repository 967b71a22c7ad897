"""A tool asks for the session's state while the store is away: its client is told to try again, and no more."""

from __future__ import annotations

import logging

import anyio
import pytest

from mcpsession import current_session
from mcpsession.errors import StoreUnavailableError
from tests.sdk.replicas import text_of


async def away(*args, **kwargs):
    raise StoreUnavailableError("Postgres at db.internal:5432 is gone")


async def count(ctx):
    state = await current_session().state()
    state["n"] = 1
    return "counted"


async def test_a_state_that_cannot_be_read_is_a_tools_error_that_says_so_without_a_traceback(
    here, client, monkeypatch, caplog
):
    """A traceback of each call would hold the event loop up, and what the store says is for the operator alone."""
    here.scripts["count"] = count
    monkeypatch.setattr(here.backend.sessions, "load_state", away, raising=False)
    with anyio.fail_after(10), caplog.at_level(logging.INFO):
        async with client.call(here, "count") as response:
            [answer] = await response.messages()
    assert answer["result"]["isError"]
    assert "the session store is away: its state cannot be read now; try again" in text_of(answer)
    assert "db.internal" not in str(answer)
    assert [] == [record for record in caplog.records if record.exc_info]
    assert "db.internal" in caplog.text


async def test_a_tool_can_catch_that_and_go_on(here, client, monkeypatch):
    async def script(ctx):
        with pytest.raises(StoreUnavailableError):
            await current_session().state()
        return "did without"

    here.scripts["without"] = script
    monkeypatch.setattr(here.backend.sessions, "load_state", away, raising=False)
    with anyio.fail_after(10):
        async with client.call(here, "without") as response:
            [answer] = await response.messages()
    assert "did without" == text_of(answer)


async def test_a_state_whose_commit_was_cut_off_may_have_been_kept_and_the_answer_says_so(here, client, monkeypatch):
    here.scripts["count"] = count
    monkeypatch.setattr(here.backend.sessions, "save_state", away, raising=False)
    with anyio.fail_after(10):
        async with client.call(here, "count") as response:
            [answer] = await response.messages()
    assert "was kept is unknown" in answer["error"]["message"]
    assert "db.internal" not in str(answer)

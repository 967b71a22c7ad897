"""What the page about events shows runs, on Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from mcpsession import SessionLayer
from tests.docs.snippets import run, snippets_of

APPEND, REPLAY, FOLLOW, PUSH = snippets_of("docs/events.md")
PACKED, SHIPPED = ({"order": 7, "step": step} for step in ("packed", "shipped"))


@pytest.fixture
async def page(database_url: str) -> AsyncIterator[dict[str, Any]]:
    """What the page takes for given, once its first snippet has run; and another replica."""
    async with (
        SessionLayer.from_url(database_url, namespace="page") as layer,
        SessionLayer.from_url(database_url, namespace="page") as other,
    ):
        names = {"layer": layer, "session": await layer.sessions.create(), "other": other}
        await run(APPEND, names)
        yield names


async def test_what_is_appended_is_there_once_on_the_other_replica(page, capsys):
    log, session = page["other"].events, page["session"].id
    replay = await log.replay(session)
    assert [PACKED, SHIPPED] == [event.data for event in replay.events]
    assert ["order", "message"] == [event.type for event in replay.events]
    assert 3 == len((await log.replay(session, stream="build")).events)


async def test_a_replay_prints_what_is_past_its_cursor(page, capsys):
    await page["other"].events.append(page["session"].id, "next")
    capsys.readouterr()
    await run(REPLAY, page)
    assert "3 next\n" == capsys.readouterr().out


async def test_a_cursor_that_is_gone_is_told(page, capsys):
    capsys.readouterr()
    await run(REPLAY.replace("shipment-4711", "shipment-4712"), page)
    told = "something is gone; the oldest that is left is 1\n"
    assert f"{told}1 {PACKED}\n2 {SHIPPED}\n" == capsys.readouterr().out


async def test_whoever_follows_prints_what_is_there_and_what_comes_until_the_session_ends(page, capsys):
    capsys.readouterr()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, FOLLOW, page)
            printed = ""
            while "shipped" not in printed:
                await anyio.sleep(0.01)
                printed += capsys.readouterr().out
            await page["other"].events.append(page["session"].id, "next")
            while "next" not in printed:
                await anyio.sleep(0.01)
                printed += capsys.readouterr().out
            await page["other"].sessions.delete(page["session"].id)
    assert f"1 {PACKED}\n2 {SHIPPED}\n3 next\n" == printed
    assert "session" == page["following"].ended


async def test_a_push_that_is_not_live_ends_with_the_newest(page, capsys):
    capsys.readouterr()
    await run(PUSH, page)
    assert ("sent shipment-4711\n", 1) == (capsys.readouterr().out, page["sent"])

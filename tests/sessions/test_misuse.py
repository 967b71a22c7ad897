"""What a user gets wrong: told at once, in words that say what is right, and with nothing lost."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import anyio
import pytest

from mcpsession import ConfigurationError, SessionExistsError, SessionLayer, StateConflictError
from mcpsession.errors import IllegalTransitionError
from mcpsession.records import Session
from tests.sessions import reaping
from tests.sessions.reaping import Store, expired, is_gone

store = reaping.store


async def test_a_mistyped_conflict_ends_no_session(here: SessionLayer) -> None:
    wrong: Any = "Replace"
    await here.sessions.create("session", state={"n": 1})

    with pytest.raises(ValueError, match="'error', 'existing' or 'replace'"):
        await here.sessions.create("session", on_conflict=wrong)

    assert {"n": 1} == await here.sessions.state("session")


async def test_a_user_that_is_missing_is_not_everybody(here: SessionLayer) -> None:
    nobody: Any = None
    with pytest.raises(TypeError, match=r"for the sessions of all, use layer\.sessions"):
        here.sessions.of(nobody)


async def test_what_is_about_all_owners_is_not_to_be_had_from_one(here: SessionLayer) -> None:
    alice = here.sessions.of("alice")
    for verb in (alice.stats, alice.cleanup_expired):
        with pytest.raises(ValueError, match=r"ask layer\.sessions"):
            await verb()


async def test_a_single_id_is_not_taken_for_many(here: SessionLayer) -> None:
    for verb in (here.sessions.get_many, here.sessions.touch_many, here.sessions.delete_many):
        with pytest.raises(TypeError, match="in a list"):
            await verb("session")


@pytest.mark.parametrize("ttl", ["600", True, object()])
async def test_a_ttl_of_another_type_is_refused_by_name(here: SessionLayer, ttl: Any) -> None:
    with pytest.raises(ValueError, match=r"ttl=.* is not allowed: seconds above 0"):
        await here.sessions.create(ttl=ttl)


async def test_an_old_version_is_named(here: SessionLayer) -> None:
    session = await here.sessions.create()
    await here.sessions.merge_state(session.id, {"n": 1})
    with pytest.raises(StateConflictError, match=f"not at version {session.version} any more"):
        await here.sessions.compare_and_set(session.id, session.version, {})


async def test_an_id_in_use_says_how_to_have_it_and_one_that_is_not_to_be_had_does_not(here: SessionLayer) -> None:
    await here.sessions.create("session", owner="alice")
    with pytest.raises(SessionExistsError, match='pass on_conflict="existing" or "replace"'):
        await here.sessions.create("session", owner="alice")
    with pytest.raises(SessionExistsError, match="take another"):
        await here.sessions.ensure("session", owner="bob")


async def test_a_phase_that_cannot_follow_says_what_comes_first(here: SessionLayer) -> None:
    await here.sessions.create("session")
    await here.sessions.initialization.claim("session")
    with pytest.raises(IllegalTransitionError, match=r"complete\(\) comes first"):
        await here.sessions.initialization.mark_initialized("session")


async def test_what_is_no_handler_or_policy_is_refused_when_it_is_given(here: SessionLayer) -> None:
    wrong: Any = 5
    with pytest.raises(TypeError, match="expiry handler"):
        here.on_expired(wrong)
    with pytest.raises(TypeError, match="policy"):
        here.reaper.add_policy(wrong)


def test_a_url_that_is_missing_is_refused_with_what_it_should_be() -> None:
    missing: Any = None
    with pytest.raises(ConfigurationError, match="postgresql://"):
        SessionLayer.from_url(missing)


async def _awaits_what_was_cancelled(session: Session) -> None:
    task = asyncio.ensure_future(asyncio.sleep(60))
    task.cancel()
    await task


def _parses_arguments(session: Session) -> None:
    sys.exit(2)


@pytest.mark.parametrize("handler", [_awaits_what_was_cancelled, _parses_arguments])
async def test_f59_a_handler_that_cancels_or_exits_keeps_no_session_and_stops_no_pass(
    store: Store, handler: Any
) -> None:
    async with store.layer() as layer:
        layer.on_expired(handler)
        for number in range(20):
            await expired(layer, f"{number}")

        with anyio.fail_after(5):
            assert 20 == await layer.sessions.cleanup_expired()

        for number in range(20):
            assert await is_gone(layer, f"{number}")
        assert await layer.sessions.create("still-serving")

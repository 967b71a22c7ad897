"""What a session's tools keep: merged, updated and compared, and nothing lost on the way. F12, F14, F15."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from mcpsession import SessionLayer
from mcpsession.errors import SessionNotFoundError, StateConflictError, UpdateFailedError
from tests.sessions.replicas import Place, all_at_once, changes, get

State = dict[str, Any]


# F12: merge


@pytest.mark.parametrize(
    ("before", "patch", "after"),
    [
        ({"m": {"a": 1, "b": 2}}, {"m": {"a": 9}}, {"m": {"a": 9}}),
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": 1, "b": 2}, {"a": None}, {"a": None, "b": 2}),
        ({"a": [1, 2]}, {"a": []}, {"a": []}),
        ({"a": 1}, {}, {"a": 1}),
        ({"a": 1}, None, {"a": 1}),
        ({}, None, {}),
        ({}, {"ü": {"\x00": "\ud800"}}, {"ü": {"\x00": "\ud800"}}),
        ({"a": 1}, {"t": (1, (2,))}, {"a": 1, "t": [1, [2]]}),
        ({"big": 2**70}, {"small": -(2**70), "f": 1e308}, {"big": 2**70, "small": -(2**70), "f": 1e308}),
    ],
    ids=repr,
)
async def test_f12_top_level_keys_are_set_and_all_others_stay(
    here: SessionLayer, there: SessionLayer, before: State, patch: State | None, after: State
) -> None:
    await here.sessions.create("session", state=before)

    assert after == await there.sessions.merge_state("session", patch)
    assert after == await there.sessions.merge_state("session", patch)

    assert after == await here.sessions.state("session")
    assert after == (await get(there)).state


@pytest.mark.parametrize(("before", "after"), [(1, True), (1, 1.0), (0, False), (False, 0), (1.5, "1.5"), ([], {})])
async def test_f12_a_value_of_another_type_is_another_value(here: SessionLayer, before: object, after: object) -> None:
    """In Python some of these are equal."""
    await here.sessions.create("session", state={"a": before})

    await here.sessions.merge_state("session", {"a": after})

    [value] = (await here.sessions.state("session")).values()
    assert (type(after), after) == (type(value), value)


async def test_f12_what_is_not_live_is_not_merged(place: Place, here: SessionLayer) -> None:
    await here.sessions.create("session")
    await place.expire("session")

    for session_id in ("session", "missing"):
        for patch in ({"a": 1}, {}, None):
            with pytest.raises(SessionNotFoundError):
                await here.sessions.merge_state(session_id, patch)
        with pytest.raises(SessionNotFoundError):
            await here.sessions.state(session_id)


# F14: what is reserved


async def test_f14_nothing_but_the_state_can_be_changed_by_an_update(here: SessionLayer, there: SessionLayer) -> None:
    await here.sessions.create("session", owner="alice", ttl=60.0, metadata={"k": 1})
    before = await get(here)
    reserved = {
        "id": "other",
        "owner": "mallory",
        "namespace": "other",
        "incarnation": 1,
        "status": "terminated",
        "created_at": "1970-01-01",
        "expires_at": None,
        "ttl": None,
        "version": 1,
        "event_count": 99,
        "metadata": {},
        "initialized": True,
    }

    for change in (
        partial(here.sessions.update, "session", lambda state: {**state, **reserved}),
        partial(there.sessions.merge_state, "session", {**reserved, "again": 1}),
    ):
        await change()
        after = await get(there)
        # They are keys of the state like any other.
        assert reserved.items() <= after.state.items()
        for field in set(reserved) - {"version", "expires_at"}:
            assert getattr(before, field) == getattr(after, field), field

    assert before.version + 2 == (await get(there)).version
    assert ["session"] == [session.id for session in await there.sessions.list()]


# F15: an update that changes nothing


@pytest.mark.parametrize("fn", [lambda state: state, lambda _: None, dict], ids=["same", "none", "copy"])
async def test_f15_an_update_that_changes_nothing_is_a_touch(
    here: SessionLayer, there: SessionLayer, fn: Callable[[State], Any]
) -> None:
    await here.sessions.create("session", ttl=60.0, state={"n": 1})
    before = await get(here)

    assert {"n": 1} == await there.sessions.update("session", fn)

    after = await get(here)
    assert (before.version, {"n": 1}) == (after.version, after.state)
    assert before.last_active_at is not None
    assert after.last_active_at is not None
    assert before.last_active_at < after.last_active_at


async def test_f15_an_update_that_changes_something_is_activity_too(here: SessionLayer) -> None:
    created = await here.sessions.create("session", ttl=60.0)

    await here.sessions.update("session", lambda state: {**state, "n": 1})

    after = await get(here)
    assert created.last_active_at is not None
    assert after.last_active_at is not None
    assert created.last_active_at < after.last_active_at


# compare and set


async def test_f100_a_state_is_set_if_it_was_not_changed_since(here: SessionLayer, there: SessionLayer) -> None:
    session = await here.sessions.create("session", state={"n": 1})

    second = await there.sessions.compare_and_set("session", session.version, {"n": 2})
    with pytest.raises(StateConflictError):
        await here.sessions.compare_and_set("session", session.version, {"n": 3})
    third = await here.sessions.compare_and_set("session", second, {"n": 3})

    assert [1, 2] == [second - session.version, third - session.version]
    assert (2, {"n": 3}) == await changes(there, session)


async def test_f100_of_those_who_compare_and_set_at_once_one_succeeds(here: SessionLayer, there: SessionLayer) -> None:
    version = (await here.sessions.create("session")).version
    jobs = [
        partial((here if number % 2 else there).sessions.compare_and_set, "session", version, {"n": number})
        for number in range(20)
    ]

    outcomes = await all_at_once(*jobs)

    [winner] = [number for number, outcome in enumerate(outcomes) if outcome == version + 1]
    assert 19 == len([outcome for outcome in outcomes if isinstance(outcome, StateConflictError)])
    assert {"n": winner} == await here.sessions.state("session")


async def test_a_version_of_an_earlier_session_fits_no_later_one(here: SessionLayer, there: SessionLayer) -> None:
    versions = set()
    for number in range(20):
        versions.add((await (here if number % 2 else there).sessions.register("session")).version)

    assert 20 == len(versions)


async def test_a_missing_session_and_a_bad_state_are_told_apart(here: SessionLayer) -> None:
    session = await here.sessions.create("session")

    with pytest.raises(SessionNotFoundError):
        await here.sessions.compare_and_set("missing", 1, {})
    bad: Any
    for bad in ([], "text", {"nan": float("nan")}):
        with pytest.raises(UpdateFailedError):
            await here.sessions.compare_and_set("session", session.version, bad)
    assert (0, {}) == await changes(here, session)

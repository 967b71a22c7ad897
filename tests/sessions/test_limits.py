"""How much there may be of everything. F94."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from mcpsession import SessionLayer
from mcpsession.errors import LimitExceededError
from tests.sessions.replicas import Place, all_at_once, get, given


def is_limit(error: object, limit: str, allowed: int) -> bool:
    return isinstance(error, LimitExceededError) and (error.limit, error.allowed) == (limit, allowed)


def nested(depth: int) -> dict[str, Any]:
    value: Any = {}
    for _ in range(depth - 1):
        value = {"k": value}
    made: dict[str, Any] = value
    return made


@given(max_sessions=5)
async def test_f94_no_more_sessions_live_than_may(place: Place, here: SessionLayer, there: SessionLayer) -> None:
    jobs = [partial((here if number % 2 else there).sessions.create, f"{number}") for number in range(20)]

    outcomes = await all_at_once(*jobs)

    assert 15 == len([outcome for outcome in outcomes if is_limit(outcome, "max_sessions", 5)])
    living = await here.sessions.list()
    assert 5 == len(living)
    with pytest.raises(LimitExceededError, match="max_sessions"):
        await there.sessions.create_many([there.sessions.new_session()])
    await there.sessions.delete(living[0].id)
    await here.sessions.create("next")
    await place.expire("next")
    await there.sessions.create("after-the-next")


@given(max_sessions_per_owner=2)
async def test_f94_no_more_sessions_of_an_owner_live_than_may(here: SessionLayer, there: SessionLayer) -> None:
    owners = ["alice", "bob", ""]
    jobs = [partial((here if number % 2 else there).sessions.create, owner=owners[number % 3]) for number in range(24)]

    outcomes = await all_at_once(*jobs)

    assert 12 == len([outcome for outcome in outcomes if is_limit(outcome, "max_sessions_per_owner", 2)])
    # An anonymous client is nobody in particular.
    assert [2, 2, 8] == [await here.sessions.count(owner=owner) for owner in owners]
    with pytest.raises(LimitExceededError):
        await there.sessions.of("alice").create()


@given(max_sessions=1)
async def test_f94_a_session_can_be_replaced_however_full_it_is(here: SessionLayer, there: SessionLayer) -> None:
    await here.sessions.create("session", state={"n": 1})

    await there.sessions.register("session")
    await here.sessions.rotate("session")

    assert 1 == await here.sessions.count()


@given(max_id_length=64)
async def test_f94_an_id_is_no_longer_than_it_may_be(here: SessionLayer) -> None:
    await here.sessions.create("a" * 64)

    with pytest.raises(LimitExceededError) as caught:
        await here.sessions.create("a" * 65)

    assert ("max_id_length", 64, 65) == (caught.value.limit, caught.value.allowed, caught.value.actual)


@given(max_state_bytes=50)
async def test_f94_a_state_is_no_larger_than_it_may_be(here: SessionLayer) -> None:
    fits, too_large = {"k": "x" * 41}, {"k": "x" * 42}
    await here.sessions.create("session", state=fits)
    version = (await here.sessions.create("other")).version

    for attempt in (
        lambda: here.sessions.create("third", state=too_large),
        lambda: here.sessions.ensure("third", state=too_large),
        lambda: here.sessions.register("third", state=too_large),
        lambda: here.sessions.merge_state("other", too_large),
        lambda: here.sessions.update("other", lambda _: too_large),
        lambda: here.sessions.compare_and_set("other", version, too_large),
    ):
        with pytest.raises(LimitExceededError) as caught:
            await attempt()
        assert ("max_state_bytes", 50, 51) == (caught.value.limit, caught.value.allowed, caught.value.actual)

    assert (fits, {}) == ((await get(here)).state, (await get(here, "other")).state)
    assert await here.sessions.get("third") is None


@given(max_metadata_bytes=50, max_metadata_depth=3)
async def test_f94_metadata_is_no_larger_and_no_deeper_than_it_may_be(here: SessionLayer) -> None:
    await here.sessions.create("fits", metadata={"k": "x" * 41})
    await here.sessions.create("fits-too", metadata=nested(3))

    for metadata, limit, allowed in (
        ({"k": "x" * 42}, "max_metadata_bytes", 50),
        (nested(4), "max_metadata_depth", 3),
        (nested(100_000), "max_metadata_depth", 3),
        ({"k": [[["deep"]]]}, "max_metadata_depth", 3),
        ({"k": (((),),)}, "max_metadata_depth", 3),
    ):
        for attempt in (here.sessions.create, here.sessions.ensure, here.sessions.register):
            with pytest.raises(LimitExceededError) as caught:
                await attempt("session", metadata=metadata)
            assert (limit, allowed) == (caught.value.limit, caught.value.allowed)
    assert await here.sessions.get("session") is None


async def test_f94_a_session_has_no_more_subscriptions_than_it_may(here: SessionLayer, there: SessionLayer) -> None:
    """On the wire the limit is the setting max_subscriptions_per_session."""
    await here.sessions.create("session")
    async with here.running() as ours, there.running() as theirs:
        jobs = [
            partial((ours if n % 2 else theirs).subscriptions.subscribe, "session", f"file:///{n}", 3, sender="a")
            for n in range(10)
        ]

        outcomes = await all_at_once(*jobs)

        assert 7 == len([outcome for outcome in outcomes if is_limit(outcome, "max_subscriptions_per_session", 3)])
        assert 3 == len(await theirs.subscriptions.uris("session"))


async def test_f94_a_limit_says_how_to_raise_it(place: Place) -> None:
    async with place.replica(max_sessions=1) as layer:
        await layer.sessions.create()
        with pytest.raises(LimitExceededError, match=r"max_sessions=1 .*MCPSESSION_MAX_SESSIONS") as caught:
            await layer.sessions.create()
        assert isinstance(caught.value, ValueError)


@given(max_sessions=3)
async def test_f94_many_at_once_are_created_or_none(here: SessionLayer, there: SessionLayer) -> None:
    with pytest.raises(LimitExceededError):
        await here.sessions.create_many(here.sessions.new_session() for _ in range(4))
    assert 0 == await there.sessions.count()

    assert 3 == len(await here.sessions.create_many(here.sessions.new_session() for _ in range(3)))
    assert [] == list(await here.sessions.create_many([]))

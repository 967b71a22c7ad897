"""A session's state, read, changed and written in one go, on however many replicas. F13."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest

from mcpsession import SessionLayer
from mcpsession.errors import LimitExceededError, UpdateFailedError
from tests.sessions.replicas import all_at_once, changes, get, given, timeless

State = dict[str, Any]


def plus_one(state: State) -> State:
    return {**state, "n": state.get("n", 0) + 1}


def plus_one_in_place(state: State) -> None:
    state["n"] = state.get("n", 0) + 1


async def plus_one_later(state: State) -> State:
    await anyio.lowlevel.checkpoint()
    return plus_one(state)


async def plus_one_in_place_later(state: State) -> None:
    await anyio.lowlevel.checkpoint()
    plus_one_in_place(state)


@pytest.mark.parametrize("fn", [plus_one, plus_one_in_place, plus_one_later, plus_one_in_place_later])
async def test_f13_an_update_replaces_the_state_by_what_the_function_makes_of_it(
    here: SessionLayer, there: SessionLayer, fn: Callable[[State], Any]
) -> None:
    session = await here.sessions.create("session", state={"other": "stays"})

    assert {"other": "stays", "n": 1} == await here.sessions.update("session", fn)
    assert {"other": "stays", "n": 2} == await there.sessions.update("session", fn)

    assert (2, {"other": "stays", "n": 2}) == await changes(here, session)


async def test_f13_updates_from_two_replicas_all_count(here: SessionLayer, there: SessionLayer) -> None:
    session = await here.sessions.create("session", state={"n": 0})
    jobs = [partial(replica.sessions.update, "session", plus_one) for _ in range(500) for replica in (here, there)]

    outcomes = await all_at_once(*jobs)

    assert [] == [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert (1000, {"n": 1000}) == await changes(here, session)
    # Each saw a number of its own: none was made twice.
    assert list(range(1, 1001)) == sorted(outcome["n"] for outcome in outcomes)


async def test_f13_fifty_writers_of_fifty_keys_leave_fifty_keys(here: SessionLayer, there: SessionLayer) -> None:
    await here.sessions.create("session")
    jobs = [
        partial((here if number % 2 else there).sessions.merge_state, "session", {f"{number}": number})
        for number in range(50)
    ]

    await all_at_once(*jobs)

    assert {f"{number}": number for number in range(50)} == await there.sessions.state("session")


def raising(state: State) -> None:
    state["n"] = "spoilt"
    raise ValueError("no")


async def raising_later(state: State) -> None:
    raising(state)


def made(value: object) -> Callable[[State], Any]:
    return lambda state: state.update(n="spoilt") or value


def endless() -> State:
    state: State = {}
    state["self"] = state
    return state


def deep(depth: int) -> State:
    state: Any = {}
    for _ in range(depth):
        state = {"": state}
    return {"deep": state}


@pytest.mark.parametrize(
    "fn",
    [
        raising,
        raising_later,
        made([1, 2]),
        made("text"),
        made(7),
        made(True),
        made({"nan": float("nan")}),
        made({"inf": [float("-inf")]}),
        made({"set": {1, 2}}),
        made({"bytes": b"x"}),
        made({"object": object()}),
        made({("a", "b"): 1}),
        made(endless()),
        made(deep(100_000)),
    ],
    ids=[
        *("raising", "raising later", "list", "text", "number", "bool", "nan", "inf", "set", "bytes", "object"),
        *("tuple key", "endless", "deep"),
    ],
)
async def test_f13_a_function_that_fails_leaves_the_state_as_it_is(
    here: SessionLayer, there: SessionLayer, fn: Callable[[State], Any]
) -> None:
    await here.sessions.create("session", state={"n": 1})
    before = timeless(await get(here))

    with pytest.raises(UpdateFailedError):
        await there.sessions.update("session", fn)

    assert before == timeless(await get(here))


async def test_f13_a_failure_says_what_the_function_raised(here: SessionLayer) -> None:
    await here.sessions.create("session")

    with pytest.raises(UpdateFailedError, match="ValueError: no") as caught:
        await here.sessions.update("session", raising)

    assert isinstance(caught.value.__cause__, ValueError)


async def test_f13_a_cancelled_update_is_cancelled_and_not_failed(here: SessionLayer, there: SessionLayer) -> None:
    await here.sessions.create("session", state={"n": 1})
    begun = anyio.Event()

    async def wait_for_ever(_: State) -> None:
        begun.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(here.sessions.update, "session", wait_for_ever)
        await begun.wait()
        # Another replica does not wait for it: nothing is locked in the store while user code runs.
        with anyio.fail_after(5):
            assert {"n": 2} == await there.sessions.update("session", plus_one)
        tasks.cancel_scope.cancel()

    assert {"n": 2} == await here.sessions.state("session")
    # Whoever waited for it here has his turn.
    assert {"n": 3} == await here.sessions.update("session", plus_one)


async def test_f13_a_function_may_use_the_session_that_it_updates(here: SessionLayer) -> None:
    await here.sessions.create("session", state={"n": 0})

    async def touch_and_look(state: State) -> State:
        await here.sessions.touch("session")
        return {**state, "saw": (await here.sessions.state("session"))["n"]}

    with anyio.fail_after(5):
        assert {"n": 0, "saw": 0} == await here.sessions.update("session", touch_and_look)


async def test_f13_updates_within_updates_of_other_sessions_do_not_wait_for_each_other(here: SessionLayer) -> None:
    for session_id in ("a", "b"):
        await here.sessions.create(session_id, state={"n": 0})
    begun = {"a": anyio.Event(), "b": anyio.Event()}

    def with_the_other(mine: str, other: str) -> Callable[[State], Any]:
        async def update(state: State) -> State:
            begun[mine].set()
            await begun[other].wait()
            await here.sessions.merge_state(other, {f"of {mine}": True})
            return plus_one(state)

        return update

    with anyio.fail_after(5):
        await all_at_once(
            partial(here.sessions.update, "a", with_the_other("a", "b")),
            partial(here.sessions.update, "b", with_the_other("b", "a")),
        )

    assert {"n": 1, "of b": True} == await here.sessions.state("a")
    assert {"n": 1, "of a": True} == await here.sessions.state("b")


async def test_f13_an_update_of_a_session_that_was_begun_anew_meanwhile_is_made_on_the_new_one(
    here: SessionLayer, there: SessionLayer
) -> None:
    """What the old one held must not get into the new one."""
    await here.sessions.create("session", state={"secret": 1})
    calls: list[State] = []

    async def replace_then_add(state: State) -> State:
        calls.append(dict(state))
        if len(calls) == 1:
            await there.sessions.register("session")
        return {**state, "added": True}

    assert {"added": True} == await here.sessions.update("session", replace_then_add)

    assert [{"secret": 1}, {}] == calls
    assert {"added": True} == await there.sessions.state("session")


@given(max_state_bytes=100)
async def test_f13_a_state_that_grows_too_large_is_not_stored(here: SessionLayer) -> None:
    session = await here.sessions.create("session", state={"n": 1})

    with pytest.raises(LimitExceededError) as caught:
        await here.sessions.merge_state("session", {"text": "x" * 100})

    assert ("max_state_bytes", 100) == (caught.value.limit, caught.value.allowed)
    assert (0, {"n": 1}) == await changes(here, session)


async def test_waiting_for_ones_turn_leaves_nothing_behind(here: SessionLayer) -> None:
    await here.sessions.create("session")
    before = len(asyncio.all_tasks())

    await all_at_once(*[partial(here.sessions.update, "session", plus_one) for _ in range(50)])

    assert {} == here.sessions._turns._locks
    assert before == len(asyncio.all_tasks())

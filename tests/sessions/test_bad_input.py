"""What cannot be stored is refused by a typed error before anything is, and what can be stored comes back as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mcpsession import MCPSessionError, SessionLayer
from mcpsession.errors import (
    InvalidSessionIdError,
    LimitExceededError,
    MetadataError,
    SessionNotFoundError,
    UnstorableTextError,
    UpdateFailedError,
)
from mcpsession.records import Filter
from tests.sessions.replicas import get

NUL, SURROGATE = "a\x00b", "a\ud800b"


def deep(depth: int, wrap: Callable[[Any], Any] = lambda value: [value]) -> dict[str, Any]:
    value: Any = []
    for _ in range(depth):
        value = wrap(value)
    return {"deep": value}


def endless() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


REFUSED: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "owner with NUL": ({"owner": NUL}, UnstorableTextError),
    "owner with a lone surrogate": ({"owner": SURROGATE}, UnstorableTextError),
    "transport with NUL": ({"transport": NUL}, UnstorableTextError),
    "transport with a lone surrogate": ({"transport": SURROGATE}, UnstorableTextError),
    "state too large": ({"state": {"k": "x" * 10_000_000}}, LimitExceededError),
    "state too large in another script": ({"state": {"k": "ü" * 262_144}}, LimitExceededError),
    "state too deep": ({"state": deep(100_000)}, UpdateFailedError),
    "state with NaN": ({"state": {"k": float("nan")}}, UpdateFailedError),
    "state with infinity": ({"state": {"k": [float("inf")]}}, UpdateFailedError),
    "state with a set": ({"state": {"k": {1}}}, UpdateFailedError),
    "state with bytes": ({"state": {"k": b"x"}}, UpdateFailedError),
    "state with a tuple for a key": ({"state": {(1, 2): 3}}, UpdateFailedError),
    "state that contains itself": ({"state": endless()}, UpdateFailedError),
    "state that is a list": ({"state": [1]}, UpdateFailedError),
    "state that is text": ({"state": "text"}, UpdateFailedError),
    "state that is a number": ({"state": 7}, UpdateFailedError),
    "metadata too large": ({"metadata": {"k": "x" * 10_000_000}}, LimitExceededError),
    "metadata too deep": ({"metadata": deep(100_000)}, LimitExceededError),
    "metadata too deep in objects": ({"metadata": deep(100_000, lambda value: {"k": value})}, LimitExceededError),
    "metadata too deep in tuples": ({"metadata": deep(100_000, lambda value: (value,))}, LimitExceededError),
    "metadata that contains itself": ({"metadata": endless()}, LimitExceededError),
    "metadata with NaN": ({"metadata": {"k": float("nan")}}, MetadataError),
    "metadata with infinity": ({"metadata": {"k": [float("-inf")]}}, MetadataError),
    "metadata with a set": ({"metadata": {"k": {1}}}, MetadataError),
    "metadata with a tuple for a key": ({"metadata": {(1, 2): 3}}, MetadataError),
    "metadata that is a list": ({"metadata": [1]}, MetadataError),
    "metadata that is text": ({"metadata": "text"}, MetadataError),
    "ttl of zero": ({"ttl": 0}, ValueError),
    "ttl that is NaN": ({"ttl": float("nan")}, ValueError),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_cannot_be_stored_is_refused_and_leaves_nothing(here: SessionLayer, what: str) -> None:
    fields, expected = REFUSED[what]
    await here.sessions.create("there", state={"n": 1})
    before = await get(here, "there")

    for attempt in (
        lambda: here.sessions.create("session", **fields),
        lambda: here.sessions.ensure("session", **fields),
        lambda: here.sessions.register("session", **fields),
        # The one that is there is not replaced by what cannot be.
        lambda: here.sessions.register("there", **fields),
    ):
        with pytest.raises(expected):
            await attempt()
    with pytest.raises(expected):
        here.sessions.new_session("session", **fields)

    assert await here.sessions.get("session") is None
    assert before.incarnation == (await get(here, "there")).incarnation


COMES_BACK: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "NUL": ({"k": NUL, NUL: 1}, {"k": NUL, NUL: 1}),
    "a lone surrogate": ({"k": SURROGATE, SURROGATE: 1}, {"k": SURROGATE, SURROGATE: 1}),
    "every script": ({"ü": "\U0001f600", "\u2028": "中"}, {"ü": "\U0001f600", "\u2028": "中"}),
    "tuples": ({"k": (1, (2, 3))}, {"k": [1, [2, 3]]}),
    "large numbers": ({"k": [2**200, -(2**200), 1e308, 5e-324]}, {"k": [2**200, -(2**200), 1e308, 5e-324]}),
    "nothing": ({}, {}),
    "nulls": ({"k": None, "": {"": [None]}}, {"k": None, "": {"": [None]}}),
    "a nested empty": ({"k": [{}, [], ""]}, {"k": [{}, [], ""]}),
    "reserved words": ({"__class__": 1, "id": 2, "$ref": 3}, {"__class__": 1, "id": 2, "$ref": 3}),
}


@pytest.mark.parametrize("what", COMES_BACK)
async def test_what_is_json_comes_back_as_it_was(here: SessionLayer, there: SessionLayer, what: str) -> None:
    given, expected = COMES_BACK[what]

    created = await here.sessions.create("session", metadata=given, state=given)
    await here.sessions.create("other")
    assert expected == await here.sessions.merge_state("other", given)

    got = await get(there)
    assert [expected] * 4 == [created.metadata, created.state, got.metadata, got.state]
    assert expected == await there.sessions.state("other")


async def test_keys_that_are_no_text_become_text_in_one_way(here: SessionLayer, there: SessionLayer) -> None:
    given: Any = {2.5: "b", None: "c", 7: "d"}

    created = await here.sessions.create("session", metadata=given, state=given)

    expected = {"2.5": "b", "null": "c", "7": "d"}
    got = await get(there)
    assert [expected] * 4 == [created.metadata, created.state, got.metadata, got.state]


NO_IDS = ["", " ", "a b", "a\n", "\x00", NUL, SURROGATE, "ü", "x" * 10_240, "x" * 1_000_000, "'; DROP TABLE x; --", "%"]


@pytest.mark.parametrize("session_id", NO_IDS, ids=lambda value: repr(value)[:20])
async def test_an_id_that_no_session_can_have_finds_none(here: SessionLayer, session_id: str) -> None:
    """Whoever looks one up has it from somebody else."""
    await here.sessions.create("session")
    sessions = here.sessions

    assert await sessions.get(session_id) is None
    assert await sessions.get(session_id, include_dead=True) is None
    assert ["session"] == list(await sessions.get_many(["session", session_id]))
    assert await sessions.retrieve(session_id) is None
    assert not await sessions.touch(session_id)
    assert {"session"} == await sessions.touch_many([session_id, "session"])
    assert not await sessions.set_ttl(session_id, 5.0)
    assert not await sessions.delete(session_id)
    assert not await sessions.terminate(session_id)
    assert set() == await sessions.delete_many([session_id])
    assert "closed" == await sessions.initialization.phase(session_id)
    for attempt in (
        lambda: sessions.state(session_id),
        lambda: sessions.merge_state(session_id, {"n": 1}),
        lambda: sessions.compare_and_set(session_id, 1, {}),
        lambda: sessions.close(session_id),
        lambda: sessions.rotate(session_id),
        lambda: sessions.initialization.claim(session_id),
    ):
        with pytest.raises(SessionNotFoundError):
            await attempt()
    assert 1 == await sessions.count()


@pytest.mark.parametrize("text", [NUL, SURROGATE], ids=["NUL", "a lone surrogate"])
async def test_text_that_no_store_can_hold_is_refused_by_every_verb_that_stores_some(
    here: SessionLayer, text: str
) -> None:
    await here.sessions.create("session")
    claim = await here.sessions.initialization.claim("session")
    before = await get(here)

    for attempt in (
        lambda: here.sessions.initialization.fail("session", text),
        lambda: here.sessions.initialization.complete("session", claim, protocol_version=text, client_info={}),
        lambda: here.sessions.rotate("session", new_owner=text),
        lambda: here.sessions.of(text).create("other"),
    ):
        with pytest.raises(UnstorableTextError):
            await attempt()

    after = await get(here)
    assert (before.phase, before.failure, before.owner) == (after.phase, after.failure, after.owner)
    # In what a client says of itself it is escaped, as in state.
    await here.sessions.initialization.complete("session", claim, protocol_version="1", client_info={"name": text})
    assert {"name": text} == (await get(here)).client_info


@pytest.mark.parametrize("text", [NUL, SURROGATE], ids=["NUL", "a lone surrogate"])
async def test_a_filter_with_text_that_no_store_can_hold_finds_nothing(here: SessionLayer, text: str) -> None:
    await here.sessions.create("session")

    for wanted in (Filter(owner=text), Filter(transport=text), Filter(protocol_version=text)):
        assert [] == list(await here.sessions.list(where=wanted))
        assert 0 == await here.sessions.count(where=wanted)
    assert await here.sessions.of(text).get("session") is None


async def test_many_are_checked_one_by_one_and_none_is_created(here: SessionLayer) -> None:
    good = here.sessions.new_session()
    for bad, expected in (
        (replace(good, id="a b"), InvalidSessionIdError),
        (replace(good, id="x" * 10_240), LimitExceededError),
        (replace(good, id="b", owner=NUL), UnstorableTextError),
        (replace(good, id="b", state={"k": float("nan")}), UpdateFailedError),
        (replace(good, id="b", metadata=deep(100)), LimitExceededError),
        (replace(good, id="b", ttl=-1.0), ValueError),
    ):
        with pytest.raises(expected):
            await here.sessions.create_many([good, bad])
        assert 0 == await here.sessions.count()


async def test_every_refusal_is_of_one_family(here: SessionLayer) -> None:
    for fields in ({"owner": NUL}, {"state": [1]}, {"metadata": {"k": {1}}}, {"metadata": deep(100)}):
        with pytest.raises(MCPSessionError):
            await here.sessions.create(**fields)

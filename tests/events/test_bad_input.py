"""What cannot be an event, an id, a cursor or a stream is refused by a typed error, and nothing is stored. F46."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from mcpsession import MCPSessionError
from mcpsession.errors import EventError, LimitExceededError, UnstorableTextError
from mcpsession.event_records import Entry, EventStats
from tests.events.replicas import EventsPlace, Replica
from tests.sessions.test_bad_input import NUL, SURROGATE, deep, endless

MEBIBYTE = 1024 * 1024

REFUSED: dict[str, tuple[dict[str, Any], type[MCPSessionError]]] = {
    "data that is a set": ({"data": {1}}, EventError),
    "data that is bytes": ({"data": b"x"}, EventError),
    "data that is an object": ({"data": object()}, EventError),
    "data that is a time": ({"data": datetime.now(UTC)}, EventError),
    "data with NaN": ({"data": [float("nan")]}, EventError),
    "data with infinity": ({"data": {"k": float("-inf")}}, EventError),
    "data with a tuple for a key": ({"data": {(1, 2): 3}}, EventError),
    "data with a number of too many digits": ({"data": 10**5000}, EventError),
    "data that contains itself": ({"data": endless()}, EventError),
    "data too deep": ({"data": deep(100_000)}, EventError),
    "data a little too deep": ({"data": deep(200)}, EventError),
    "data too deep in objects": ({"data": deep(200, lambda value: {"k": value})}, EventError),
    "data too large": ({"data": "x" * MEBIBYTE}, LimitExceededError),
    "data too large in another script": ({"data": "ü" * (MEBIBYTE // 6 + 1)}, LimitExceededError),
    "id that is empty": ({"id": ""}, EventError),
    "id that is a number": ({"id": 7}, EventError),
    "id that is bytes": ({"id": b"x"}, EventError),
    "id too long": ({"id": "x" * 201}, EventError),
    "id of the log's own form": ({"id": "events.7"}, EventError),
    "id of the log's own form with zeros": ({"id": "events.007"}, EventError),
    "id with NUL": ({"id": NUL}, UnstorableTextError),
    "id with a lone surrogate": ({"id": SURROGATE}, UnstorableTextError),
    "type that is empty": ({"type": ""}, EventError),
    "type that is None": ({"type": None}, EventError),
    "type too long": ({"type": "x" * 201}, EventError),
    "type of the log's own": ({"type": "mcpsession/gap"}, EventError),
    "type with NUL": ({"type": NUL}, UnstorableTextError),
    "type with a lone surrogate": ({"type": SURROGATE}, UnstorableTextError),
    "timestamp without a zone": ({"timestamp": datetime(2030, 1, 1)}, EventError),
    "timestamp that is a number": ({"timestamp": 1.5}, EventError),
    "timestamp that is text": ({"timestamp": "2030-01-01T00:00:00Z"}, EventError),
    "timestamp that is infinity": ({"timestamp": datetime.max.replace(tzinfo=UTC)}, EventError),
    "timestamp that is minus infinity": ({"timestamp": datetime.min.replace(tzinfo=UTC)}, EventError),
    "timestamp before all years": (
        {"timestamp": datetime.min.replace(tzinfo=timezone(timedelta(hours=5)))},
        EventError,
    ),
    "timestamp after all years": (
        {"timestamp": datetime.max.replace(tzinfo=timezone(-timedelta(hours=5)))},
        EventError,
    ),
}
STREAMS: tuple[Any, ...] = ("", "x" * 65, "a b", "a/b", "ä", "a\n", NUL, SURROGATE, None, 7, b"x")
CURSORS: tuple[Any, ...] = (-1, True, 1.0, float("nan"), b"events.1", ["events.1"], object())
LIMITS: tuple[Any, ...] = (0, -1, True, 1.5, None, "10")


@pytest.fixture
async def untouched(here: Replica, session: str) -> Any:
    """A session's id; at the end its stream must be as it was."""
    await here.events.append(session, "before", id="before")
    yield session
    here.reset()
    assert ["before"] == await here.data(session)
    assert 2 == (await here.events.append(session, "after")).seq
    stats = await here.events.stats(session)
    # The session's standalone stream, and this one.
    assert EventStats(2, 2, len('"before""after"')) == stats


@pytest.mark.parametrize("what", REFUSED)
async def test_what_cannot_be_an_event_is_refused(here: Replica, untouched: str, what: str) -> None:
    arguments, error = REFUSED[what]
    given = {"data": "x", **arguments}
    with pytest.raises(error) as raised:
        await here.events.append(untouched, **given)
    with pytest.raises(error):
        await here.events.append_many(untouched, [here.events.entry("fine"), here.events.entry(**given)])
    # It says so in a sentence, not with all that was given.
    assert 0 < len(str(raised.value)) < 500
    assert 1 == here.store.calls["append"]


async def test_what_is_no_entry_is_refused(here: Replica, untouched: str) -> None:
    for one in ("text", {"data": 1}, 7, None, Entry("{"), Entry("NaN"), Entry("[" * 100_000), Entry("1", type="")):
        with pytest.raises(EventError):
            await here.events.append_many(untouched, [here.events.entry("fine"), one])
    with pytest.raises(EventError):
        await here.events.append_many(untouched, "text")
    with pytest.raises(LimitExceededError, match="entries=10000 would be exceeded: 10001"):
        await here.events.append_many(untouched, [here.events.entry(1)] * 10_001)
    large = here.events.entry("x" * (MEBIBYTE - 2))
    with pytest.raises(LimitExceededError):
        await here.events.append_many(untouched, [large] * 65)


@pytest.mark.parametrize("stream", STREAMS, ids=ascii)
async def test_what_cannot_be_a_stream_is_refused(here: Replica, untouched: str, stream: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: here.events.append(untouched, 1, stream=stream),
        lambda: here.events.append_many(untouched, [], stream=stream),
        lambda: here.events.replay(untouched, stream=stream),
        lambda: here.events.push(untouched, print, stream=stream),
    ]
    for call in calls:
        with pytest.raises(EventError):
            await call()
    with pytest.raises(EventError):
        here.events.follow(untouched, stream=stream)


@pytest.mark.parametrize("cursor", CURSORS, ids=lambda cursor: f"{cursor!r:.20}")
async def test_what_cannot_be_a_cursor_is_refused(here: Replica, untouched: str, cursor: Any) -> None:
    for call in (here.events.replay, here.events.follow):
        with pytest.raises(EventError):
            await call(untouched, cursor)
    with pytest.raises(EventError):
        await here.events.push(untouched, print, cursor)


async def test_what_cannot_be_a_limit_or_a_handler_is_refused(here: Replica, untouched: str) -> None:
    for limit in LIMITS:
        with pytest.raises(EventError):
            await here.events.replay(untouched, limit=limit)
    assert 1 == len((await here.events.replay(untouched, limit=10**30)).events)
    with pytest.raises(TypeError):
        await here.events.push(untouched, None)


async def test_the_largest_of_each_is_stored(here: Replica, there: Replica, session: str) -> None:
    largest = {"id": "ü" * 200, "type": "🙂" * 200, "stream": "x" * 64}
    a_little = timedelta(microseconds=1)
    times = [datetime.min.replace(tzinfo=UTC) + a_little, datetime.max.replace(tzinfo=UTC) - a_little]
    text = await here.events.append(session, "x" * (MEBIBYTE - 2), timestamp=times[0], **largest)
    nested = await here.events.append(session, deep(198), timestamp=times[1], stream="x" * 64)
    assert [text] == (await there.events.replay(session, limit=1, stream="x" * 64)).events
    assert [nested] == (await there.events.replay(session, "ü" * 200, stream="x" * 64)).events
    # Another stream's form of an id is nothing special here.
    assert "other.7" == (await here.events.append(session, 1, id="other.7")).id


async def test_f46_a_limit_is_the_settings(place: EventsPlace) -> None:
    async with place.new(max_event_bytes=10) as here:
        session = (await here.sessions.create()).id
        assert 1 == (await here.events.append(session, "x" * 8)).seq
        with pytest.raises(LimitExceededError, match="max_event_bytes=10 would be exceeded: 11"):
            await here.events.append(session, "x" * 9)


@pytest.mark.parametrize("wrong", ["the session itself", None, 5])
async def test_a_session_is_named_by_its_id(here, session, wrong):
    given = await here.sessions.get(session) if wrong == "the session itself" else wrong
    events, requests = here.layer.events, here.layer.requests
    tries = [
        lambda: events.append(given, 1),
        lambda: events.replay(given),
        lambda: events.push(given, print),
        lambda: requests.track(given, 1, "work"),
        lambda: requests.complete(given, 1),
        lambda: requests.get(given, 1),
        lambda: requests.cancel(given, 1),
    ]
    for one in tries:
        with pytest.raises(TypeError, match=r"a session is named by its id, a text \(session.id\)"):
            await one()

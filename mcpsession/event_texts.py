"""How an application's events and its cursors are written, and what they may be."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from mcpsession.errors import EventError, LimitExceededError
from mcpsession.event_records import Entry, EntryPage, EventGap, LoggedEvent, Replay, StoredEntry
from mcpsession.model import StreamId
from mcpsession.texts import check_text, is_deeper

_STREAM = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_NUMBER = re.compile(r"0|[1-9][0-9]*")
# An id is part of a key of an index.
_LONGEST = 200
# Deeper, and whoever writes it to a wire may give up: pydantic does at 255, and the message has some levels itself.
_DEEPEST = 200
# What is past every number that a store counts up to.
_FAR = 2**63 - 1
# Postgres's driver takes them for minus and plus infinity.
_INFINITIES = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
_OURS = "mcpsession/"
_GAP = "mcpsession/gap"


def stream_id_of(stream: str) -> StreamId:
    """An application's stream among all of a session, in stores, bells and tails: no other one's id has a colon."""
    return f"a:{stream}"


def check_stream(stream: object) -> None:
    """Raises EventError for what is not the name of a stream."""
    if not isinstance(stream, str) or not _STREAM.fullmatch(stream):
        raise EventError("a stream's name has 1 to 64 letters, digits, or any of `_ - . :`")


def entry(data: object, id: str | None, type: str, timestamp: datetime | None) -> Entry:
    """An event on its way into the log; `checked` tells whether it can go there."""
    try:
        # ASCII: what it holds can be stored whatever the text is.
        text = json.dumps(data, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise EventError(f"its data must be a JSON value: {error}") from None
    return Entry(text, type, id, timestamp)


def checked(given: Entry, stream: str, max_bytes: int) -> tuple[Entry, Any]:
    """An entry as it is stored, and its data as whoever reads it gets it.

    Raises:
        EventError: its data is not JSON or nested too deeply; its id, type or timestamp cannot be one.
        LimitExceededError: it is larger than `max_bytes`.
        UnstorableTextError: no store can hold its id or type.
    """
    if not isinstance(given, Entry):
        raise EventError(f"entries are made with layer.events.entry(data, …), not of {given.__class__.__name__}")
    _check_id(given.id, stream)
    _check_type(given.type)
    if (size := len(given.data)) > max_bytes:
        raise LimitExceededError("max_event_bytes", max_bytes, size)
    try:
        data = json.loads(given.data, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise EventError(f"its data is not JSON: {error}") from None
    if is_deeper(data, given.data, _DEEPEST):
        raise EventError(f"its data is nested more than {_DEEPEST} levels deep")
    return replace(given, timestamp=_in_utc(given.timestamp)), data


def _check_id(id: object, stream: str) -> None:
    if id is None:
        return
    if not isinstance(id, str) or not 0 < len(id) <= _LONGEST:
        raise EventError(f"an event's own id is a text of 1 to {_LONGEST} characters, or None")
    check_text(id)
    if id.startswith(f"{stream}.") and id[len(stream) + 1 :].isdecimal():
        raise EventError("ids of the form <stream>.<number> are the log's own; choose another form")


def _check_type(type: object) -> None:
    if not isinstance(type, str) or not 0 < len(type) <= _LONGEST:
        raise EventError(f"an event's type is a text of 1 to {_LONGEST} characters")
    check_text(type)
    if type.startswith(_OURS):
        raise EventError(f"types that begin with {_OURS} are what the log itself tells its followers")


def _in_utc(timestamp: object) -> datetime | None:
    if timestamp is None:
        return None
    if not isinstance(timestamp, datetime) or timestamp.utcoffset() is None:
        raise EventError("a timestamp is a datetime with a time zone, or None: the store's clock")
    try:
        moment = timestamp.astimezone(UTC)
    except OverflowError:
        raise EventError("this timestamp does not exist in UTC") from None
    if moment in _INFINITIES:
        raise EventError("the first and the last moment that a datetime knows are no timestamps")
    return moment


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")


# Cursors


def place_of(after: object, stream: str) -> int | str:
    """What a cursor means: a number, or an application's id, which may be nobody's.

    Raises EventError for what is neither.
    """
    if after is None:
        return 0
    if isinstance(after, bool) or not isinstance(after, int | str) or (isinstance(after, int) and after < 0):
        raise EventError("a cursor is an event's id, or its number, or None for the oldest that is left")
    if isinstance(after, int):
        return min(after, _FAR)
    number = after[len(stream) + 1 :] if after.startswith(f"{stream}.") else ""
    if _NUMBER.fullmatch(number):
        return _FAR if len(number) > 18 else int(number)
    # It may come from a client. Whatever is longer than an id is nobody's, also when it is cut.
    return after[: _LONGEST + 1]


def missed(page: EntryPage, after: object, place: int | str) -> int | None:
    """How many events past the cursor are gone (0: nobody knows); None if none is."""
    if after is None:
        return None
    if isinstance(place, str):
        return None if page.known else 0
    return page.trimmed_seq - place if place < page.trimmed_seq else None


# Events


def event_of(stored: StoredEntry, stream: str) -> LoggedEvent:
    """What a reader gets."""
    return logged(stored, stream, json.loads(stored.data))


def logged(stored: StoredEntry, stream: str, data: object) -> LoggedEvent:
    """The same, with its data at hand."""
    id = id_of(stream, stored.seq) if stored.id is None else stored.id
    return LoggedEvent(id, stored.seq, stored.type, data, stored.timestamp, stream)


def id_of(stream: str, seq: int) -> str:
    """The id of an event that has none of the application's."""
    return f"{stream}.{seq}"


def gap_before(seq: int, stream: str, missed: int) -> EventGap:
    """What stands in the place of the events right before this number."""
    last = seq - 1
    return EventGap(id_of(stream, last), last, _GAP, None, datetime.now(UTC), stream, missed)


def replay_of(page: EntryPage, stream: str, after: object, place: int | str) -> Replay:
    """A page as the application gets it."""
    entries: Sequence[StoredEntry] = page.entries
    # All texts as one: a call of the parser costs as much as what is in most of them.
    values = json.loads(f"[{','.join([one.data for one in entries])}]")
    return Replay(
        events=[
            LoggedEvent(f"{stream}.{seq}" if id is None else id, seq, type, value, timestamp, stream)
            for (seq, _, type, id, timestamp), value in zip(entries, values, strict=True)
        ],
        gap=missed(page, after, place) is not None,
        first_retained=page.trimmed_seq + 1 if page.last_seq > page.trimmed_seq else None,
        last_seq=page.last_seq,
        more=bool(entries) and entries[-1].seq < page.last_seq,
    )

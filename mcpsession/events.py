"""`layer.events`: the application's own log of events, in streams that belong to a session.

Costs a short transaction an append, on whichever replica, and one statement a page of a replay. What is appended is
durable when the append returns; a bell then wakes those who follow, on all replicas.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from mcpsession.calling import call
from mcpsession.errors import EventError, LimitExceededError, SessionNotFoundError, StoreUnavailableError
from mcpsession.event_contracts import SessionEvents
from mcpsession.event_records import Entry, EventGap, EventStats, LoggedEvent, Replay, StoredEntry
from mcpsession.event_texts import check_stream, checked, entry, event_of, logged, place_of, replay_of, stream_id_of
from mcpsession.follower import Follower
from mcpsession.following import Following
from mcpsession.model import SessionId
from mcpsession.post_office import PostOffice
from mcpsession.settings import Settings
from mcpsession.telemetry import Telemetry
from mcpsession.texts import check_owner, check_session_id
from mcpsession.touches import Touches

logger = logging.getLogger(__name__)

EventHandler = Callable[[LoggedEvent], object]
"""A function of an event, sync (it runs in a thread) or async."""

_STREAM = "events"
_PAGE = 1000
_MOST_ENTRIES = 10_000
_MOST_BYTES = 64 * 1024 * 1024
_IN_PARTS = "append them in several calls"


class Events:
    """Streams of events, each numbered 1, 2, 3, … in the order of the commits, whichever replica appends.

    A stream begins with its first event, keeps the newest `max_events` within `max_replay_bytes`, and goes with its
    session, also to a new id. As `layer.events` it is about the sessions of all owners; `of(owner)` is about one
    owner's only, and to it another owner's session is one that never was.
    """

    def __init__(
        self,
        store: SessionEvents,
        settings: Settings,
        following: Following,
        post_office: PostOffice,
        touches: Touches,
        *,
        telemetry: Telemetry,
        owner: str | None = None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._following = following
        self._post_office = post_office
        self._touches = touches
        self._telemetry = telemetry
        self._owner = owner

    def __repr__(self) -> str:
        return f"<Events: {len(self._following)} follow in this replica>"

    def of(self, owner: str) -> Events:
        """The events of one owner's sessions; of the anonymous, for an empty one.

        Raises TypeError for what is no text: a user that is missing must not become everybody.
        """
        check_owner(owner, "events")
        return Events(
            self._store,
            self._settings,
            self._following,
            self._post_office,
            self._touches,
            telemetry=self._telemetry,
            owner=owner,
        )

    # Writing

    async def append(
        self,
        session_id: SessionId,
        data: Any,
        *,
        id: str | None = None,
        type: str = "message",
        timestamp: datetime | None = None,
        stream: str = _STREAM,
    ) -> LoggedEvent:
        """Add an event to a stream of a live session; durable when it returns, and activity of the session.

        `data` is any JSON value. With an `id` of the application's own, saying it again is safe: as long as the log has
        the event, nothing is added, and the one that is there is returned. `timestamp`: when it happened; None: now, by
        the store's clock.

        Raises:
            SessionNotFoundError: no live session has this id.
            EventError: data is not JSON (nor is NaN), or nested more than 200 levels deep; id, type, timestamp or
                stream cannot be one. Nothing was stored; nor by the next two.
            LimitExceededError: data has more than `max_event_bytes` as JSON text.
            UnstorableTextError: no store can hold the id or type.
            StoreUnavailableError: it may have been stored, or not; with an id, say it again.
        """
        [event] = await self._append(session_id, [entry(data, id, type, timestamp)], stream)
        return event

    async def append_many(
        self, session_id: SessionId, entries: Iterable[Entry], *, stream: str = _STREAM
    ) -> Sequence[LoggedEvent]:
        """Add several, in order, all or none: `[layer.events.entry({"n": n}) for n in range(3)]`.

        At most 10,000, or 64 MiB. Raises what `append` raises.
        """
        return await self._append(session_id, [*entries], stream)

    def entry(
        self, data: Any, *, id: str | None = None, type: str = "message", timestamp: datetime | None = None
    ) -> Entry:
        """An event for `append_many`, with the arguments of `append`. It is nowhere yet.

        Raises EventError if data is not JSON.
        """
        return entry(data, id, type, timestamp)

    # Reading

    async def replay(
        self, session_id: SessionId, after: int | str | None = None, *, stream: str = _STREAM, limit: int = _PAGE
    ) -> Replay:
        """The events past a cursor, oldest first, at most `limit` and about a MiB; touches nothing.

        `after`: an event's id (the application's or the log's), or its number; None: from the oldest that is left. Past
        a number that is not there yet there is nothing, and no gap. If something past the cursor is gone, or the cursor
        is of another stream or session, or of nothing, `gap` is True, and these are the oldest that are left.

        Raises:
            SessionNotFoundError: no live session has this id; so also after its end.
            EventError: the cursor, limit or stream cannot be one. Any text can be a cursor.
        """
        check_session_id(session_id)
        check_stream(stream)
        place = place_of(after, stream)
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise EventError(f"limit={limit!r:.60} is not allowed: a whole number of at least 1")
        page = await self._store.read(session_id, stream, place, min(limit, _MOST_ENTRIES), owner=self._owner)
        if page is None:
            raise SessionNotFoundError(session_id)
        return replay_of(page, stream, after, place)

    def follow(self, session_id: SessionId, after: int | str | None = None, *, stream: str = _STREAM) -> Follower:
        """The events past a cursor, as for `replay`, then what is appended from then on, on any replica.

            async with layer.events.follow(session.id) as events:
                async for event in events: ...

        Each once, in order, none left out. Where some are gone (`max_events`), or the cursor is nobody's, an `EventGap`
        stands in their place. It ends with the session. It goes on when the store was away, a listener died, or this
        replica goes on under a new id. To follow is no activity: the session may expire.

        Raises EventError for a cursor or stream that cannot be one; when it is entered, SessionNotFoundError,
        StoreUnavailableError, and LayerClosedError.
        """
        check_session_id(session_id)
        check_stream(stream)
        return Follower(self._following, session_id, stream, after, owner=self._owner)

    async def push(
        self,
        session_id: SessionId,
        handler: EventHandler,
        after: int | str | None = None,
        *,
        stream: str = _STREAM,
        live: bool = True,
    ) -> int:
        """Call `handler` with each event that `follow` gives, one after the other; returns how many it took.

        It ends with the session; when the handler raises, or takes longer than `handler_timeout`, which is logged; and,
        if not `live`, with the event that was the newest when it began. A gap is handed over, too, and not counted.

        Raises what `follow` raises, TypeError for what cannot be called; not what the handler raises.
        """
        if not callable(handler):
            raise TypeError(f"a handler is a function of an event, sync or async, not {handler!r}")
        taken = 0
        async with self.follow(session_id, after, stream=stream) as events:
            while live or events.position < events.newest:
                event = await anext(events, None)
                if event is None or not await self._hand_over(handler, event):
                    break
                taken += not isinstance(event, EventGap)
        return taken

    async def stats(self, session_id: SessionId | None = None) -> EventStats:
        """What the streams of a live session hold, or those of all: the application's, the calls', the standalone ones.

        Looks at every row: for people, not for requests.
        """
        if session_id is not None:
            check_session_id(session_id)
        return await self._store.stats(session_id, owner=self._owner)

    # What they are made of

    async def _append(self, session_id: SessionId, given: Sequence[Entry], stream: str) -> list[LoggedEvent]:
        check_session_id(session_id)
        check_stream(stream)
        if len(given) > _MOST_ENTRIES:
            raise LimitExceededError("entries", _MOST_ENTRIES, len(given), remedy=_IN_PARTS)
        ready = [checked(one, stream, self._settings.max_event_bytes) for one in given]
        if (size := sum(len(one.data) for one, _ in ready)) > _MOST_BYTES:
            raise LimitExceededError("bytes of entries", _MOST_BYTES, size, remedy=_IN_PARTS)
        if not ready:
            return []
        appended = await self._store.append(session_id, stream, [one for one, _ in ready], owner=self._owner)
        if appended is None:
            raise SessionNotFoundError(session_id)
        if appended.added:
            self._telemetry.count("mcpsession_appended_events_total", appended.added)
            for replica in appended.followers:
                self._post_office.ring_stream(replica, session_id, stream_id_of(stream))
        await self._touch(session_id, appended.remaining)
        # Of one that was said twice in this call, the first is what is there.
        events: dict[int, LoggedEvent] = {}
        for (one, data), seq in zip(ready, appended.numbers, strict=True):
            timestamp = one.timestamp or appended.stored_at or datetime.now(UTC)
            events.setdefault(seq, logged(StoredEntry(seq, one.data, one.type, one.id, timestamp), stream, data))
        if known := {seq for seq in events if seq <= max(events) - appended.added}:
            events |= await self._known(session_id, stream, known)
        return [events[seq] for seq in appended.numbers]

    async def _known(self, session_id: SessionId, stream: str, known: set[int]) -> dict[int, LoggedEvent]:
        """Events that were there before, by number, as far as they still are."""
        found: dict[int, LoggedEvent] = {}
        after, newest = min(known) - 1, max(known)
        try:
            while after < newest:
                page = await self._store.read(session_id, stream, after, _PAGE, owner=self._owner)
                if page is None or not page.entries:
                    break
                found |= {one.seq: event_of(one, stream) for one in page.entries if one.seq in known}
                after = page.entries[-1].seq
        except StoreUnavailableError:
            # Their numbers are certain, and most probably they say the same.
            logger.debug("events that were there before could not be read", exc_info=True)
        return found

    async def _touch(self, session_id: SessionId, remaining: float | None) -> None:
        self._touches.note(session_id)
        # Near its end the collected touch could come too late.
        if remaining is not None and remaining < self._settings.touch_flush:
            try:
                await self._touches.touch(session_id)
            except StoreUnavailableError:
                self._touches.note(session_id)

    async def _hand_over(self, handler: EventHandler, event: LoggedEvent) -> bool:
        return await call(
            handler,
            event,
            at_most=self._settings.handler_timeout,
            what="event handler",
            then=f"no more events are pushed to it after {event.seq - 1}",
            logger=logger,
        )

"""The rows that Postgres keeps, as Python objects."""

from __future__ import annotations

import json
import math
import time
from bisect import bisect_right
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

from mcpsession.model import ControlMessage, Mail, NewEvent, ReplicaId, SessionId, StreamId
from mcpsession.records import EndReason, Session

StreamKind = Literal["request", "standalone", "application", "tracked"]


class Moment(NamedTuple):
    """A point in time on two clocks: what expires is compared on the monotonic one, the other is for display."""

    tick: float
    time: datetime | None

    @classmethod
    def now(cls) -> Moment:
        return cls(time.monotonic(), datetime.now(UTC))

    def later(self, seconds: float | None) -> Moment:
        """So many seconds later, or never (None)."""
        if seconds is None or self.time is None:
            return NEVER
        try:
            shown = self.time + timedelta(seconds=seconds)
        except OverflowError:
            shown = datetime.max.replace(tzinfo=UTC)
        return Moment(self.tick + seconds, shown)


NEVER = Moment(math.inf, None)


@dataclass(slots=True, eq=False)
class SessionRow:
    """`session` has what seldom changes; the other fields, and not its own, tell the rest."""

    session: Session
    metadata: str
    state: str
    active: Moment
    expires: Moment
    ended: Moment | None = None
    claimed_by: ReplicaId | None = None
    initializer: str | None = None
    lease_ends: float = -math.inf

    def is_live(self, now: float) -> bool:
        """The one predicate."""
        return self.session.status == "live" and self.claimed_by is None and self.expires.tick > now

    def is_initializing(self, now: float) -> bool:
        return self.initializer is not None and self.lease_ends > now

    def remaining(self) -> float | None:
        """Seconds left to live; None: for ever."""
        return None if self.expires is NEVER else max(0.0, self.expires.tick - time.monotonic())

    def end(self, reason: EndReason, now: Moment) -> None:
        self.session = replace(
            self.session, status="terminated" if reason == "terminated" else "removed", end_reason=reason
        )
        self.ended = self.expires = now

    def record(self, *, with_state: bool = True, event_count: int | None = None) -> Session:
        """A live session as it is told of."""
        return replace(
            self.session,
            initializing=self.is_initializing(time.monotonic()),
            metadata=json.loads(self.metadata),
            state=json.loads(self.state) if with_state else {},
            remaining=self.remaining(),
            last_active_at=self.active.time,
            expires_at=self.expires.time,
            ended_at=None if self.ended is None else self.ended.time,
            event_count=event_count,
        )

    def last_record(self, *, event_count: int | None = None) -> Session:
        """A dead session as it is told of: one that was not ended has expired."""
        record = replace(self.record(event_count=event_count), remaining=0.0)
        return replace(record, status="expired", end_reason="expired") if record.status == "live" else record


@dataclass(slots=True, eq=False)
class EventRow:
    """The last three are of the application's own events only."""

    seq: int
    message: str
    request_of: ReplicaId | None = None
    type: str | None = None
    own_id: str | None = None
    happened_at: datetime | None = None

    @property
    def size(self) -> int:
        return len(self.message) if self.message.isascii() else len(self.message.encode())


@dataclass(slots=True, eq=False)
class StreamRow:
    session_id: SessionId
    id: StreamId
    request_ids: tuple[str, ...] = ()
    answered_ids: set[str] = field(default_factory=set)
    producer: ReplicaId | None = None
    reader: ReplicaId | None = None
    last_seq: int = 0
    events: list[EventRow] = field(default_factory=list)
    finished: bool = False
    taken_over: bool = False
    expires_at: float | None = None
    holder: ReplicaId | None = None
    previous_holder: ReplicaId | None = None
    holder_epoch: int = 0
    released_epoch: int = 0
    takes: list[float] = field(default_factory=list)
    delivered_seq: int = 0
    delivered_news: str = ""
    kind: StreamKind = "request"
    method: str = ""
    began: Moment = field(default_factory=Moment.now)
    trimmed_seq: int = 0
    bytes: int = 0
    followers: list[ReplicaId] = field(default_factory=list)
    own_ids: dict[str, int] = field(default_factory=dict)
    """The numbers of the events that have an id of the application's."""

    def append(self, event: NewEvent) -> None:
        self.add(EventRow(self.last_seq + 1, event.message, event.request_of))
        if event.answers is not None:
            self.answered_ids.add(event.answers)

    def add(self, event: EventRow) -> None:
        self.last_seq = event.seq
        self.bytes += event.size
        self.events.append(event)
        if event.own_id is not None:
            self.own_ids[event.own_id] = event.seq

    def trim(self, max_events: int, max_bytes: int) -> None:
        """Let the oldest go until it holds no more than that; the newest stays."""
        count, size = len(self.events), self.bytes
        for event in self.events[:-1]:
            if count <= max_events and size <= max_bytes:
                break
            count, size = count - 1, size - event.size
        self._drop(len(self.events) - count)

    def trim_to(self, seq: int) -> None:
        """Let the events up to this one go."""
        self._drop(bisect_right(self.events, seq, key=lambda event: event.seq))

    def _drop(self, count: int) -> None:
        gone, self.events = self.events[:count], self.events[count:]
        for event in gone:
            self.trimmed_seq = event.seq
            self.bytes -= event.size
            if event.own_id is not None:
                del self.own_ids[event.own_id]

    def has_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= time.monotonic()


@dataclass(slots=True, eq=False)
class MailRow:
    mail: Mail
    expires_at: float
    posted_at: float
    """By the clock that positions tell."""
    uri: str | None = None
    newest_of: str | None = None


@dataclass(slots=True, eq=False)
class ControlRow:
    message: ControlMessage
    mark: str
    expires_at: float = math.inf

    def is_newest(self) -> bool:
        """Whether no later one of its method and key has replaced it."""
        return self.expires_at == math.inf


@dataclass(slots=True, eq=False)
class ReplicaRow:
    beats: int = 0
    dead_at: float | None = None

"""What the memory backend shares: the rows that Postgres keeps, as Python objects behind one lock.

The lock is there because the heartbeat beats in a thread of its own. It is held for single method calls, which never
await: that makes each of them atomic.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count

from mcpsession.errors import StoreError
from mcpsession.model import STANDALONE, Mail, NewEvent, ReplicaId, Session, SessionId, StreamId
from mcpsession.settings import Settings


def utc_now() -> datetime:
    """The time for display; what expires is compared on the monotonic clock."""
    return datetime.now(UTC)


@dataclass(slots=True, eq=False)
class SessionRow:
    session: Session
    expires_at: float
    last_active_at: datetime
    terminated: bool = False
    claimed_by: ReplicaId | None = None
    state: str = "{}"
    version: int = 1


@dataclass(slots=True, eq=False)
class EventRow:
    seq: int
    message: str
    request_of: ReplicaId | None


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

    def append(self, event: NewEvent) -> None:
        self.last_seq += 1
        self.events.append(EventRow(self.last_seq, event.message, event.request_of))
        if event.answers is not None:
            self.answered_ids.add(event.answers)


@dataclass(slots=True, eq=False)
class MailRow:
    mail: Mail
    expires_at: float


@dataclass(slots=True, eq=False)
class ReplicaRow:
    beats: int = 0
    dead_at: float | None = None


class Tables:
    """All rows of one namespace. Whoever reads or writes them holds the lock."""

    def __init__(self, settings: Settings) -> None:
        self.lock = threading.Lock()
        self.sessions: dict[SessionId, SessionRow] = {}
        self.streams: dict[SessionId, dict[StreamId, StreamRow]] = {}
        # The unfinished request streams by what makes them unique: no two of a session answer the same requests.
        self.running: dict[tuple[SessionId, tuple[str, ...]], StreamRow] = {}
        self.expiring: list[tuple[float, int, StreamRow]] = []
        self.inboxes: dict[int, MailRow] = {}
        self.broadcasts: list[MailRow] = []
        self.replicas: dict[ReplicaId, ReplicaRow] = {}
        # Transactions are numbered on from the clock, so that a position of an earlier process is known as such.
        self.first_xid = self.next_xid = time.time_ns() // 1000
        self.reaped_xid = 0
        self._mail_ids = count(1)
        self._ties = count()
        self._stream_ttl = settings.stream_ttl
        self._mail_ttl = settings.mail_ttl

    def live(self, session_id: SessionId) -> SessionRow | None:
        """The session if it lives: the one predicate."""
        row = self.sessions.get(session_id)
        if row is None or row.terminated or row.claimed_by is not None or row.expires_at <= time.monotonic():
            return None
        return row

    def standalone(self, session_id: SessionId) -> StreamRow | None:
        """The open standalone stream of a session that lives."""
        row = self.streams[session_id].get(STANDALONE) if self.live(session_id) else None
        return row if row is not None and not row.finished else None

    def stream(self, session_id: SessionId, stream_id: StreamId) -> StreamRow | None:
        """A stream that has not expired."""
        row = self.streams.get(session_id, {}).get(stream_id)
        return row if row is not None and (row.expires_at is None or row.expires_at > time.monotonic()) else None

    def enter(self, stream: StreamRow) -> None:
        self.streams.setdefault(stream.session_id, {})[stream.id] = stream

    def finish(self, stream: StreamRow, *, ttl: float | None = None) -> None:
        """End a stream: from now on its ttl runs."""
        if self.running.get(key := (stream.session_id, stream.request_ids)) is stream:
            del self.running[key]
        stream.finished = True
        stream.expires_at = time.monotonic() + (self._stream_ttl if ttl is None else ttl)
        heapq.heappush(self.expiring, (stream.expires_at, next(self._ties), stream))

    def is_dead(self, replica: ReplicaId | None) -> bool:
        """Whether a replica is recorded dead, or so long ago that the record is gone."""
        row = self.replicas.get(replica) if replica is not None else None
        return row is None or row.dead_at is not None

    def post(self, *mails: Mail) -> int:
        """Keep mail as one transaction; returns the last one's id."""
        xid, self.next_xid = self.next_xid, self.next_xid + 1
        mail_id = 0
        for mail in mails:
            mail_id = next(self._mail_ids)
            stored = Mail(mail.kind, mail.sender, mail.recipient, mail.session_id, mail.body, mail_id, xid)
            row = MailRow(stored, time.monotonic() + self._mail_ttl)
            if mail.recipient is None:
                self.broadcasts.append(row)
            else:
                self.inboxes[mail_id] = row
        return mail_id


def check_texts(events: Iterable[NewEvent]) -> None:
    """Refuse what Postgres would: what is stored here must be storable there.

    Raises StoreError for a NUL character or a lone surrogate.
    """
    for event in events:
        if "\x00" in event.message:
            raise StoreError("text with a NUL character", "22021")
        if not event.message.isascii():
            try:
                event.message.encode()
            except UnicodeEncodeError as error:
                raise StoreError("text with a lone surrogate", "22021") from error

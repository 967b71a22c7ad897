"""What the memory backend shares: the rows that Postgres keeps, as Python objects behind one lock.

The lock is there because the heartbeat beats in a thread of its own. It is held for single method calls, which never
await: that makes each of them atomic.
"""

from __future__ import annotations

import heapq
import threading
import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import count

from mcpsession.errors import StoreError
from mcpsession.memory.rows import ControlRow, MailRow, ReplicaRow, SessionRow, StreamRow
from mcpsession.model import STANDALONE, Mail, NewEvent, ReplicaId, SessionId, StreamId
from mcpsession.settings import Settings
from mcpsession.texts import fault_of


class Tables:
    """All rows of one namespace. Whoever reads or writes them holds the lock."""

    def __init__(self, settings: Settings) -> None:
        self.lock = threading.Lock()
        self.sessions: dict[SessionId, SessionRow] = {}
        # Their ids in order, for pages.
        self.session_ids: list[SessionId] = []
        self.streams: dict[SessionId, dict[StreamId, StreamRow]] = {}
        # The unfinished request streams and what is tracked, by what makes them unique: no two of a session answer the
        # same requests.
        self.running: dict[tuple[SessionId, tuple[str, ...]], StreamRow] = {}
        self.expiring: list[tuple[float, int, StreamRow]] = []
        self.subscriptions: dict[SessionId, set[str]] = {}
        self.subscribers: dict[str, set[SessionId]] = {}
        self.inboxes: dict[int, MailRow] = {}
        self.broadcasts: list[MailRow] = []
        self.replicas: dict[ReplicaId, ReplicaRow] = {}
        # In order of their versions, and by method and key those that nothing has replaced.
        self.control: list[ControlRow] = []
        self.control_newest: dict[tuple[str, str], ControlRow] = {}
        self.control_head = 0
        # Transactions are numbered on from the clock, so that a position of an earlier process is known as such.
        self.first_xid = self.next_xid = time.time_ns() // 1000
        self.reaped_xid = 0
        self._mail_ids = count(1)
        self._ties = count()
        self._stream_ttl = settings.stream_ttl
        self._mail_ttl = settings.mail_ttl
        self._tombstone_ttl = settings.tombstone_ttl

    # Sessions

    def live(self, session_id: SessionId, owner: str | None = None) -> SessionRow | None:
        """The session if it lives, and is of this owner if one is given."""
        row = self.sessions.get(session_id)
        if row is None or not row.is_live(time.monotonic()) or owner not in (None, row.session.owner):
            return None
        return row

    def living(self) -> Iterator[SessionRow]:
        now = time.monotonic()
        return (row for row in self.sessions.values() if row.is_live(now))

    def living_after(self, session_id: SessionId) -> Iterator[SessionRow]:
        """Those that live with ids past this one, in order of their ids."""
        now, ids = time.monotonic(), self.session_ids
        rows = (self.sessions[ids[place]] for place in range(bisect_right(ids, session_id), len(ids)))
        return (row for row in rows if row.is_live(now))

    def insert(self, row: SessionRow) -> None:
        """Enter a session in place of a dead one; nothing that belonged to that one stays."""
        self.delete(row.session.id)
        self.sessions[row.session.id] = row
        insort(self.session_ids, row.session.id)

    def delete(self, session_id: SessionId) -> None:
        """Remove a session, if there is one, with all that belongs to it."""
        self.strip(session_id)
        if self.sessions.pop(session_id, None) is not None:
            del self.session_ids[bisect_left(self.session_ids, session_id)]

    def strip(self, session_id: SessionId) -> None:
        """Remove streams, events and subscriptions of a session."""
        for stream in self.streams.pop(session_id, {}).values():
            self._stop(stream)
        for uri in self.subscriptions.pop(session_id, ()):
            self._unlink(session_id, uri)

    def is_tombstone(self, row: SessionRow) -> bool:
        """Whether a session was terminated so short a time ago that its id is blocked."""
        if row.session.status != "terminated" or row.ended is None:
            return False
        return row.ended.tick + self._tombstone_ttl > time.monotonic()

    def entomb(self, row: SessionRow) -> None:
        """Leave a tombstone of a terminated session, and nothing else."""
        self.strip(row.session.id)
        row.session = replace(row.session, client_params=None)
        row.metadata = row.state = "{}"
        row.claimed_by = None
        if row.ended is not None:
            row.expires = row.ended.later(self._tombstone_ttl)

    def move(self, old: SessionId, new: SessionId) -> None:
        """Give streams, events and subscriptions of one session to another, which has none."""
        for stream in (streams := self.streams.pop(old, {})).values():
            running = self._stop(stream)
            stream.session_id = new
            # The holder and the followers hear that the old session ended; nobody waits for them.
            stream.holder, stream.released_epoch = None, stream.holder_epoch
            stream.followers = []
            if running:
                self.running[new, stream.request_ids] = stream
        self.streams[new] = streams
        for uri in (uris := self.subscriptions.pop(old, set())):
            self._unlink(old, uri)
            self.subscribers.setdefault(uri, set()).add(new)
        if uris:
            self.subscriptions[new] = uris

    # Subscriptions

    def link(self, session_id: SessionId, uri: str) -> None:
        self.subscriptions.setdefault(session_id, set()).add(uri)
        self.subscribers.setdefault(uri, set()).add(session_id)

    def unlink(self, session_id: SessionId, uri: str) -> bool:
        uris = self.subscriptions.get(session_id, set())
        if uri not in uris:
            return False
        uris.remove(uri)
        if not uris:
            del self.subscriptions[session_id]
        self._unlink(session_id, uri)
        return True

    def _unlink(self, session_id: SessionId, uri: str) -> None:
        subscribers = self.subscribers[uri]
        subscribers.remove(session_id)
        if not subscribers:
            del self.subscribers[uri]

    # Streams

    def standalone(self, session_id: SessionId) -> StreamRow | None:
        """The open standalone stream of a session that lives."""
        row = self.streams[session_id].get(STANDALONE) if self.live(session_id) else None
        return row if row is not None and not row.finished else None

    def holder(self, session_id: SessionId) -> ReplicaId | None:
        """The living replica that holds the standalone stream of a session that lives."""
        row = self.standalone(session_id)
        if row is None or row.released_epoch >= row.holder_epoch or self.is_dead(row.holder):
            return None
        return row.holder

    def stream(self, session_id: SessionId, stream_id: StreamId) -> StreamRow | None:
        """A stream that has not expired."""
        row = self.streams.get(session_id, {}).get(stream_id)
        return None if row is None or row.has_expired() else row

    def streams_of(self, session_id: SessionId) -> Iterator[StreamRow]:
        """Those of a session that have not expired."""
        return (row for row in self.streams.get(session_id, {}).values() if not row.has_expired())

    def twin(self, session_id: SessionId, request_ids: tuple[str, ...]) -> StreamRow | None:
        """What runs with these request ids; what is over, and was not swept yet, is not in the way."""
        row = self.running.get((session_id, request_ids))
        if row is not None and self.is_over(row):
            self.discard(row)
            return None
        return row

    def is_over(self, stream: StreamRow) -> bool:
        """Whether it is a tracked request whose time has passed, or whose replica is dead."""
        return stream.kind == "tracked" and (stream.has_expired() or self.is_dead(stream.producer))

    def enter(self, stream: StreamRow) -> None:
        self.streams.setdefault(stream.session_id, {})[stream.id] = stream

    def finish(self, stream: StreamRow, *, ttl: float | None = None) -> None:
        """End a stream: from now on its ttl runs."""
        self._stop(stream)
        stream.finished = True
        stream.expires_at = time.monotonic() + (self._stream_ttl if ttl is None else ttl)
        heapq.heappush(self.expiring, (stream.expires_at, next(self._ties), stream))

    def run(self, stream: StreamRow) -> None:
        """Enter a stream as one that runs."""
        self.enter(stream)
        self.running[stream.session_id, stream.request_ids] = stream
        if stream.expires_at is not None:
            heapq.heappush(self.expiring, (stream.expires_at, next(self._ties), stream))

    def discard(self, stream: StreamRow) -> None:
        """Remove one stream."""
        self._stop(stream)
        streams = self.streams[stream.session_id]
        del streams[stream.id]
        if not streams and stream.session_id not in self.sessions:
            del self.streams[stream.session_id]

    def _stop(self, stream: StreamRow) -> bool:
        """Take a stream from those that run; False if it was none of them."""
        if is_running := self.running.get(key := (stream.session_id, stream.request_ids)) is stream:
            del self.running[key]
        return is_running

    # Replicas and their mail

    def is_dead(self, replica: ReplicaId | None) -> bool:
        """Whether a replica is recorded dead, or so long ago that the record is gone."""
        row = self.replicas.get(replica) if replica is not None else None
        return row is None or row.dead_at is not None

    def alive(self) -> tuple[ReplicaId, ...]:
        """The replicas that are not recorded dead, sorted."""
        return tuple(sorted(replica for replica, row in self.replicas.items() if row.dead_at is None))

    def post(self, *mails: Mail, uri: str | None = None, newest_of: str | None = None) -> int:
        """Keep mail as one transaction; returns the last one's id."""
        xid, self.next_xid = self.next_xid, self.next_xid + 1
        expires_at, posted_at = time.monotonic() + self._mail_ttl, time.time()
        mail_id = 0
        for mail in mails:
            mail_id = next(self._mail_ids)
            row = MailRow(replace(mail, id=mail_id, xid=xid), expires_at, posted_at, uri, newest_of)
            if mail.recipient is None:
                self.broadcasts.append(row)
            else:
                self.inboxes[mail_id] = row
        return mail_id

    def readdress(self, old: SessionId, new: SessionId, incarnation: int) -> None:
        """Have the news for one session be for another."""
        for row in self.broadcasts:
            if row.mail.kind == "news" and row.mail.session_id == old:
                row.mail = replace(row.mail, session_id=new, incarnation=incarnation)


def check_messages(events: Iterable[NewEvent]) -> None:
    """Refuse messages as Postgres would.

    Raises StoreError for a NUL character or a lone surrogate.
    """
    check_texts(*(event.message for event in events))


def check_texts(*texts: str | None) -> None:
    """Refuse what Postgres would: what is stored here must be storable there.

    Raises StoreError for a NUL character or a lone surrogate.
    """
    for text in texts:
        if text is not None and (fault := fault_of(text)):
            raise StoreError(f"text that cannot be stored: {fault}", "22021")

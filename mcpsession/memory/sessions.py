"""Sessions in memory: one row each, changed under the lock."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice

from mcpsession.errors import SessionExistsError
from mcpsession.memory.mail import position_of
from mcpsession.memory.tables import SessionRow, StreamRow, Tables, check_texts, utc_now
from mcpsession.model import STANDALONE, Mail, OpenedStream, ReplicaId, Session, SessionId, Termination
from mcpsession.settings import Settings


class MemorySessions:
    """SessionStore over a dictionary."""

    def __init__(self, tables: Tables, settings: Settings) -> None:
        self._tables = tables
        self._settings = settings

    async def create(self, session: Session, opening: OpenedStream | None) -> None:
        check_texts(opening.events if opening else ())
        # The metadata goes through JSON, as in any other store: what is kept is a copy.
        metadata = json.loads(json.dumps(dict(session.metadata)))
        with self._tables.lock:
            if session.id in self._tables.sessions:
                raise SessionExistsError(session.id)
            now, expires_at = utc_now(), math.inf
            if session.ttl is not None:
                expires_at = time.monotonic() + session.ttl + self._settings.slack
            stored = replace(session, metadata=metadata, remaining=None, created_at=now, status="live")
            self._tables.sessions[session.id] = SessionRow(stored, expires_at, now)
            self._tables.enter(StreamRow(session.id, STANDALONE, delivered_news=position_of(self._tables)))
            if opening is not None:
                answered = set(opening.request_ids)
                stream = StreamRow(session.id, opening.stream_id, opening.request_ids, answered)
                for event in opening.events:
                    stream.append(event)
                self._tables.enter(stream)
                self._tables.finish(stream)

    async def get(self, session_id: SessionId) -> Session | None:
        with self._tables.lock:
            row = self._tables.live(session_id)
            if row is None:
                return None
            metadata = json.loads(json.dumps(dict(row.session.metadata)))
            return replace(row.session, metadata=metadata, remaining=_remaining(row), last_active_at=row.last_active_at)

    async def count(self, limit: int) -> int:
        with self._tables.lock:
            living = (session_id for session_id in self._tables.sessions if self._tables.live(session_id))
            return sum(1 for _ in islice(living, limit))

    async def mark_initialized(self, session_id: SessionId) -> bool:
        with self._tables.lock:
            if row := self._tables.live(session_id):
                row.session = replace(row.session, initialized=True)
            return row is not None

    async def set_log_level(self, session_id: SessionId, level: str, *, sender: ReplicaId) -> bool:
        with self._tables.lock:
            if row := self._tables.live(session_id):
                row.session = replace(row.session, log_level=level)
                self._tables.post(Mail("changed", sender, session_id=session_id))
            return row is not None

    async def touch(self, session_ids: Sequence[SessionId]) -> Mapping[SessionId, float | None]:
        touched: dict[SessionId, float | None] = {}
        with self._tables.lock:
            for session_id in session_ids:
                if row := self._tables.live(session_id):
                    self._extend(row)
                    touched[session_id] = _remaining(row)
        return touched

    def _extend(self, row: SessionRow) -> None:
        row.last_active_at = utc_now()
        ttl = row.session.ttl
        if ttl is not None:
            longest = time.monotonic() + ttl + self._settings.slack
            if row.expires_at <= longest - min(ttl / 10, self._settings.touch_step):
                row.expires_at = longest

    async def terminate(self, session_id: SessionId, owner: str, *, sender: ReplicaId) -> Termination | None:
        with self._tables.lock:
            row = self._tables.live(session_id)
            if row is None or row.session.owner != owner:
                return None
            row.terminated, row.state = True, "{}"
            row.expires_at = time.monotonic() + self._settings.tombstone_ttl
            if standalone := self._tables.stream(session_id, STANDALONE):
                self._tables.finish(standalone, ttl=0)
            mail_id = self._tables.post(Mail("ended", sender, session_id=session_id))
            living = sorted(replica for replica in self._tables.replicas if not self._tables.is_dead(replica))
            return Termination(mail_id, tuple(living))

    async def load_state(self, session_id: SessionId) -> tuple[int, str] | None:
        with self._tables.lock:
            row = self._tables.live(session_id)
            return None if row is None else (row.version, row.state)

    async def save_state(self, session_id: SessionId, version: int, state: str) -> int | None:
        with self._tables.lock:
            row = self._tables.live(session_id)
            if row is None or row.version != version:
                return None
            row.state, row.version = state, version + 1
            return row.version


def _remaining(row: SessionRow) -> float | None:
    return None if row.session.ttl is None else row.expires_at - time.monotonic()

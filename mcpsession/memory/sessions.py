"""Sessions in memory: one row each, changed under the lock."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from mcpsession.errors import LimitExceededError, SessionExistsError, UnhandledError
from mcpsession.memory.mail import position_of
from mcpsession.memory.rows import NEVER, Moment, SessionRow, StreamRow
from mcpsession.memory.tables import Tables, check_messages, check_texts
from mcpsession.model import STANDALONE, Mail, OpenedStream, ReplicaId, SessionId
from mcpsession.records import Admission, Change, Ended, EndReason, Session, Unchanged, new_incarnation
from mcpsession.settings import Settings


class MemorySessions:
    """SessionStore over a dictionary. `create` with limits costs a look at every session."""

    def __init__(self, tables: Tables, settings: Settings) -> None:
        self._tables = tables
        self._settings = settings

    async def create(
        self,
        sessions: Sequence[Session],
        opening: OpenedStream | None = None,
        *,
        admission: Admission,
        handled: bool = False,
    ) -> Sequence[Session]:
        check_messages(opening.events if opening else ())
        for session in sessions:
            check_texts(session.id, session.owner, session.transport, session.protocol_version)
            check_texts(session.client_params, session.failure, session.log_level)
        with self._tables.lock:
            now = Moment.now()
            rows = [self._row(session, now) for session in sessions]
            self._check_free(sessions, now, handled=handled)
            self._check_admission(sessions, admission)
            for row in rows:
                self._tables.insert(row)
                news = position_of(self._tables)
                self._tables.enter(StreamRow(row.session.id, STANDALONE, kind="standalone", delivered_news=news))
            if opening is not None:
                self._enter_opening(sessions[0].id, opening)
            event_count = len(opening.events) if opening else 0
            return [row.record(event_count=event_count) for row in rows]

    def _row(self, session: Session, now: Moment) -> SessionRow:
        # Metadata and state go through JSON, as in any other store: what is kept is a copy.
        stored = Session(
            id=session.id,
            owner=session.owner,
            namespace=self._settings.namespace,
            incarnation=session.incarnation,
            transport=session.transport,
            protocol_version=session.protocol_version,
            client_params=session.client_params,
            initialized=session.initialized,
            failure=session.failure,
            version=session.version,
            log_level=session.log_level,
            ttl=session.ttl,
            created_at=now.time,
        )
        metadata, state = json.dumps(dict(session.metadata)), json.dumps(dict(session.state))
        return SessionRow(stored, metadata, state, active=now, expires=self._end_of_life(session.ttl, now))

    def _end_of_life(self, ttl: float | None, now: Moment) -> Moment:
        return NEVER if ttl is None else now.later(self._settings.lifetime(ttl))

    def _check_free(self, sessions: Sequence[Session], now: Moment, *, handled: bool) -> None:
        found: dict[SessionId, SessionRow | None] = {}
        for session in sessions:
            row = self._tables.sessions.get(session.id)
            is_taken = row is not None and (row.is_live(now.tick) or self._tables.is_tombstone(row))
            if is_taken or session.id in found:
                raise SessionExistsError(session.id)
            found[session.id] = row
        unhandled = [session_id for session_id, row in found.items() if row is not None and self._is_unhandled(row)]
        if handled and unhandled:
            raise UnhandledError(unhandled)

    def _is_unhandled(self, row: SessionRow) -> bool:
        """Whether expiry handlers are still to run: nobody has claimed it, or the claimant died with them."""
        if row.claimed_by is None:
            return row.session.status == "live"
        return self._tables.is_dead(row.claimed_by)

    def _check_admission(self, sessions: Sequence[Session], admission: Admission) -> None:
        most, most_per_owner = admission.max_sessions, admission.max_per_owner
        if most is None and most_per_owner is None:
            return
        living = Counter(row.session.owner for row in self._tables.living())
        if most is not None and living.total() + len(sessions) > most:
            raise LimitExceededError("max_sessions", most)
        if most_per_owner is not None:
            for owner, new in Counter(session.owner for session in sessions if session.owner).items():
                if living[owner] + new > most_per_owner:
                    raise LimitExceededError("max_sessions_per_owner", most_per_owner)

    def _enter_opening(self, session_id: SessionId, opening: OpenedStream) -> None:
        stream = StreamRow(session_id, opening.stream_id, opening.request_ids, set(opening.request_ids))
        for event in opening.events:
            stream.append(event)
        self._tables.enter(stream)
        self._tables.finish(stream)

    async def get(self, session_id: SessionId) -> Session | None:
        with self._tables.lock:
            row = self._tables.live(session_id)
            return None if row is None else row.record(with_state=False)

    async def touch(
        self, session_ids: Sequence[SessionId], *, owner: str | None = None
    ) -> Mapping[SessionId, float | None]:
        touched: dict[SessionId, float | None] = {}
        with self._tables.lock:
            now = Moment.now()
            for session_id in session_ids:
                if row := self._tables.live(session_id, owner):
                    self._touch(row, now)
                    touched[session_id] = row.remaining()
        return touched

    def _touch(self, row: SessionRow, now: Moment) -> None:
        row.active = now
        ttl = row.session.ttl
        if ttl is not None:
            longest = self._end_of_life(ttl, now)
            if row.expires.tick <= longest.tick - min(ttl / 10, self._settings.touch_step):
                row.expires = longest

    async def change(
        self, session_id: SessionId, change: Change, *, owner: str | None = None, sender: ReplicaId
    ) -> bool:
        check_texts(*(text for text in (change.log_level, change.failure) if not isinstance(text, Unchanged)))
        with self._tables.lock:
            row = self._tables.live(session_id, owner)
            if row is None or (row.session.failure is not None and not isinstance(change.failure, Unchanged)):
                return False
            if not isinstance(change.ttl, Unchanged):
                row.session = replace(row.session, ttl=change.ttl)
                row.active = now = Moment.now()
                row.expires = self._end_of_life(change.ttl, now)
            if not isinstance(change.log_level, Unchanged):
                row.session = replace(row.session, log_level=change.log_level)
            if not isinstance(change.failure, Unchanged):
                row.session = replace(row.session, failure=change.failure)
            self._tables.post(Mail("changed", sender, session_id=session_id))
            return True

    async def end(
        self,
        session_ids: Sequence[SessionId],
        reason: EndReason,
        *,
        owner: str | None = None,
        idle_for: float | None = None,
        seen: Sequence[datetime | None] | None = None,
        sender: ReplicaId,
        claim: bool,
    ) -> Ended:
        with self._tables.lock:
            now = Moment.now()
            idle_since = now.tick - (idle_for or 0.0)
            ended: list[Session] = []
            # One that is ended is not live when its id comes a second time.
            for place, session_id in enumerate(session_ids):
                row = self._tables.live(session_id, owner)
                if row is None or row.active.tick > idle_since or (seen and row.active.time != seen[place]):
                    continue
                row.end(reason, now)
                row.claimed_by = sender if claim else None
                if standalone := self._tables.stream(session_id, STANDALONE):
                    self._tables.finish(standalone, ttl=0)
                ended.append(row.last_record())
            return self._announced(ended, sender)

    async def rotate(
        self, session_id: SessionId, new_id: SessionId, *, owner: str | None, new_owner: str | None, sender: ReplicaId
    ) -> Ended:
        check_texts(new_id, new_owner)
        with self._tables.lock:
            row = self._tables.live(session_id, owner)
            if row is None:
                return Ended()
            if new_id in self._tables.sessions:
                raise SessionExistsError(new_id)
            next_owner = row.session.owner if new_owner is None else new_owner
            session = replace(row.session, id=new_id, owner=next_owner, incarnation=new_incarnation())
            self._tables.insert(moved := replace(row, session=session))
            self._tables.move(session_id, new_id)
            self._tables.readdress(session_id, new_id, session.incarnation)
            row.end("terminated", Moment.now())
            old = row.last_record()
            self._tables.entomb(row)
            return replace(self._announced([old], sender), successor=moved.record())

    def _announced(self, ended: Sequence[Session], sender: ReplicaId) -> Ended:
        if not ended:
            return Ended()
        body = json.dumps({session.id: session.incarnation for session in ended})
        return Ended(ended, self._tables.post(Mail("ended", sender, body=body)), self._tables.alive())

    async def load_state(self, session_id: SessionId, *, owner: str | None = None) -> tuple[int, str] | None:
        with self._tables.lock:
            row = self._tables.live(session_id, owner)
            return None if row is None else (row.session.version, row.state)

    async def save_state(
        self, session_id: SessionId, version: int, state: str, *, owner: str | None = None
    ) -> int | None:
        check_texts(state)
        with self._tables.lock:
            row = self._tables.live(session_id, owner)
            if row is None or row.session.version != version:
                return None
            row.session = replace(row.session, version=version + 1)
            row.state = state
            self._touch(row, Moment.now())
            return row.session.version

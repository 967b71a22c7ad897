"""`layer.sessions`: all that one can do with a session, over the narrow store contracts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import anyio

from mcpsession.admission import check_ttl, checked
from mcpsession.errors import SessionExistsError, SessionNotFoundError, UnhandledError
from mcpsession.initialization import Initializing
from mcpsession.model import SessionId, new_session_id
from mcpsession.records import UNCHANGED, Change, Ended, EndReason, Session, Unchanged
from mcpsession.session_queries import SessionQueries, several
from mcpsession.session_state import SessionState, Turns
from mcpsession.session_subscriptions import SessionSubscriptions
from mcpsession.surroundings import Surroundings
from mcpsession.texts import check_owner, check_text

OnConflict = Literal["error", "replace", "existing"]

_MANY = 1000
_ATTEMPTS = 100


class Sessions(SessionQueries, SessionState, SessionSubscriptions):
    """Sessions by id, from anywhere: a tool, another service, a shell.

    As `layer.sessions` it sees those of all owners; `of(owner)` sees one owner's only, and to it a session of another
    owner, an expired one and one that never was are the same.
    """

    def __init__(self, around: Surroundings, turns: Turns | None = None, *, owner: str | None = None) -> None:
        backend = around.backend
        turns = turns or Turns()
        SessionQueries.__init__(self, backend.directory, owner=owner)
        SessionState.__init__(
            self, backend.sessions, turns, max_state_bytes=around.settings.max_state_bytes, owner=owner
        )
        most = around.settings.max_subscriptions_per_session
        SessionSubscriptions.__init__(self, backend.subscriptions, backend.sessions, around.me, most=most, owner=owner)
        self._around = around
        self._store = backend.sessions
        self._turns = turns
        self.initialization = Initializing(
            backend.initialization, backend.sessions, backend.directory, around.me, around.changed, owner=owner
        )

    def of(self, owner: str) -> Sessions:
        """The sessions of one owner; of the anonymous, for an empty one.

        Raises TypeError for what is no text: a user that is missing must not become everybody.
        """
        check_owner(owner, "sessions")
        return Sessions(self._around, self._turns, owner=owner)

    # Birth

    async def create(
        self,
        session_id: SessionId | None = None,
        *,
        owner: str | None = None,
        ttl: float | Unchanged | None = UNCHANGED,
        metadata: Mapping[str, Any] | None = None,
        state: Mapping[str, Any] | None = None,
        transport: str = "streamable-http",
        on_conflict: OnConflict = "error",
    ) -> Session:
        """Create a session; its id is minted (256 random bits) unless one is given, which others may guess.

        `ttl`: it expires after so many seconds without activity, and a little more: touches are written late, so
        `touch_flush` (5 s) and a tenth of the ttl (at most `touch_step`) are added. None: it never expires.

        Where a live session of the same owner has the id, `on_conflict="existing"` returns it; `"replace"` ends it on
        all replicas and then begins anew. The ids of expired and deleted sessions are free.

        Raises:
            SessionExistsError: the id is in use (`error.existing`), or a tombstone's, or another owner's.
            InvalidSessionIdError: no client could send this id.
            LimitExceededError: too many sessions, or an id, state or metadata too large.
            MetadataError, UpdateFailedError: metadata or state is not JSON.
            UnstorableTextError, ValueError: no store can hold a text; ttl is not above 0.
        """
        if on_conflict not in get_args(OnConflict):
            raise ValueError(f"on_conflict={on_conflict!r} is not allowed: 'error', 'existing' or 'replace'")
        new = self._new(session_id, owner=owner, ttl=ttl, metadata=metadata, state=state, transport=transport)
        session, _ = await self._enter(new, on_conflict)
        return session

    async def register(self, session_id: SessionId, **fields: Any) -> Session:
        """As `create` with `on_conflict="replace"`: whatever was there, now it is new."""
        return await self.create(session_id, on_conflict="replace", **fields)

    async def ensure(self, session_id: SessionId, **fields: Any) -> tuple[Session, bool]:
        """The live session with this id, created if there is none, and whether it was."""
        new = self._new(session_id, **fields)
        # Mostly it is there.
        existing = await self.get(session_id)
        if existing is not None and existing.owner == new.owner:
            return existing, False
        return await self._enter(new, "existing")

    async def create_many(self, sessions: Iterable[Session]) -> Sequence[Session]:
        """Create all or none, in one statement; of each, id, owner, transport, metadata, state and ttl count.

        `[new_session() for …]` mints ids. Raises what `create` raises.
        """
        new = [checked(session, self._around.settings) for session in sessions]
        for session in new:
            self._check_owner(session.owner)
        return await self._insert(new) if new else []

    def new_session(self, session_id: SessionId | None = None, **fields: Any) -> Session:
        """A session for `create_many`, with the arguments of `create`. It is nowhere yet."""
        return self._new(session_id, **fields)

    # Life

    async def retrieve(self, session_id: SessionId) -> Session | None:
        """The live session, whole, counted as activity; None, and nothing revived, if it is not live."""
        if not await self.touch(session_id):
            return None
        return await self.get(session_id)

    async def touch(self, session_id: SessionId, *, strict: bool = False) -> bool:
        """Count as activity: it lives for at least its ttl from now. False if it is not live.

        Raises SessionNotFoundError instead if `strict`.
        """
        alive = session_id in await self._store.touch([session_id], owner=self._owner)
        return self._alive(session_id, alive, strict=strict)

    async def touch_many(self, session_ids: Iterable[SessionId]) -> set[SessionId]:
        """Touch many in one statement; returns those that live."""
        ids = several(session_ids)
        return set(await self._store.touch(ids, owner=self._owner)) if ids else set()

    async def set_ttl(self, session_id: SessionId, ttl: float | None, *, strict: bool = False) -> bool:
        """Let it live for `ttl` seconds without activity, from now on, or for ever (None). False if it is not live.

        (And a little longer: touches are written every `touch_flush` seconds, and move the end in coarse steps.)

        Raises ValueError for a ttl that is not above 0; SessionNotFoundError if `strict`.
        """
        check_ttl(ttl)
        around = self._around
        changed = await self._store.change(session_id, Change(ttl=ttl), owner=self._owner, sender=around.me())
        around.changed(session_id)
        return self._alive(session_id, changed, strict=strict)

    async def rotate(self, session_id: SessionId, *, new_owner: str | None = None) -> Session:
        """Give the session a new id, for when its client has got more rights; optionally a new owner.

        State, metadata, client, subscriptions and streams go with it. The old id is a tombstone: unknown, on all
        replicas, when this returns; its running calls end with an error, so a tool that rotates its own session does
        not hear the new id. `max_sessions_per_owner` is not asked: the session is there already.

        Raises SessionNotFoundError if it is not live.
        """
        settings, around = self._around.settings, self._around
        check_text(new_owner or "")
        new_id = new_session_id(settings.id_form, settings.id_prefix)

        async def rotate() -> Ended:
            ended = await self._store.rotate(
                session_id, new_id, owner=self._owner, new_owner=new_owner, sender=around.me()
            )
            await around.endings.announce(ended, "terminated")
            return ended

        ended = await around.endings.finish(rotate)
        if ended.successor is None:
            raise SessionNotFoundError(session_id)
        return ended.successor

    # Death

    async def delete(self, session_id: SessionId) -> bool:
        """End the session on all replicas, with all that belongs to it; False if it was not live.

        Returns when every live replica has applied it (or 2 s have passed, after which none can believe it lives) and
        the expiry handlers are through. Its id is free again.
        """
        return bool(await self._end([session_id], "deleted"))

    async def delete_many(self, session_ids: Iterable[SessionId]) -> set[SessionId]:
        """Delete many; they end in one statement. Returns those that lived."""
        return {session.id for session in await self._end(several(session_ids), "deleted")}

    async def terminate(self, session_id: SessionId) -> bool:
        """The same as `delete`, for good: a tombstone keeps the id from being used again. So ends a client's DELETE."""
        return bool(await self._end([session_id], "terminated"))

    async def close(self, session_id: SessionId) -> None:
        """The same as `delete`, for one that must be there.

        Raises SessionNotFoundError if it was not live.
        """
        self._alive(session_id, await self.delete(session_id), strict=True)

    async def clear_all(self, *, confirm: bool = False) -> int:
        """Delete every live session (of this owner, for `of(owner)`); returns how many. For tests and for moving house.

        Raises ValueError without `confirm=True`.
        """
        if confirm is not True:
            raise ValueError("this ends every session; if that is what you want: clear_all(confirm=True)")
        cleared, after = 0, ""
        while page := await self.list(after=after, limit=_MANY):
            after = page[-1].id
            cleared += len(await self._end([session.id for session in page], "cleared"))
        return cleared

    async def cleanup_expired(self) -> int:
        """Do now what `layer.reaper` does in each pass: handlers told, what expired removed. Returns how many sessions.

        Raises ValueError for the sessions of one owner: a pass is about all.
        """
        if self._owner is not None:
            raise ValueError("a pass of the reaper is about all owners' sessions; ask layer.sessions")
        return await self._around.cleanup()

    # What they have in common

    def _new(
        self,
        session_id: SessionId | None,
        *,
        owner: str | None = None,
        ttl: float | Unchanged | None = UNCHANGED,
        metadata: Mapping[str, Any] | None = None,
        state: Mapping[str, Any] | None = None,
        transport: str = "streamable-http",
    ) -> Session:
        settings = self._around.settings
        ttl = self._around.ttl() if isinstance(ttl, Unchanged) else ttl
        session = Session(
            id=new_session_id(settings.id_form, settings.id_prefix) if session_id is None else session_id,
            owner=(self._owner or "") if owner is None else owner,
            ttl=ttl,
            metadata=metadata or {},
            state=state or {},
            transport=transport,
        )
        self._check_owner(session.owner)
        return checked(session, settings)

    def _check_owner(self, owner: str) -> None:
        if self._owner is not None and owner != self._owner:
            raise ValueError("these are the sessions of one owner; create another's with layer.sessions")

    async def _enter(self, new: Session, on_conflict: OnConflict) -> tuple[Session, bool]:
        # Every attempt that is lost means that somebody else's create or end came between.
        for _ in range(_ATTEMPTS):
            try:
                [session] = await self._insert([new])
            except SessionExistsError:
                found = await self._around.backend.directory.records([new.id], include_dead=True)
                existing = found[0] if found else None
                if existing is None or existing.status == "expired":
                    # What was in the way has gone since.
                    continue
                # Another owner's is as if it were not there, but that its id is not free.
                if existing.status != "live" or existing.owner != new.owner:
                    raise SessionExistsError(new.id) from None
                if on_conflict == "existing":
                    return existing, False
                if on_conflict == "error":
                    raise SessionExistsError(new.id, existing) from None
                await self._around.endings.end_and_clear_away([new.id], "replaced", owner=new.owner)
                continue
            return session, True
        raise SessionExistsError(new.id)

    async def _insert(self, new: Sequence[Session]) -> Sequence[Session]:
        around = self._around
        for attempt in range(_ATTEMPTS):
            try:
                return await self._store.create(new, admission=around.admission(), handled=bool(around.handlers))
            except UnhandledError as error:
                if not await around.handlers.bury(only=error.session_ids):
                    # Somebody else has them in hand: a moment, and they are claimed or gone.
                    await anyio.sleep(0.001 * attempt)
        raise SessionExistsError(new[0].id)

    async def _end(self, session_ids: Sequence[SessionId], reason: EndReason) -> Sequence[Session]:
        if not session_ids:
            return []
        return (await self._around.endings.end_and_clear_away(session_ids, reason, owner=self._owner)).sessions

    def _alive(self, session_id: SessionId, alive: bool, *, strict: bool) -> bool:
        if strict and not alive:
            raise SessionNotFoundError(session_id)
        return alive

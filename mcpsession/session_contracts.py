"""What a backend promises of sessions. Memory and Postgres keep these promises alike; one suite of tests sees to it.

Every method may raise StoreUnavailableError (try again later) and StoreError (do not). Time is the store's clock.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from mcpsession.model import OpenedStream, Reaped, ReplicaId, SessionId
from mcpsession.records import Admission, Change, Ended, EndReason, Filter, Session, SessionStats


class SessionStore(Protocol):
    """Sessions. One liveness predicate in every method: not expired, not ended, not claimed by a reaper.

    Where `owner` is given, another owner's session is as if it were not there.
    """

    async def create(
        self,
        sessions: Sequence[Session],
        opening: OpenedStream | None = None,
        *,
        admission: Admission,
        handled: bool = False,
    ) -> Sequence[Session]:
        """Enter sessions with their standalone streams, all or none; returns them as stored, in order.

        `opening`: the stream that answered `initialize`, already finished; for a single session. `ttl` counts from now.
        The ids of expired and deleted sessions are free; `handled`: once their expiry handlers have run.

        Raises:
            SessionExistsError: an id is in use, or is a tombstone's.
            UnhandledError: `handled`, and a dead session has an id whose handlers have not begun, or died with theirs.
            LimitExceededError: more would live than `admission` allows.
        """
        ...

    async def get(self, session_id: SessionId) -> Session | None:
        """What a request needs of a live session, or None: without its state, and untouched."""
        ...

    async def touch(
        self, session_ids: Sequence[SessionId], *, owner: str | None = None
    ) -> Mapping[SessionId, float | None]:
        """Move the expiry of those that live to their ttl from now (never less, in coarse steps, plus slack).

        Returns the seconds left to each (None: for ever); those missing in it are not live.
        """
        ...

    async def change(
        self, session_id: SessionId, change: Change, *, owner: str | None = None, sender: ReplicaId
    ) -> bool:
        """Change a live session, with a `changed` mail to all in the same transaction.

        False if it is not live; and, for a failure, if it has failed already.
        """
        ...

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
        """End those that live, with one `ended` mail to all in the same transaction: a JSON object, id to incarnation.

        `terminated` leaves tombstones: those ids cannot be used again for a while. `idle_for`: only those that were
        not active for so many seconds. `seen`: only those whose last activity, in order of the ids, it still is.
        `claim`: they wait, in the sender's name, for their expiry handlers. What belongs to them is removed by
        `Reaping.remove`, or by any reaper.
        """
        ...

    async def rotate(
        self, session_id: SessionId, new_id: SessionId, *, owner: str | None, new_owner: str | None, sender: ReplicaId
    ) -> Ended:
        """Give a live session, with all that belongs to it, a new id (and owner); the old id becomes a tombstone.

        One transaction, with an `ended` mail for the old id. Empty if it is not live. Raises SessionExistsError if the
        new id is in use.
        """
        ...

    async def load_state(self, session_id: SessionId, *, owner: str | None = None) -> tuple[int, str] | None:
        """The version and JSON text of a live session's state; None if it is not live."""
        ...

    async def save_state(
        self, session_id: SessionId, version: int, state: str, *, owner: str | None = None
    ) -> int | None:
        """Replace the state if its version is still `version`; the new version, or None if it moved or died.

        Counts as activity.
        """
        ...


class Initialization(Protocol):
    """How a session that was created without its client gets to know it; once, by one."""

    async def claim(self, session_id: SessionId, claim: str, lease: float, *, owner: str | None = None) -> bool:
        """Claim the initialization of a session in phase `pre_init` for `lease` seconds; False if it is in another."""
        ...

    async def complete(
        self, session_id: SessionId, claim: str, protocol_version: str, client_params: str, *, owner: str | None = None
    ) -> bool:
        """Record the client, for good; False if the claim has run out or was not this one."""
        ...

    async def release(self, session_id: SessionId, claim: str, *, owner: str | None = None) -> bool:
        """Give a claim up; False if it was not this one."""
        ...

    async def mark_initialized(self, session_id: SessionId, *, owner: str | None = None) -> bool:
        """Record `notifications/initialized`; False if the session is not live, has no client yet, or has failed."""
        ...


class Directory(Protocol):
    """Sessions as whole records: to look at, not to serve requests with."""

    async def records(
        self, session_ids: Sequence[SessionId], *, owner: str | None = None, include_dead: bool = False
    ) -> Sequence[Session]:
        """Those that live, with state and number of events, in no particular order; touches none.

        `include_dead`: also expired ones that were not reaped yet, and tombstones.
        """
        ...

    async def page(self, wanted: Filter, after: SessionId, limit: int) -> Sequence[Session]:
        """Live sessions with ids past `after`, in order of their ids; without their number of events."""
        ...

    async def count(self, wanted: Filter) -> int:
        """How many such sessions live."""
        ...

    async def stats(self) -> SessionStats: ...


class ResourceSubscriptions(Protocol):
    """Which sessions want to hear of changes to which resources. They go with their session."""

    async def subscribe(self, session_id: SessionId, uri: str, limit: int | None, *, sender: ReplicaId) -> bool:
        """Subscribe a live session, with a `changed` mail to all in the same transaction; again is free. False if it is
        not live.

        Raises LimitExceededError if it has `limit` subscriptions already.
        """
        ...

    async def unsubscribe(self, session_id: SessionId, uri: str, *, sender: ReplicaId) -> bool:
        """End a subscription, with a `changed` mail to all in the same transaction; False if there was none."""
        ...

    async def uris(self, session_id: SessionId) -> Sequence[str]:
        """What a live session has subscribed to, sorted."""
        ...

    async def subscribers(self, uri: str, after: SessionId, limit: int) -> Sequence[SessionId]:
        """Live sessions that subscribed to a resource, with ids past `after`, in order of their ids."""
        ...


class Reaping(Protocol):
    """Removes what expired, and what belonged to sessions that were ended."""

    async def reap(self, limit: int, *, handled: bool = False) -> Reaped:
        """Remove up to `limit` expired rows of each kind, with all that belongs to them.

        A tombstone stays for its ttl; what belonged to the session goes. `handled`: sessions that wait for expiry
        handlers are left to those who claim them.
        """
        ...

    async def claim(
        self, limit: int, *, by: ReplicaId, busy: Collection[SessionId] = (), only: Sequence[SessionId] | None = None
    ) -> Sequence[Session]:
        """Claim up to `limit` sessions, whole, for their expiry handlers: from now on nobody can use or touch them.

        Those that expired, and those whose claimant is dead, or this replica itself and the session not in `busy`.
        Each is claimed by one replica. `only`: of these ids.
        """
        ...

    async def idle(self, idle_for: float, after: SessionId, limit: int) -> tuple[Sequence[SessionId], SessionId | None]:
        """Look at `limit` live sessions with ids past `after`: which were not active for so many seconds, and the id
        to go on after (None: that was all)."""
        ...

    async def remove(self, sessions: Sequence[tuple[SessionId, int]], *, by: ReplicaId) -> int:
        """Remove dead sessions (id, incarnation) with all that belongs to them; of terminated ones a tombstone stays.

        Passes over what another living replica has claimed and what was replaced. Returns how many it took.
        """
        ...

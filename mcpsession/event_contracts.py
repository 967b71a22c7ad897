"""What a backend promises of an application's own events, and of requests under way. Memory and Postgres alike.

Every method may raise StoreUnavailableError (try again later) and StoreError (do not). Time is the store's clock. Where
`owner` is given, another owner's session is as if it were not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from mcpsession.event_records import Appended, Entry, EntryPage, EventStats, RequestInfo
from mcpsession.model import ReplicaId, SessionId


class SessionEvents(Protocol):
    """Streams of events that an application keeps for a session, each numbered 1, 2, 3, … without gaps in commit order.

    They go with their session, move with its id, and no MCP client reads them. A stream begins with its first event.
    """

    async def append(
        self, session_id: SessionId, stream: str, entries: Sequence[Entry], *, owner: str | None = None
    ) -> Appended | None:
        """Add to a stream of a live session, all or none, in order; None if it is not live. Durable when it returns.

        An entry with an id that the stream has adds nothing. In the same transaction the oldest events go until at most
        `max_events` are left, and at most `max_replay_bytes` of them; the newest always stays.
        """
        ...

    async def read(
        self, session_id: SessionId, stream: str, after: int | str, limit: int, *, owner: str | None = None
    ) -> EntryPage | None:
        """The first events past a number (0: all), or past the event with this application's id; None if the session is
        not live.

        At least one event if there is one, at most `limit`, and about a MiB. A stream that has not begun is empty. Past
        an id that is not there: all that is left, and `known` is False.
        """
        ...

    async def follow(self, session_id: SessionId, stream: str, follower: ReplicaId) -> bool:
        """From now on each append returns this replica, too; call it before the first read. False if the session is not
        live. A stream that has not begun begins, empty. Following again is free; the dead are left out."""
        ...

    async def unfollow(self, session_id: SessionId, stream: str, follower: ReplicaId) -> None:
        """Undo it. Whatever is not there is not there."""
        ...

    async def stats(self, session_id: SessionId | None = None, *, owner: str | None = None) -> EventStats:
        """Count what live sessions' streams hold, of any kind: the application's, the calls', the standalone ones."""
        ...


class RequestRows(Protocol):
    """Requests under way on all replicas: clients' calls (their unfinished streams), and what the application tracks.

    A request's id is JSON text here, so `1` and `"1"` differ. Within a session an id is under way once.
    """

    async def track(
        self,
        session_id: SessionId,
        request_id: str,
        method: str,
        timeout: float,  # noqa: ASYNC109  # of the request, not of this call
        *,
        owner: str | None = None,
        by: ReplicaId,
    ) -> RequestInfo | None:
        """Enter a request, for `timeout` seconds at most; None if the session is not live.

        Raises DuplicateRequestError if this id is under way in the session.
        """
        ...

    async def complete(
        self, session_id: SessionId, request_id: str, *, owner: str | None = None, begun: datetime | None = None
    ) -> RequestInfo | None:
        """Take out a tracked request, only the one that began then if that is given; None if it is not there."""
        ...

    async def find(self, session_id: SessionId, request_id: str, *, owner: str | None = None) -> RequestInfo | None:
        """The request that is under way with this id, tracked or a client's call, of a live session."""
        ...

    async def running(
        self,
        session_id: SessionId | None = None,
        *,
        owner: str | None = None,
        after: tuple[SessionId, str] = ("", ""),
        limit: int,
    ) -> Sequence[RequestInfo]:
        """Requests of live sessions under way on living replicas, past a session and request id, in their order."""
        ...

    async def sweep(self, limit: int) -> int:
        """Take out up to `limit` tracked requests whose replica is recorded dead or whose time is over."""
        ...

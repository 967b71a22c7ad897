"""What a backend promises. Memory and Postgres keep these promises alike; one suite of tests holds them to it.

Every method may raise StoreUnavailableError (try again later) and StoreError (do not). Time is the store's clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from mcpsession.model import (
    Accepted,
    Batch,
    Bell,
    Hold,
    Mail,
    NewEvent,
    OpenedStream,
    Pulse,
    Reaped,
    Replica,
    ReplicaId,
    Session,
    SessionId,
    StreamId,
    StreamState,
    Termination,
)


class SessionStore(Protocol):
    """Sessions. One liveness predicate in every method: not expired, not terminated, not claimed by a reaper."""

    async def create(self, session: Session, opening: OpenedStream | None) -> None:
        """Enter a session, its standalone stream and, already finished, the stream that answered `initialize`.

        All or nothing; `session.ttl` counts from now. Raises SessionExistsError if the id was ever used.
        """
        ...

    async def get(self, session_id: SessionId) -> Session | None:
        """The live session, or None. Does not touch it."""
        ...

    async def count(self, limit: int) -> int:
        """How many sessions live, at most `limit`."""
        ...

    async def mark_initialized(self, session_id: SessionId) -> bool:
        """Record that the client sent `notifications/initialized`; False if the session is not live."""
        ...

    async def set_log_level(self, session_id: SessionId, level: str, *, sender: ReplicaId) -> bool:
        """Record the level, with a `changed` mail to all in the same transaction; False if not live."""
        ...

    async def touch(self, session_ids: Sequence[SessionId]) -> Mapping[SessionId, float | None]:
        """Move the expiry of those that live to their ttl from now (never less, in coarse steps, plus slack).

        Returns the seconds left to each (None: for ever); those missing in it are not live.
        """
        ...

    async def terminate(self, session_id: SessionId, owner: str, *, sender: ReplicaId) -> Termination | None:
        """End a live session of this owner for good: tombstone and `ended` mail to all in one transaction.

        None if there is no such session. The id can never be used again.
        """
        ...

    async def load_state(self, session_id: SessionId) -> tuple[int, str] | None:
        """The version and JSON text of a live session's state; None if it is not live."""
        ...

    async def save_state(self, session_id: SessionId, version: int, state: str) -> int | None:
        """Replace the state if its version is still `version`; the new version, or None if it moved or died."""
        ...


class EventLog(Protocol):
    """Append-only streams of messages, numbered 1, 2, 3, … without gaps in commit order.

    A request stream is written by its producer alone, until it is finished or its producer is recorded dead.
    """

    async def write(self, batch: Batch, *, producer: ReplicaId) -> Sequence[Accepted]:
        """Apply what can be applied of a batch, atomically, and say which streams it reached.

        Never raises for one stream's sake: a stream that is missing in the answer exists already (opened), has an
        unfinished twin with the same request ids in its session (opened), has another producer, is finished, or has
        not `base` events (appended). With a StoreError nothing was applied; after StoreUnavailableError the outcome is
        unknown: ask `landed` before writing those again.
        """
        ...

    async def landed(self, session_id: SessionId, stream_id: StreamId, last_seq: int, *, producer: ReplicaId) -> bool:
        """Whether this producer's write up to `last_seq` is in the log."""
        ...

    async def append_standalone(self, appends: Sequence[tuple[SessionId, NewEvent]]) -> Mapping[SessionId, ReplicaId]:
        """Add to the standalone streams of live sessions; returns who holds them. At least once, in order."""
        ...

    async def attach(self, session_id: SessionId, stream_id: StreamId, reader: ReplicaId) -> bool:
        """Make `reader` the reader of a stream, before its first read; False if there is no such stream.

        From then on each write of the producer returns the reader.
        """
        ...

    async def read(self, session_id: SessionId, stream_id: StreamId, after: int, limit: int) -> StreamState | None:
        """The stream and its first events past `after`, in one snapshot; None if there is no such stream.

        At least one event if there is one, at most `limit`, and about a MiB.

        A server-to-client request whose waiting replica is dead comes with an empty message: it counts, but nobody
        would hear its answer, so it is not sent.
        """
        ...

    async def take_over(
        self, session_id: SessionId, stream_id: StreamId, asked: int, finals: Sequence[str], *, by: ReplicaId
    ) -> bool:
        """Finish an unfinished stream whose producer is recorded dead, with numbers past `asked` and its last.

        False if it is finished, missing or its producer lives. There is one final, whoever asks how often.
        """
        ...

    async def orphans(self, limit: int) -> Sequence[tuple[SessionId, StreamId, int, tuple[str, ...]]]:
        """Unfinished request streams whose producer is dead: session, stream, last number, unanswered request ids."""
        ...

    async def unfinished(self, producer: ReplicaId) -> Sequence[tuple[SessionId, StreamId, int, tuple[str, ...]]]:
        """The unfinished request streams of one producer."""
        ...


class Holds(Protocol):
    """Who may write a session's standalone stream to a socket: at most one replica at a time."""

    async def take(self, session_id: SessionId, holder: ReplicaId) -> Hold | None:
        """Take the stream over; None if the session is not live.

        Raises HoldRefusedError if it was taken from a living holder twice within 10 s already.
        """
        ...

    async def settle(self, session_id: SessionId, epoch: int, *, force: bool) -> Hold | None:
        """Look whether the previous holder has let go or is dead; `force` ends its claim.

        None if somebody took it meanwhile, or the session is not live.
        """
        ...

    async def save(self, session_id: SessionId, epoch: int, seq: int, news: str) -> bool:
        """Record how far the stream was delivered; False if somebody took it meanwhile."""
        ...

    async def release(self, session_id: SessionId, epoch: int, seq: int, news: str) -> ReplicaId | None:
        """Let go, with the position; returns the next holder, who waits, if there is one."""
        ...


class Mailbox(Protocol):
    """Durable mail between replicas. To one: kept until deleted. To all: kept for its ttl, read by position."""

    async def send(self, mail: Mail) -> bool:
        """Post mail to one replica; False if that replica is unknown or recorded dead. Durable when it returns."""
        ...

    async def broadcast(self, mails: Sequence[Mail]) -> None:
        """Post mail to all, durable when it returns. The order of one sender is kept."""
        ...

    async def inbox(self, replica: ReplicaId) -> Sequence[Mail]:
        """Some of the mail of one replica, oldest first. It stays until deleted: at least once."""
        ...

    async def delete(self, mail_ids: Sequence[int]) -> None:
        """Delete mail that was handed over. What nobody fetches is removed after its ttl."""
        ...

    async def position(self) -> str:
        """The present position in the broadcast mail: `<snapshot>@<unix seconds>`."""
        ...

    async def news(self, position: str, *, only_news: bool = False) -> tuple[Sequence[Mail], str] | None:
        """The broadcast mail past a position, and the new position: exactly once, however long a publisher's
        transaction was. None if the position is too old or not of this store: something may have been missed.
        """
        ...


class ReplicaRegistry(Protocol):
    """Which processes run the layer. A death is a recorded fact, never a comparison of clocks."""

    async def join(self, replica: Replica) -> None: ...

    async def beat(self, replica: ReplicaId, position: str) -> Pulse:
        """Count one beat, look at the others' and for mail, in one statement."""
        ...

    async def declare_dead(self, replica: ReplicaId, beats: int) -> bool:
        """Record a death if the counter still stands at `beats`; True for the one who recorded it."""
        ...

    async def leave(self, replica: ReplicaId) -> None:
        """Record the own end."""
        ...


class Doorbell(Protocol):
    """Wakes replicas at once. May lose a bell; never delays or blocks a writer."""

    def ring(self, bell: Bell) -> None:
        """Ring soon. Never blocks, never raises."""
        ...

    def listening(
        self, replica: ReplicaId, *, heard: Callable[[str], None], reconnected: Callable[[], None]
    ) -> AbstractAsyncContextManager[None]:
        """Hear the bells of one replica and those to all, while inside; entered once the ear is proven.

        `reconnected` is called after every gap, once listening again, before the first word after it.
        """
        ...

    def last_echo(self) -> float:
        """When the last heard ping to oneself was sent, by time.monotonic(); -inf while not listening."""
        ...


class Reaping(Protocol):
    """Removes what expired."""

    async def reap(self, limit: int, *, handled: bool = False) -> Reaped:
        """Remove up to `limit` expired rows of each kind, with all that belongs to them.

        `handled`: sessions that were not ended but expired are left to those who claim them.
        """
        ...

    async def claim(self, limit: int, *, by: ReplicaId) -> Sequence[Session]:
        """Claim up to `limit` expired sessions, whole, for their handlers: from now on nobody can use or touch them.

        Each is claimed by one replica; what a dead one had claimed, or this one and did not remove, comes again.
        """
        ...

    async def remove(self, session_ids: Sequence[SessionId], *, by: ReplicaId) -> int:
        """Remove claimed sessions with all that belongs to them; how many still were this replica's."""
        ...


class Backend(Protocol):
    """One store with all its parts."""

    @property
    def sessions(self) -> SessionStore: ...
    @property
    def log(self) -> EventLog: ...
    @property
    def holds(self) -> Holds: ...
    @property
    def mailbox(self) -> Mailbox: ...
    @property
    def doorbell(self) -> Doorbell: ...
    @property
    def reaping(self) -> Reaping: ...

    def registry(self) -> AbstractAsyncContextManager[ReplicaRegistry]:
        """A registry with a connection of its own, usable in the thread and event loop that enters it."""
        ...

    def running(self) -> AbstractAsyncContextManager[None]:
        """Connected while inside. Connects once up front and fails fast, then is patient.

        Raises StoreUnavailableError if the store cannot be reached, SchemaError if it has the wrong schema.
        """
        ...

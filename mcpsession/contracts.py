"""What a backend promises. Memory and Postgres keep these promises alike; one suite of tests holds them to it.

Every method may raise StoreUnavailableError (try again later) and StoreError (do not). Time is the store's clock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from mcpsession.event_contracts import RequestRows, SessionEvents
from mcpsession.model import (
    Accepted,
    Batch,
    Bell,
    Hold,
    ListenerState,
    Mail,
    NewEvent,
    NewsPage,
    Pulse,
    Replica,
    ReplicaId,
    SessionId,
    StreamId,
    StreamState,
)
from mcpsession.news_contracts import ControlRows, NewsLog
from mcpsession.session_contracts import Directory, Initialization, Reaping, ResourceSubscriptions, SessionStore


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

    async def holder(self, session_id: SessionId) -> ReplicaId | None:
        """The living replica that holds the stream of a live session now; None if there is none."""
        ...

    async def changed(self, held: Sequence[tuple[SessionId, int, int]]) -> Collection[SessionId]:
        """Of streams held with an epoch and sent up to a number: those that have another epoch or number now."""
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

    async def news(self, position: str) -> NewsPage | None:
        """The broadcast mail past a position, a page of it: exactly once, however long a publisher's transaction was.

        A page ends with the transaction that fills about 4 MiB, or 1,000 mails. None if the position is too old or not
        of this store: something may have been missed.
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
        self,
        replica: ReplicaId,
        *,
        heard: Callable[[str], None],
        reconnected: Callable[[], None],
        state: Callable[[ListenerState], None] = lambda _: None,
    ) -> AbstractAsyncContextManager[None]:
        """Hear the bells of one replica and those to all, while inside; entered once the ear is proven.

        With the setting `listener="optional"` it is entered also when it cannot be proven, and goes on trying.
        `reconnected` is called after every gap, once listening again, before the first word after it. `state` is
        called with each change: `connected` the first time, then `disconnected` and `reconnected`; `failed` for each
        attempt that failed.
        """
        ...

    def last_heard(self) -> float:
        """When the ear last heard anything, by time.monotonic(); -inf while not listening. It proves that it hears."""
        ...


class Backend(Protocol):
    """One store with all its parts."""

    @property
    def sessions(self) -> SessionStore: ...
    @property
    def initialization(self) -> Initialization: ...
    @property
    def directory(self) -> Directory: ...
    @property
    def subscriptions(self) -> ResourceSubscriptions: ...
    @property
    def log(self) -> EventLog: ...
    @property
    def events(self) -> SessionEvents: ...
    @property
    def requests(self) -> RequestRows: ...
    @property
    def holds(self) -> Holds: ...
    @property
    def mailbox(self) -> Mailbox: ...
    @property
    def news_log(self) -> NewsLog: ...
    @property
    def control(self) -> ControlRows: ...
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

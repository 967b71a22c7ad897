"""What an application logs for its sessions, and which requests are under way. Frozen values, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from mcpsession.model import ReplicaId, SessionId, fingerprint


@dataclass(frozen=True, slots=True)
class Entry:
    """An event on its way into the log."""

    data: str
    """JSON text."""
    type: str = "message"
    id: str | None = None
    """The application's own; the same one again adds nothing, as long as the log has it."""
    timestamp: datetime | None = None
    """When it happened, by the application; None: when it is stored, by the store."""


class StoredEntry(NamedTuple):
    """An event as the store has it."""

    seq: int
    data: str
    type: str
    id: str | None
    timestamp: datetime


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One event of a session's log."""

    id: str
    """The application's own, or `<stream>.<seq>`; either is a cursor to replay after."""
    seq: int
    """Counts 1, 2, 3, … within the stream, in the order of the commits."""
    type: str
    data: Any
    timestamp: datetime
    stream: str


@dataclass(frozen=True, slots=True)
class EventGap(LoggedEvent):
    """Comes to a follower in the place of events that are gone. Its type is `mcpsession/gap`; its number, and its id,
    are those of the last one missing, so it is a cursor like any other."""

    missed: int = 0
    """How many; 0: nobody knows."""


class Appended(NamedTuple):
    """What became of entries."""

    numbers: Sequence[int]
    """Of each, in order; of one that was there already, the one it has."""
    added: int
    followers: Sequence[ReplicaId]
    """Living replicas in which somebody follows the stream."""
    remaining: float | None
    """Seconds that the session has left without further activity; None: for ever."""
    stored_at: datetime | None = None
    """The timestamp of those that were added and brought none."""


class EntryPage(NamedTuple):
    """Some of a stream, read in one snapshot."""

    entries: Sequence[StoredEntry]
    last_seq: int
    trimmed_seq: int
    """Events up to and with this one are gone."""
    known: bool
    """Whether the cursor's event is in the stream, or its number at least was; False for an id that is not there."""
    incarnation: int = 0
    """Of the session: whoever reads on and finds another has to do with a later session of the same id."""


@dataclass(frozen=True, slots=True)
class Replay:
    """A page of a stream's events past a cursor, oldest first."""

    events: Sequence[LoggedEvent]
    gap: bool
    """Something past the cursor is gone, or the cursor is not of this stream: these are the oldest that are left."""
    first_retained: int | None
    """Number of the oldest event that the stream still has; None if it has none."""
    last_seq: int
    """Number of the newest."""
    more: bool
    """There is more past these."""


@dataclass(frozen=True, slots=True)
class EventStats:
    """What the logs hold; counting costs a look at every row."""

    streams: int = 0
    events: int = 0
    bytes: int = 0
    """Of the events' texts."""


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """A request under way. Its repr is fit for a log: the session's id is not in it."""

    session: str = field(init=False)
    """The session's fingerprint, as in logs."""
    session_id: SessionId = field(repr=False)
    request_id: int | str
    method: str
    replica: ReplicaId
    """Which one runs or tracks it."""
    started_at: datetime
    duration: float
    """Seconds since then, by the store's clock."""
    tracked: bool = False
    """The application tracks it; otherwise it is an MCP client's call."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "session", fingerprint(self.session_id))

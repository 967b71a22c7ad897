"""The nouns: what is stored and what is sent between replicas. Frozen values, no I/O."""

from __future__ import annotations

import hashlib
import os
import secrets
import uuid
from binascii import b2a_base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, overload

SessionId = str
StreamId = str
ReplicaId = str
IdForm = Literal["base64url", "hex", "uuid4"]
ResponseMode = Literal["sse", "auto"]
ListenerState = Literal["connected", "disconnected", "reconnected", "failed"]

STANDALONE: StreamId = "s"
"""Every session's standalone stream (the GET stream) has this id; request streams have longer, random ones."""

# 96 bits for a stream (its session and owner are checked besides), 256 for a session, 72 for a replica.
_STREAM_BYTES, _SESSION_BYTES, _REPLICA_BYTES = 12, 32, 9
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def new_session_id(form: IdForm = "base64url", prefix: str = "") -> SessionId:
    """An id that cannot be guessed: 256 random bits, 122 as a uuid4."""
    match form:
        case "hex":
            return prefix + secrets.token_hex(_SESSION_BYTES)
        case "uuid4":
            # The random one of UUIDs, from the same source as the others.
            return prefix + str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))
        case "base64url":
            return prefix + secrets.token_urlsafe(_SESSION_BYTES)


def new_stream_id() -> StreamId:
    # As secrets.token_urlsafe, without its four steps: a call has one.
    return b2a_base64(os.urandom(_STREAM_BYTES), newline=False).translate(_URL_SAFE).decode()


def new_replica_id() -> ReplicaId:
    return secrets.token_hex(_REPLICA_BYTES)


def fingerprint(session_id: SessionId) -> str:
    """What a log may show of a session's id: tells two apart, and cannot be turned back."""
    return hashlib.sha256(session_id.encode("utf-8", "replace")).hexdigest()[:10]


class Event(NamedTuple):
    """One message of a stream. `seq` counts 1, 2, 3, … within the stream."""

    seq: int
    message: str
    """The JSON-RPC message as JSON text."""


class EventPage(Sequence[Event]):
    """Events of a stream, in order, kept as two columns: a backlog has thousands, of which most become a frame only."""

    __slots__ = ("messages", "numbers")

    def __init__(self, numbers: Sequence[int] = (), messages: Sequence[str] = ()) -> None:
        self.numbers = numbers
        self.messages = messages

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> EventPage: ...
    def __getitem__(self, index: int | slice) -> Event | EventPage:
        if isinstance(index, slice):
            return EventPage(self.numbers[index], self.messages[index])
        return Event(self.numbers[index], self.messages[index])

    def __iter__(self) -> Iterator[Event]:
        return map(Event, self.numbers, self.messages)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as of any list


class OpenedStream(NamedTuple):
    """A request stream that is to be entered in the log, with the events that it already has."""

    session_id: SessionId
    stream_id: StreamId
    request_ids: tuple[str, ...]
    """The ids of the requests it answers, each as JSON text (`1` and `"1"` differ)."""
    events: Sequence[NewEvent]
    finished: bool
    method: str = ""
    trimmed: int = 0
    """Of these events, those up to this number are not kept: there are more than a stream holds."""


class AppendedStream(NamedTuple):
    """Events to be added to a request stream that this replica produces and that has `base` events so far."""

    session_id: SessionId
    stream_id: StreamId
    base: int
    events: Sequence[NewEvent]
    finished: bool
    trimmed: int = 0
    """With this write the stream's events up to this number go; they are more than it holds."""


class NewEvent(NamedTuple):
    """A message on its way into the log."""

    message: str
    request_of: ReplicaId | None = None
    """For a server-to-client request: the replica that waits for its answer."""
    answers: str | None = None
    """For a response: the id of the request that it answers, as JSON text; what was answered needs no other final."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What a journal writes at once: everything is applied, or nothing."""

    opened: Sequence[OpenedStream] = ()
    appended: Sequence[AppendedStream] = ()


class Accepted(NamedTuple):
    """A stream that a batch reached, and the replica that reads it now in place of its producer's socket."""

    session_id: SessionId
    stream_id: StreamId
    reader: ReplicaId | None


@dataclass(frozen=True, slots=True)
class StreamState:
    """Where a stream stands, read together with a page of its events in one snapshot."""

    last_seq: int
    trimmed_seq: int
    """Events up to and with this one are gone."""
    finished: bool
    taken_over: bool
    """Its final was written by a replica that was not its producer; its last number may have skipped."""
    orphaned: bool
    """Its producer is recorded dead and nobody finished it yet."""
    producer: ReplicaId | None
    request_ids: tuple[str, ...]
    events: EventPage


@dataclass(frozen=True, slots=True)
class Hold:
    """The right to be the one socket of a session's standalone stream."""

    epoch: int
    settled: bool
    """Nobody held it before, or the one who did has let go, or is dead."""
    previous: ReplicaId | None
    delivered_seq: int
    delivered_news: str
    """Position in the broadcast mail up to which news was delivered: `<pg_snapshot>@<unix seconds>`."""


MailKind = Literal["answer", "progress", "cancel", "news", "changed", "ended", "control"]


@dataclass(frozen=True, slots=True)
class Mail:
    """A durable message from one replica to another (`recipient`), or to all (None)."""

    kind: MailKind
    sender: ReplicaId
    recipient: ReplicaId | None = None
    session_id: SessionId | None = None
    body: str = ""
    id: int = 0
    """Given by the store."""
    xid: int = 0
    """The transaction that sent it; with a position it tells whether a reader has it already."""
    topic: str | None = None
    """News only: for the subscribers of this topic alone."""
    incarnation: int | None = None
    """News only: of its session, which was live when it was published; the id may come to be another one's."""


class NewsPage(NamedTuple):
    """Some of the broadcast mail past a position: whole transactions, in the order of their last mails' numbers."""

    mails: Sequence[Mail]
    position: str
    """Covers these mails and all before them, and no other."""
    more: bool
    """There is more past the new position already."""


def error_finals(request_ids: Sequence[str], error: str) -> list[str]:
    """The last messages of a stream that ends badly: the same JSON-RPC error (JSON text) for each of its requests."""
    return [f'{{"jsonrpc":"2.0","id":{request_id},"error":{error}}}' for request_id in request_ids]


def has_seen(position: str, xid: int) -> bool:
    """Whether a position in the broadcast mail (`xmin:xmax:xip,…@seconds`) covers the mail of a transaction."""
    xmin, _, rest = position.partition(":")
    xmax, _, rest = rest.partition(":")
    if not (xmin.isdecimal() and xmax.isdecimal()):
        return False
    running = rest.partition("@")[0].split(",")
    return xid < int(xmin) or (xid < int(xmax) and str(xid) not in running)


@dataclass(frozen=True, slots=True)
class Pulse:
    """What one beat of the heart brings back."""

    alive: bool
    """False: this replica was declared dead and must go on, if at all, under a new id."""
    mail: bool
    """Mail for this replica lies unread."""
    news: bool
    """Broadcast mail lies unread."""
    others: Mapping[ReplicaId, int]
    """The beats of every other replica that is not recorded dead."""
    anew: bool = False
    """The store was reached over a new connection: it may be another server, with another past."""


@dataclass(frozen=True, slots=True)
class Bell:
    """A wake-up for one replica, or for all (None). It carries ids, never content; losing one costs a second."""

    recipient: ReplicaId | None
    word: str


@dataclass(frozen=True, slots=True)
class News:
    """What is published: a notification's method and params. MCP's begin with `notifications/`; others are the
    application's own, and no client hears them."""

    method: str
    params: Mapping[str, Any] = field(default_factory=dict)
    """None becomes empty: on the wire there are always params."""

    def __post_init__(self) -> None:
        if self.params is None:
            object.__setattr__(self, "params", {})


@dataclass(frozen=True, slots=True)
class Gap(News):
    """Comes to a subscriber in place of news that it was too slow for, or that is not kept any more."""

    method: str = "mcpsession/gap"
    missed: int = 0
    """How much news; 0: nobody knows."""


@dataclass(frozen=True, slots=True)
class Heard:
    """News as this replica heard it."""

    news: News
    session_id: SessionId | None
    """For this session alone, …"""
    incarnation: int | None
    """… and not for a later one with the same id."""
    topic: str | None
    id: int
    xid: int
    """Its transaction."""
    before: str
    """Where this replica stood in the broadcast mail before it read the page in which this came."""
    position: str
    """Where it stands with that page."""


@dataclass(frozen=True, slots=True)
class Published:
    """News was recorded: whoever it is for hears it."""

    def __bool__(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class NoStream:
    """News for one session was recorded, but no replica holds its standalone stream now: the client gets it with its
    next GET, if that comes within `mail_ttl`. Counts as false."""

    session_id: SessionId = field(repr=False)

    def __bool__(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class ControlMessage:
    """One message of the control log."""

    version: int
    """Counts 1, 2, 3, … within the namespace, in the order of the commits."""
    method: str
    key: str
    """A later message of the same method and key replaces this one for replicas that start after it."""
    params: str
    """JSON text of an object."""
    sender: ReplicaId


@dataclass(frozen=True, slots=True)
class Replica:
    """One incarnation of a process that runs the layer."""

    id: ReplicaId
    label: str = ""


@dataclass(frozen=True, slots=True)
class Reaped:
    """How much one pass of the reaper removed."""

    sessions: int = 0
    streams: int = 0
    mail: int = 0
    replicas: int = 0
    control: int = 0
    """Control messages that a later one has replaced."""

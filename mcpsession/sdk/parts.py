"""What a request meets on its way: the services of one replica, in one record."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import anyio

from mcpsession.broadcaster import Broadcaster
from mcpsession.cache import SessionCache
from mcpsession.contracts import EventLog, Holds, Mailbox, SessionStore
from mcpsession.heartbeat import Heartbeat
from mcpsession.journal import Journal
from mcpsession.post_office import PostOffice
from mcpsession.sdk.acknowledgements import Acknowledgements
from mcpsession.sdk.back_channel import Waiters
from mcpsession.sdk.in_flight import InFlight
from mcpsession.settings import Settings
from mcpsession.tails import Tails
from mcpsession.telemetry import Telemetry
from mcpsession.touches import Touches


class LocalStream(Protocol):
    """An open GET stream of this replica."""

    def let_go(self, below: int | None = None) -> None:
        """Stop writing and tell the client to reconnect: another socket takes over, or this replica goes.

        `below`: only if this stream's hold is of an earlier epoch.
        """


class OpenStreams:
    """GET streams that this replica holds open, by what they stream."""

    def __init__(self) -> None:
        self._streams: dict[Hashable, set[LocalStream]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._streams.values()))

    @contextmanager
    def holding(self, key: Hashable, stream: LocalStream) -> Iterator[None]:
        """Hold a stream open while inside; an older one of the same key is told to let go."""
        self.let_go(key)
        self._streams.setdefault(key, set()).add(stream)
        try:
            yield
        finally:
            streams = self._streams[key]
            streams.discard(stream)
            if not streams:
                del self._streams[key]

    def let_go(self, key: Hashable, below: int | None = None) -> None:
        for stream in list(self._streams.get(key, ())):
            stream.let_go(below)

    def let_go_all(self) -> None:
        for key in list(self._streams):
            self.let_go(key)


class Drain:
    """Whether this replica is on its way out."""

    def __init__(self) -> None:
        self.closing: list[Callable[[], None]] = []
        """What ends the listen streams of the servers that run here, gracefully."""
        self.reset()

    def reset(self) -> None:
        """The replica serves again."""
        self.begun = False
        self.over = False
        """The grace has passed: requests are refused, too."""
        self.done = anyio.Event()


@dataclass(slots=True)
class Limits:
    """What new sessions get; an app's own arguments can still set it after the layer was built."""

    ttl: float | None
    max_sessions: int | None
    retry_ms: int | None
    """What clients are told to wait before they reconnect."""


@dataclass(frozen=True, slots=True)
class Parts:
    """References only; the layer builds them and runs what runs."""

    settings: Settings
    sessions: SessionStore
    log: EventLog
    holds: Holds
    mailbox: Mailbox
    cache: SessionCache
    touches: Touches
    journal: Journal
    tails: Tails
    post_office: PostOffice
    broadcaster: Broadcaster
    heartbeat: Heartbeat
    telemetry: Telemetry
    acknowledgements: Acknowledgements
    limits: Limits
    in_flight: InFlight = field(default_factory=InFlight)
    waiters: Waiters = field(default_factory=Waiters)
    standalones: OpenStreams = field(default_factory=OpenStreams)
    """The sessions' own GET streams, by session."""
    readers: OpenStreams = field(default_factory=OpenStreams)
    """Resumed request streams, by session and stream."""
    drain: Drain = field(default_factory=Drain)

"""What a request meets on its way: the services of one replica, in one record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import anyio

from mcpsession.broadcaster import Broadcaster
from mcpsession.cache import SessionCache
from mcpsession.contracts import EventLog, Holds, Mailbox
from mcpsession.endings import Endings
from mcpsession.heartbeat import Heartbeat
from mcpsession.journal import Journal
from mcpsession.listening import Listening
from mcpsession.news_contracts import NewsLog
from mcpsession.post_office import PostOffice
from mcpsession.records import Admission
from mcpsession.sdk.back_channel import Waiters
from mcpsession.sdk.ended import EndedSessions
from mcpsession.sdk.in_flight import InFlight
from mcpsession.sdk.levels import SessionChanges
from mcpsession.sdk.news_texts import NewsTexts
from mcpsession.sdk.open_streams import OpenStreams
from mcpsession.session_contracts import Initialization, ResourceSubscriptions, SessionStore
from mcpsession.settings import Settings
from mcpsession.tails import Tails
from mcpsession.telemetry import Telemetry
from mcpsession.touches import Touches


class Drain:
    """Whether this replica is on its way out."""

    def __init__(self) -> None:
        self.closing: list[Callable[[], None]] = []
        """What ends the listen streams of the servers that run here, gracefully."""
        self.ending: list[Callable[[], None]] = []
        """What ends those who would listen for ever: while a route of the application's does, servers wait for it."""
        self.reset()

    def reset(self) -> None:
        """The replica serves again."""
        self.begun = False
        self.over = False
        """The grace has passed: requests are refused, too."""
        self.done = False
        self.turn = anyio.Lock()


@dataclass(slots=True)
class Limits:
    """What new sessions get; an app's own arguments can still set it after the layer was built."""

    ttl: float | None
    max_sessions: int | None
    retry_ms: int | None
    """What clients are told to wait before they reconnect."""
    max_sessions_per_owner: int | None = None

    def admission(self) -> Admission:
        return Admission(max_sessions=self.max_sessions, max_per_owner=self.max_sessions_per_owner)


@dataclass(frozen=True, slots=True)
class Parts:
    """References only; the layer builds them and runs what runs."""

    settings: Settings
    sessions: SessionStore
    initialization: Initialization
    subscriptions: ResourceSubscriptions
    log: EventLog
    holds: Holds
    mailbox: Mailbox
    cache: SessionCache
    touches: Touches
    journal: Journal
    tails: Tails
    post_office: PostOffice
    broadcaster: Broadcaster
    news_log: NewsLog
    heartbeat: Heartbeat
    telemetry: Telemetry
    endings: Endings
    limits: Limits
    in_flight: InFlight = field(default_factory=InFlight)
    waiters: Waiters = field(default_factory=Waiters)
    standalones: OpenStreams = field(default_factory=OpenStreams)
    """The sessions' own GET streams, by session."""
    readers: OpenStreams = field(default_factory=OpenStreams)
    """Resumed request streams, by session and stream."""
    ended: EndedSessions = field(default_factory=EndedSessions)
    changes: SessionChanges = field(default_factory=SessionChanges)
    news_texts: NewsTexts = field(default_factory=NewsTexts)
    drain: Drain = field(default_factory=Drain)
    listening: Listening = field(default_factory=Listening)
    """Whether bells are heard; while they are not, whoever waits for one looks every `settings.poll`."""

"""News, to every local listener of every replica.

Costs one insert a publish, on whichever replica, and one read on each replica that hears of it. Each replica hears each
news once while it lives, in the order of its publisher; none is promised across publishers.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable
from typing import NamedTuple, NoReturn

import anyio
import anyio.lowlevel

from mcpsession.announcements import Announcements
from mcpsession.debounce import Debouncer
from mcpsession.errors import BroadcasterClosedError, NewsError, SessionNotFoundError
from mcpsession.model import Heard, Mail, News, NoStream, Published, ReplicaId, SessionId
from mcpsession.news import checked, decode, newest_of, uri_of
from mcpsession.news_contracts import NewsLog
from mcpsession.periodic import patiently
from mcpsession.settings import Settings
from mcpsession.subscribers import Subscribers, check
from mcpsession.subscription import Policy, Subscription
from mcpsession.telemetry import Telemetry
from mcpsession.texts import fault_of, storable

logger = logging.getLogger(__name__)

NewsListener = Callable[[Heard | None], None]
"""Called on the event loop with each news; None: anything may have been missed. Must not block."""

_CLOSE_DEADLINE = 2.0
# What waits for a pause is dispatched within 5 s; half of them at most are a `block` subscriber's.
_LONGEST_HELD_UP = 2.5


class _Checked(NamedTuple):
    """News that can be recorded."""

    body: str
    uri: str | None
    newest_of: str | None
    session_id: SessionId | None
    topic: str | None


class Broadcaster(Announcements):
    """Publishes to all replicas; tells this one's listeners and subscribers."""

    def __init__(
        self,
        log: NewsLog,
        settings: Settings,
        *,
        me: Callable[[], ReplicaId],
        ring: Callable[[], None],
        place: Callable[[], tuple[str, str]],
        telemetry: Telemetry,
    ) -> None:
        self._log = log
        self._settings = settings
        self._me = me
        self._ring = ring
        self._place = place
        self._telemetry = telemetry
        self._listeners: dict[object, NewsListener] = {}
        self._subscribers = Subscribers(telemetry)
        self._debouncer: Debouncer[_Checked] = Debouncer(
            self._dispatch, pause=settings.debounce, longest=settings.debounce_max, retry=settings.poll
        )
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<Broadcaster {state}: {self.subscriber_count} subscribers, {len(self._debouncer)} soon>"

    # For publishers

    async def publish(
        self, news: News, session_id: SessionId | None = None, topic: str | None = None, *, conn: object = None
    ) -> Published | NoStream:
        """Tell all who are to hear it, on every replica, here too; once each. Durable when it returns.

        Who hears it: without `session_id` and `topic` every subscriber, every session's standalone stream and every
        `subscriptions/listen` stream that asked for its kind. With a `topic` only the subscribers of this topic, and no
        client. With a `session_id` only this session's standalone stream, wherever it is, and this session's
        subscribers; `NoStream`, which is false, says that no stream is there now: its client hears it with the next GET
        within `mail_ttl`. What two publishers tell at the same time may be heard in any order.

        `conn`: a connection (asyncpg's, or SQLAlchemy's on asyncpg) within whose transaction it is recorded: all hear
        it after the commit, nobody after a rollback. Commits of transactions that do this wait for one another.

        Waits only for the store, and for subscribers with the policy `block`.

        Raises:
            NewsError: it is no notification that can be published; nothing was recorded.
            SessionNotFoundError: the session is not live; nothing was recorded.
            BroadcasterClosedError: the broadcaster was closed, or the layer has ended; nothing was recorded.
            LayerClosedError: the layer does not run yet.
            StoreUnavailableError: the store is away. If its answer was lost, it may have been recorded.
            StoreError: the store refused it: the transaction of `conn` is read-only, or has failed already.
            ConfigurationError: `conn` is nothing that this store can use.
        """
        self._check_open()
        piece = self._checked(news, session_id, topic)
        async with self._subscribers.room(session_id, topic, longest=math.inf, keep=conn is None):
            self._check_open()
            return await self._record(piece, conn)

    def soon(self, news: News, session_id: SessionId | None = None, topic: str | None = None) -> None:
        """Publish it once there is a pause (`debounce`, 50 ms) in news of its kind, with what the last one said.

        While there is none, every `debounce_max` (1 s). Of one kind are changes of the same list or resource, messages
        to all of the same logger and level, else what is the same in every word. Never waits, and can be called from
        any thread. Not durable: a process that dies in that moment takes it along. While the store is away it is kept
        and tried again; for a session that has ended meanwhile it is dropped; the end of the layer publishes what still
        waits.

        Raises:
            NewsError: it is no notification that can be published, or 10,000 kinds wait already.
            BroadcasterClosedError: the broadcaster was closed, or the layer has ended.
        """
        self._check_open()
        piece = self._checked(news, session_id, topic)
        self._debouncer.put((session_id, topic, piece.newest_of or piece.body), piece)

    # For subscribers

    @property
    def subscriber_count(self) -> int:
        """Subscriptions of this replica that hear."""
        return len(self._subscribers)

    def subscribe(
        self,
        session_id: SessionId | None = None,
        topic: str | None = None,
        *,
        policy: Policy = "resync",
        timeout: float = 1.0,
        buffer: int | None = None,
    ) -> Subscription:
        """Hear from now on what is published on any replica: to all, and to this session, to this topic, or to both.

            with layer.broadcaster.subscribe() as subscription:
                async for news in subscription: ...

        It can lag `buffer` news (the setting `subscriber_buffer`, 32) behind; then its `policy` counts:

        - `resync`: a `Gap` says so, and from the log it hears the newest of each kind, and what is of no kind, until it
          has caught up. So it hears the last state of everything.
        - `replay`: from the log it hears everything, once, however slow it is, as long as `mail_ttl` allows.
        - `drop_newest`, `drop_oldest`: a `Gap` stands in the place of what was dropped.
        - `disconnect`: after what it has comes SlowSubscriberError.
        - `block`: publishers on this replica wait for it, for `timeout` seconds at most; otherwise as `resync`. One
          that let a publisher wait in vain holds up no other until it reads again.

        A `Gap` that misses 0 says that nobody knows how much was missed; the three list changes come after it.
        A broadcaster that is closed gives a subscription that has ended.

        Raises ConfigurationError for a policy, timeout or buffer that cannot be.
        """
        room = self._settings.subscriber_buffer if buffer is None else buffer
        check(session_id, topic, policy, timeout, room)
        subscription = Subscription(
            self._log,
            self._subscribers,
            session_id=session_id,
            topic=topic,
            policy=policy,
            timeout=timeout,
            room=room,
            poll=self._settings.poll,
            position=self._place()[1],
        )
        if self._closed:
            subscription.end()
        else:
            self._subscribers.add(subscription)
        return subscription

    def listen(self, listener: NewsListener) -> Callable[[], None]:
        """Call `listener` with each news (`Heard`), whoever it is for, or None: anything may have been missed.

        On the event loop, in order, before any subscriber; one that blocks stops the server. Returns what ends that,
        safe to call twice. Raises TypeError for what is no plain function.
        """
        if not callable(listener) or inspect.iscoroutinefunction(listener):
            raise TypeError(
                f"a listener is a plain function, called on the event loop, not {listener!r}; to wait, subscribe"
            )
        token = object()
        self._listeners[token] = listener
        return lambda: self._listeners.pop(token, None) and None

    # Its life

    def open(self) -> None:
        """Publish again, after a close."""
        self._closed = False

    async def close(self) -> None:
        """Publish what waits, and end all subscriptions, in 2 s at most. The layer's end does it; twice is no error.

        Clients' streams are not subscriptions: they go on hearing what other replicas publish.
        """
        if self._closed:
            return
        self._closed = True
        try:
            with anyio.move_on_after(_CLOSE_DEADLINE, shield=True):
                await self._debouncer.flush()
        finally:
            self._subscribers.end()

    def end_subscriptions(self) -> None:
        """End those there are; what waits in them can still be read. The end of a drain does it."""
        self._subscribers.end()

    async def run(self) -> NoReturn:
        """Publish what waits for a pause, until cancelled."""
        await patiently(self._debouncer.run, name="publishing what waited for a pause")

    # For the post office

    def hear(self, mail: Mail) -> None:
        """Take one news mail."""
        news = decode(mail)
        if news is None:
            self._telemetry.count("mcpsession_malformed_news_total")
            logger.warning("news %d is malformed and was ignored", mail.id)
            return
        before, position = self._place()
        heard = Heard(news, mail.session_id, mail.incarnation, mail.topic, mail.id, mail.xid, before, position)
        self._tell(heard)
        self._subscribers.hear(heard, own=mail.sender == self._me())

    def lose(self) -> None:
        """News may have been missed: whoever listens looks for itself."""
        self._tell(None)
        self._subscribers.lose()

    def _tell(self, heard: Heard | None) -> None:
        for listener in list(self._listeners.values()):
            try:
                listener(heard)
            except Exception:  # the boundary: one bad listener must not keep news from the others
                logger.exception("a listener of the broadcaster failed")

    # Recording

    def _check_open(self) -> None:
        if self._closed:
            raise BroadcasterClosedError

    def _checked(self, news: News, session_id: SessionId | None, topic: str | None) -> _Checked:
        if not isinstance(news, News):
            raise NewsError(f"News(method, params) is wanted, not {type(news).__name__}")
        body = checked(news.method, news.params, topic, self._settings.max_news_bytes)
        if session_id is not None and not isinstance(session_id, str):
            raise NewsError(f"a session's id is a text, not {type(session_id).__name__}")
        if session_id is not None and not storable(session_id):
            raise SessionNotFoundError(session_id)
        key = newest_of(news, to_one=session_id is not None)
        for text in (topic, key):
            if text is not None and (fault := fault_of(text)):
                raise NewsError(fault)
        return _Checked(body, uri_of(news), key, session_id, topic)

    async def _record(self, piece: _Checked, conn: object) -> Published | NoStream:
        mail = Mail("news", self._me(), None, piece.session_id, piece.body, topic=piece.topic)
        reach = await self._log.publish(mail, uri=piece.uri, newest_of=piece.newest_of, connection=conn)
        if reach is None:
            raise SessionNotFoundError(piece.session_id or "")
        if conn is None:
            self._ring()
        self._telemetry.count("mcpsession_published_news_total")
        # In memory nothing above waits: without this a publisher that never pauses would starve those who listen.
        await anyio.lowlevel.cancel_shielded_checkpoint()
        if piece.session_id is not None and piece.topic is None and not reach.holder:
            return NoStream(piece.session_id)
        return Published()

    async def _dispatch(self, piece: _Checked) -> None:
        async with self._subscribers.room(piece.session_id, piece.topic, longest=_LONGEST_HELD_UP):
            await self._record(piece, None)

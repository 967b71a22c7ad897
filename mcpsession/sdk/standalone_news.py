"""What a standalone stream tells of the news: which is for its session, live and after an absence.

News for all and for this session reaches it; never what has a topic, nor what is no notification. Updates of resources
reach it if the session has subscribed to them, log messages from the session's level on. Both are judged in the
stream's own task, in order: whatever the session was answered before some news was published is known by then, because
the mail that says so comes before the news.

A stream that was away, or lags too far behind, or whose replica may have missed something, reads the log from where it
stands: of each kind the newest. At least once, in each publisher's order.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio

from mcpsession.errors import StoreError, StoreUnavailableError
from mcpsession.model import Heard, Mail, News, NewsPage, has_seen
from mcpsession.news import (
    LOG_MESSAGE,
    RESOURCE_UPDATED,
    decode,
    everything_changed,
    is_for_clients,
    uri_of,
)
from mcpsession.records import Session
from mcpsession.sdk import wire
from mcpsession.sdk.levels import LogGate
from mcpsession.sdk.news_texts import notification_text
from mcpsession.sdk.parts import Parts

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Place:
    """How far a stream is: its own events, and the broadcast mail."""

    __slots__ = ("position", "seq")

    def __init__(self, seq: int = 0, position: str = "") -> None:
        self.seq = seq
        self.position = position

    @property
    def pair(self) -> tuple[int, str]:
        return self.seq, self.position

    @property
    def event_id(self) -> str:
        """What a client sends back that has everything up to here."""
        return wire.standalone_event_id(self.seq, self.position)


class StandaloneNews:
    """The news of one standalone stream. `place.position` is how far it has told them; `write` sends frames."""

    def __init__(
        self,
        parts: Parts,
        session: Session,
        place: Place,
        *,
        write: Callable[[Sequence[bytes]], Awaitable[None]],
        wake: Callable[[], None],
    ) -> None:
        self._parts = parts
        self._session = session
        self._place = place
        self._write = write
        self._wake = wake
        self._queue: deque[tuple[Heard, str]] = deque()
        self._bytes = 0
        # The log is to be read from the stream's place on; what is heard until that begins need not be kept.
        self._behind = True
        # What was read from the log already. The place can lie before it: a replica may read its mail in small pages.
        self._floor = ""
        # From the store and not from this replica's memory: what the log says may be newer than that.
        self._levels = LogGate(session, parts.changes, parts.sessions.get)
        self._subscribed: frozenset[str] = frozenset()
        self._subscribed_at = -1
        self._all_changed = False

    def begin_again(self) -> None:
        """The place was moved back: tell from there on, and that everything changed, since more may be lost."""
        self._fall_behind()
        self._floor = ""
        self._all_changed = True

    def hear(self, heard: Heard | None) -> None:
        """Take what the broadcaster tells; None: something may have been missed. Never blocks."""
        if self._behind:
            return
        if heard is None:
            self._fall_behind()
        elif self._may_concern(heard):
            text = self._parts.news_texts.of(heard.id, heard.news)
            if text is None:
                return
            settings = self._parts.settings
            # One always fits.
            full = len(self._queue) >= settings.outbound_frames or self._bytes + len(text) > settings.outbound_bytes
            if self._queue and full:
                self._fall_behind()
            else:
                self._queue.append((heard, text))
                self._bytes += len(text)
        else:
            return
        self._wake()

    async def tell(self) -> None:
        """Send what is new now, first what was missed. For what comes meanwhile the stream is woken."""
        if self._behind:
            await self._catch_up()
        if self._queue:
            await self._tell_heard()

    def keep_fresh(self) -> bool:
        """Move the place on if nothing was told for long, so that it does not grow too old; whether it moved."""
        # All that the replica has read was heard, and all that was heard is told.
        position = self._parts.post_office.position
        if (
            self._behind
            or self._queue
            or _time(position) - _time(self._place.position) < self._parts.settings.mail_ttl / 8
        ):
            return False
        self._place.position = position
        return True

    # What is heard

    def _fall_behind(self) -> None:
        self._behind = True
        self._queue.clear()
        self._bytes = 0

    def _may_concern(self, heard: Heard) -> bool:
        if heard.topic is not None or heard.session_id not in (None, self._session.id):
            return False
        if heard.incarnation not in (None, self._session.incarnation):
            # An earlier session's, which had the same id.
            return False
        # This replica may hear later what was read from the log, or what is older than the session.
        if not is_for_clients(heard.news) or has_seen(self._floor, heard.xid):
            return False
        if heard.news.method != RESOURCE_UPDATED:
            return True
        # A flood about other resources must not push out what matters.
        uri = uri_of(heard.news)
        return uri is not None and (self._is_stale() or uri in self._subscribed)

    async def _tell_heard(self) -> None:
        heard, self._queue, self._bytes = self._queue, deque(), 0
        wanted = [
            (text, one.position)
            for one, text in heard
            if not has_seen(self._floor, one.xid) and await self._wants(one.news)
        ]
        frames = []
        for number, (text, position) in enumerate(wanted):
            last = number + 1 == len(wanted) or wanted[number + 1][1] != position
            frames.append(self._frame(text, position if last else None))
        await self._write(frames)

    def _frame(self, text: str, position: str | None) -> bytes:
        """A frame's id says that all news up to its position has arrived: only the last one of a page carries it."""
        if position is not None:
            self._place.position = position
        return wire.event(self._place.event_id, text)

    # What was missed

    async def _catch_up(self) -> None:
        # From here on what is heard is kept: the log is read later, and has all that was heard before.
        self._behind = False
        if self._all_changed:
            self._all_changed = False
            texts = await self._everything_changed()
            await self._write([self._frame(text, None) for text in texts])
        more = True
        while more:
            texts, position, more = await self._missed()
            frames = [self._frame(text, None) for text in texts[:-1]]
            self._place.position = self._floor = position
            frames += [self._frame(text, None) for text in texts[-1:]]
            await self._write(frames)

    async def _missed(self) -> tuple[Sequence[str], str, bool]:
        """The next page of what was missed, up to which position, and whether there is more."""
        page = await self._patiently(self._page)
        if page is not None:
            # What is known of the level may be older than the page.
            self._levels.doubt()
            return [text for mail in page.mails if (text := await self._text(mail))], page.position, page.more
        # In this order: of a resource that is subscribed to later, later news tells.
        position = await self._patiently(self._parts.mailbox.position)
        return await self._everything_changed(), position, False

    async def _everything_changed(self) -> Sequence[str]:
        uris = await self._patiently(lambda: self._parts.subscriptions.uris(self._session.id))
        logger.info("the news of a standalone stream was lost: its client is told that everything changed")
        return [notification_text(news) for news in everything_changed(uris)]

    async def _page(self) -> NewsPage | None:
        try:
            return await self._parts.news_log.missed(
                self._place.position,
                session_id=self._session.id,
                incarnation=self._session.incarnation,
                newest=True,
                subscribed=True,
            )
        except (
            StoreError
        ):  # the same again would fail again; clients send positions back to us, and they may be anything
            logger.exception("the news of a standalone stream cannot be read")
            return None

    async def _text(self, mail: Mail) -> str | None:
        news = decode(mail)
        if news is None or not is_for_clients(news):
            return None
        # Of resources the store has chosen, but for what is none.
        if news.method == RESOURCE_UPDATED and uri_of(news) is None:
            return None
        if news.method == LOG_MESSAGE and not await self._wants(news):
            return None
        return self._parts.news_texts.of(mail.id, news)

    # What the session wants

    async def _wants(self, news: News) -> bool:
        if news.method != RESOURCE_UPDATED:
            return await self._levels.passes(news.method, news.params)
        if self._is_stale():
            # Taken before the read: a change during it makes the answer stale at once.
            at = self._parts.changes.latest(self._session.id)
            uris = await self._patiently(lambda: self._parts.subscriptions.uris(self._session.id))
            self._subscribed, self._subscribed_at = frozenset(uris), at
        return uri_of(news) in self._subscribed

    def _is_stale(self) -> bool:
        """Whether the session may have changed its subscriptions since they were read."""
        return self._subscribed_at != self._parts.changes.latest(self._session.id)

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await ask()
            except StoreUnavailableError as error:
                logger.warning("a standalone stream waits: %s", error)
                await anyio.sleep(self._parts.settings.poll)


def _time(position: str) -> float:
    try:
        return float(position.rpartition("@")[2])
    except ValueError:
        return 0.0

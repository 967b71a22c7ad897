"""One subscriber of the broadcaster: news in a bounded buffer, and what happens when that is full.

Costs a reference for each news that waits. One that lags behind reads from the log what it missed, page by page, so
that it costs a page, however far behind it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Literal, Protocol, Self, get_args

import anyio

from mcpsession.backlog import Backlog, Places
from mcpsession.catch_up import CatchUp
from mcpsession.errors import SlowSubscriberError
from mcpsession.model import Gap, Heard, News, SessionId, fingerprint, has_seen
from mcpsession.news import EVERYTHING_CHANGED
from mcpsession.news_contracts import PAGE_MAILS, NewsLog

Policy = Literal["resync", "replay", "drop_newest", "drop_oldest", "disconnect", "block"]
POLICIES: Sequence[Policy] = get_args(Policy)

LOST = (Gap(), *EVERYTHING_CHANGED)
"""What a subscriber hears when nobody knows what it missed."""

# A page of the mail comes in one turn of the event loop: whoever waits for news is not slow because it had none yet.
_PAGE = PAGE_MAILS


class Home(Protocol):
    """Where subscriptions are registered."""

    def leave(self, subscription: Subscription) -> None:
        """Let it hear no more."""
        ...

    def hold(self, subscription: Subscription) -> None:
        """Keep it alive: a task waits in it."""
        ...

    def let_go(self, subscription: Subscription) -> None:
        """The task waits no more."""
        ...

    def overflowed(self, *, dropped: int, subscribers: int) -> None:
        """Count news that did not fit, and subscribers that began to lag."""
        ...


class Subscription(AbstractContextManager["Subscription"], AbstractAsyncContextManager["Subscription"]):
    """An async iterator of news for one task at a time. `broadcaster.subscribe` makes it.

    It hears what is published from then on, until it is closed: by `close`, by leaving its `with`, by a cancellation or
    timeout of the task that waits in it, by the end of the broadcaster, or because nobody has it any more.
    """

    def __init__(
        self,
        log: NewsLog,
        home: Home,
        *,
        session_id: SessionId | None,
        topic: str | None,
        policy: Policy,
        timeout: float,
        room: int,
        poll: float,
        position: str,
    ) -> None:
        self._log = log
        self._home = home
        self._session_id = session_id
        self._topic = topic
        self._room = room
        self._poll = poll
        self.policy = policy
        self.timeout = timeout
        self.dropped = 0
        """How much news did not fit. With `resync` and `block` the newest of each kind of it is heard all the same."""
        self._backlog = Backlog()
        self._ready: deque[News] = deque()
        """What comes before the backlog: a page of the log."""
        self._behind: CatchUp | None = None
        self._gap = 0
        """What it has missed since it began to lag, until it is told of that."""
        self._floor = ""
        """Up to this position it has read the log; what comes live of that, is an echo."""
        self._page = ""
        """The position before the page of which news comes now, …"""
        self._ids: set[int] = set()
        """… and what it has of that page."""
        self._last = position
        """The position up to which news came."""
        self.is_stalled = False
        """With `block`: a publisher has waited in vain, and it has not read since."""
        self._places = Places()
        self._wake: anyio.Event | None = None
        """Of the task that waits for news."""
        self._reading = False
        self._ended = self._cancelled = False
        self._error: SlowSubscriberError | None = None

    def __repr__(self) -> str:
        state = "closed" if self._ended else "behind" if self._behind else "live"
        of = "" if self._session_id is None else f" of session {fingerprint(self._session_id)}"
        on = "" if self._topic is None else f" on {self._topic!r:.60}"
        return f"<Subscription{of}{on} ({self.policy}): {state}, {self._backlog.held} waiting, {self.dropped} dropped>"

    # For the subscriber

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> News:
        """The next news.

        Raises SlowSubscriberError, once, if the policy `disconnect` has ended it.
        """
        if self._reading:
            raise RuntimeError("two tasks read one subscription at the same time; give each of them its own")
        if self._cancelled:
            raise RuntimeError(
                "this subscription ended when the task that waited in it was cancelled, or its time was out: subscribe "
                "again, or let a task of its own read it"
            )
        self._reading, self.is_stalled = True, False
        try:
            return await self._next()
        except Exception:
            raise
        except BaseException:
            # Whoever was cancelled here does not come back.
            self._cancelled = not self._ended
            self.close()
            raise
        finally:
            self._reading = False

    def close(self) -> None:
        """Hear no more. Safe to call twice; a task that waits for news sees the end."""
        self._backlog.clear()
        self._ready.clear()
        self._behind = self._error = None
        self._gap = 0
        self.end()

    async def aclose(self) -> None:
        """As `close`."""
        self.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aexit__(self, *_: object) -> None:
        self.close()

    # For the broadcaster

    def wants(self, session_id: SessionId | None, topic: str | None) -> bool:
        """Whether news for this session and topic is for this subscriber."""
        return session_id in (None, self._session_id) and topic in (None, self._topic)

    def hear(self, heard: Heard, *, own: bool) -> None:
        """Take news; `own`: this replica published it."""
        if self._ended:
            return
        self._last = heard.position
        if not self.wants(heard.session_id, heard.topic):
            return
        if own:
            self._places.come()
        if self._behind is not None:
            self._behind.again = True
            if self._gap:
                self._gap += 1
                self._drop(begins=False)
        elif not (self._floor and has_seen(self._floor, heard.xid)):
            self._take(heard)

    def lose(self) -> None:
        """News may have been missed, and nobody knows how much."""
        if self._ended:
            return
        last, self._last = self._last, ""
        self._places.clear()
        if self._behind is not None:
            # It has a place of its own in the log.
            self._behind.again = True
        elif self.policy == "replay" and last:
            self._lag(last, frozenset())
        else:
            self._floor = ""
            self._backlog.lose()
        self._rouse()

    def end(self) -> None:
        """Hear no more; what waits can still be read."""
        self._ended = True
        self._home.leave(self)
        self._rouse()
        self._places.free()

    async def reserve(self) -> None:
        """Wait until there is room for one more, and keep it for who asks."""
        while not self._ended and not self._has_room():
            await self._places.freed()
        self._places.keep()

    def give_back(self) -> None:
        """What room was kept for does not come."""
        self._places.give_back()

    # Taking news

    def _take(self, heard: Heard) -> None:
        if heard.before != self._page:
            self._page = heard.before
            self._ids.clear()
        if self._backlog.held < self._room + (_PAGE if self._wake is not None else 0):
            self._backlog.add(heard.news)
            self._ids.add(heard.id)
            self._rouse()
        else:
            self._overflow(heard)

    def _overflow(self, heard: Heard) -> None:
        begins = True
        match self.policy:
            case "drop_newest":
                begins = self._backlog.drop_newest()
            case "drop_oldest":
                begins = self._backlog.drop_oldest()
                self._backlog.add(heard.news)
            case "disconnect":
                self._error = SlowSubscriberError(self._room)
                self.end()
            case "replay":
                self._lag(heard.before, frozenset(self._ids))
                self._home.overflowed(dropped=0, subscribers=1)
                return
            case "resync" | "block":
                self._lag(heard.before, frozenset(self._ids))
                self._gap = 1
        self._drop(begins=begins)

    def _drop(self, *, begins: bool) -> None:
        self.dropped += 1
        self._home.overflowed(dropped=1, subscribers=int(begins))

    def _lag(self, position: str, ids: frozenset[int]) -> None:
        self._behind = CatchUp(
            self._log,
            position,
            ids,
            self._floor,
            session_id=self._session_id,
            topic=self._topic,
            newest=self.policy != "replay",
        )

    def _has_room(self) -> bool:
        return self._behind is None and self._backlog.held + len(self._places) < self._room

    def _rouse(self) -> None:
        if self._wake is not None:
            self._wake.set()

    # Giving news

    async def _next(self) -> News:
        while True:
            if self._ready:
                return self._ready.popleft()
            if self._backlog:
                if (news := self._backlog.take()) is not None:
                    self._places.free()
                    return news
                self._ready.extend(LOST)
            elif self._ended:
                error, self._error = self._error, None
                raise error or StopAsyncIteration
            elif self._behind is not None:
                await self._follow(self._behind)
            else:
                await self._wait()

    async def _wait(self) -> None:
        self._wake = anyio.Event()
        # The broadcaster keeps it weakly; a task that waits here may be kept by nothing else.
        self._home.hold(self)
        try:
            await self._wake.wait()
        finally:
            self._wake = None
            self._home.let_go(self)

    async def _follow(self, behind: CatchUp) -> None:
        """Go one step on in the log."""
        if self._gap:
            self._ready.append(Gap(missed=self._gap))
            self._gap = 0
        elif behind.done:
            self._floor, self._behind = behind.position, None
            self._places.free()
        else:
            page = await behind.read(self._pause)
            if self._behind is not behind:
                # It was closed meanwhile.
                return
            if page is None:
                self._floor, self._behind = "", None
                self._places.free()
            self._ready.extend(LOST if page is None else page)

    async def _pause(self) -> None:
        with anyio.move_on_after(self._poll):
            await self._wait()

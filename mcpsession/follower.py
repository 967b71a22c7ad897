"""One who follows an application's stream: what it has, then what comes, without a seam."""

from __future__ import annotations

import logging
from collections import deque
from contextlib import AbstractAsyncContextManager, ExitStack
from types import TracebackType
from typing import Literal, Self

import anyio

from mcpsession.errors import StoreUnavailableError
from mcpsession.event_records import EntryPage, EventGap, LoggedEvent, StoredEntry
from mcpsession.event_texts import event_of, gap_before, missed, place_of
from mcpsession.following import Followed, Following, Key
from mcpsession.model import SessionId, fingerprint
from mcpsession.tails import Tail

logger = logging.getLogger(__name__)


class Follower(AbstractAsyncContextManager["Follower"]):
    """An async iterator of a stream's events, for one task at a time. `layer.events.follow` makes it.

    It gives what is past its cursor, oldest first, then what is appended on any replica: each event once, in order,
    none left out; in the place of what the log does not have any more comes an `EventGap`. A wait that is cancelled, or
    times out, loses nothing. It ends with the session, and with the layer: see `ended`.
    """

    def __init__(
        self, following: Following, session_id: SessionId, stream: str, after: int | str | None, *, owner: str | None
    ) -> None:
        self._following = following
        self._key: Key = (session_id, stream)
        self._after = after
        self._place = place_of(after, stream)
        self._owner = owner
        self._hearing = ExitStack()
        self._tail = Tail()
        self._followed: Followed | None = None
        self._incarnation = 0
        self._ready: deque[StoredEntry | EventGap] = deque()
        """What comes next: a page of its own."""
        self._seen = 0
        """The number of the newest event that came."""
        self._is_read = self._is_left = False
        self.position = 0
        """The number up to which events came; a cursor like any other."""
        self.newest = 0
        """The number of the stream's newest event when this began."""
        self.ended: Literal["session", "layer"] | None = None
        """What has ended it."""

    def __repr__(self) -> str:
        state = f"ended with the {self.ended}" if self.ended else "closed" if self._is_left else "open"
        return f"<Follower of {self._key[1]!r} of session {fingerprint(self._key[0])} at {self.position}: {state}>"

    async def __aenter__(self) -> Self:
        """Raises SessionNotFoundError, StoreUnavailableError, LayerClosedError."""
        if self._followed is not None or self._is_left:
            raise RuntimeError("this follower was used already; ask layer.events.follow for another")
        # It hears before it reads, so nothing can come between.
        self._tail = self._hearing.enter_context(self._following.hearing(self._key))
        try:
            self._followed = self._following.join(self._key, self._tail)
            self._begin(await self._followed.begin(self._place, self._owner))
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._leave()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> LoggedEvent:
        if self._followed is None:
            raise RuntimeError("enter it first: async with layer.events.follow(session_id) as events")
        if self._is_read:
            raise RuntimeError("two tasks read one follower at the same time; give each of them its own")
        self._is_read = True
        try:
            return await self._next(self._followed)
        finally:
            self._is_read = False

    def _begin(self, page: EntryPage) -> None:
        self._incarnation, self.newest = page.incarnation, page.last_seq
        begins = page.entries[0].seq - 1 if page.entries else page.last_seq
        gone = missed(page, self._after, self._place)
        if gone is not None:
            self._ready.append(gap_before(begins + 1, self._key[1], gone))
        # A number may lie in the future.
        is_number = isinstance(self._place, int) and self._after is not None
        self.position = self._place if is_number and isinstance(self._place, int) and gone is None else begins
        self._ready.extend(page.entries)

    async def _leave(self) -> None:
        self._is_left = True
        self._hearing.close()
        # A task that still reads learns of it.
        self._tail.wake()
        if self._followed is not None:
            await self._following.leave(self._key, self._followed, self._tail)

    async def _next(self, followed: Followed) -> LoggedEvent:
        while True:
            if self._is_over(followed):
                raise StopAsyncIteration
            window = followed.window
            if self._ready:
                return self._give(self._ready.popleft())
            if (entry := window.past(self.position)) is not None:
                return self._give(entry)
            if self._seen > window.last:
                # The store has lost what came here; what it counts from there on is other events.
                self._ready.append(gap_before(window.last + 1, self._key[1], 0))
            elif self.position < window.base:
                await self._catch_up(followed)
            else:
                await self._wait(followed)

    def _is_over(self, followed: Followed) -> bool:
        if self.ended is None and followed.incarnation != self._incarnation:
            self.ended = "session"
        elif self.ended is None and followed.is_closed:
            self.ended = "layer"
        return self._is_left or (self.ended is not None and not self._ready)

    def _give(self, next_one: StoredEntry | EventGap) -> LoggedEvent:
        event = next_one if isinstance(next_one, EventGap) else event_of(next_one, self._key[1])
        self.position = self._seen = event.seq
        return event

    async def _catch_up(self, followed: Followed) -> None:
        """Read on by oneself: others are further."""
        try:
            page = await followed.read(self.position)
        except StoreUnavailableError as error:
            logger.debug("one who follows a stream of session %s waits: %s", fingerprint(self._key[0]), error)
            await self._tail.wait(followed.poll)
            return
        if page is None or page.incarnation != self._incarnation:
            self.ended = "session"
        elif page.entries:
            if (first := page.entries[0].seq) > self.position + 1:
                self._ready.append(gap_before(first, self._key[1], first - 1 - self.position))
            self._ready.extend(page.entries)
        else:
            # So far it goes no more: let the others learn it, too.
            await followed.look(rung=True)
            await self._tail.wait(followed.poll)

    async def _wait(self, followed: Followed) -> None:
        tail, now = self._tail, anyio.current_time()
        if not tail.rung and now < followed.look_at:
            await tail.wait(followed.look_at - now)
            return
        rung, tail.rung = tail.rung, False
        try:
            await followed.look(rung=rung)
        except BaseException:
            tail.rung = tail.rung or rung
            raise

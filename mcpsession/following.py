"""Who follows an application's streams in this replica.

Costs one statement to begin and one to end for each stream, then a read for each bell, and one every `poll` seconds for
a bell that was lost, however many follow: whoever comes first reads for all, and the newest events stay at hand.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager

import anyio

from mcpsession.errors import LayerClosedError, MCPSessionError, SessionNotFoundError, StoreUnavailableError
from mcpsession.event_contracts import SessionEvents
from mcpsession.event_records import EntryPage, StoredEntry
from mcpsession.event_texts import stream_id_of
from mcpsession.model import ReplicaId, SessionId, fingerprint
from mcpsession.tails import Tail, Tails

logger = logging.getLogger(__name__)

_PAGE = 256
_AT_HAND = 256
_BYTES_AT_HAND = 1024 * 1024
_UNFOLLOW_WITHIN = 2.0

Key = tuple[SessionId, str]


class Window:
    """The newest events of a stream that were read here: those past `base`, up to `last`."""

    def __init__(self, base: int) -> None:
        self.base = self.last = base
        self._entries: deque[StoredEntry] = deque()
        self._bytes = 0

    def past(self, seq: int) -> StoredEntry | None:
        """The event after this number, if it is at hand."""
        return self._entries[seq - self.base] if self.base <= seq < self.last else None

    def add(self, page: EntryPage) -> None:
        """Take in what is newer."""
        for entry in page.entries:
            if entry.seq > self.last:
                if entry.seq != self.last + 1:
                    self._entries.clear()
                    self._bytes, self.base = 0, entry.seq - 1
                self._entries.append(entry)
                self._bytes += len(entry.data)
                self.last = entry.seq
        while len(self._entries) > _AT_HAND or (self._bytes > _BYTES_AT_HAND and len(self._entries) > 1):
            self._bytes -= len(self._entries.popleft().data)
            self.base += 1


class Followed:
    """A stream that is followed here: entered in the store once, and read once, for all."""

    def __init__(self, store: SessionEvents, key: Key, me: Callable[[], ReplicaId], poll: float) -> None:
        self._store = store
        self._key = key
        self._me = me
        self.poll = poll
        self.tails: set[Tail] = set()
        """Of those who follow."""
        self._lock = anyio.Lock()
        self.incarnation: int | None = None
        """Of the session, as far as it was read; None: there is none."""
        self.window = Window(0)
        self.is_closed = False
        self.look_at = 0.0
        """When to look although no bell was heard."""
        self._paused_until = 0.0
        self._registered_as: ReplicaId | None = None
        self._begun = self._done = 0
        """Reads, by number."""

    async def begin(self, place: int | str, owner: str | None) -> EntryPage:
        """Enter this replica, then read the first page past a place. Raises SessionNotFoundError."""
        async with self._lock:
            # Another owner's is not even touched.
            is_there = owner is None or await self._store.read(*self._key, 0, 1, owner=owner) is not None
            while is_there and await self._register():
                known = self.window.last
                page = await self._store.read(*self._key, place, _PAGE, owner=owner)
                self._note(page, known)
                if page is not None and self._registered_as is not None:
                    return page
                # What this replica was entered in was an earlier session.
                is_there = page is not None
            raise SessionNotFoundError(self._key[0])

    async def read(self, after: int) -> EntryPage | None:
        """A page for one who is behind what is at hand."""
        page = await self._store.read(*self._key, after, _PAGE)
        if page is not None and page.incarnation == self.incarnation:
            self.window.add(page)
        return page

    async def look(self, *, rung: bool) -> None:
        """Have what is new at hand: after a bell by a read that began later, else if the last one was long ago."""
        wanted = self._begun + 1
        async with self._lock:
            now = anyio.current_time()
            if self.is_closed or now < self._paused_until or self._done >= wanted or (not rung and now < self.look_at):
                return
            self._begun = number = self._begun + 1
            known = self.window.last
            try:
                page = await self._store.read(*self._key, self.window.last, _PAGE) if await self._register() else None
            except StoreUnavailableError as error:
                # The heart says so once; there may be thousands of streams.
                logger.debug("those who follow a stream of session %s wait: %s", fingerprint(self._key[0]), error)
                self._paused_until = self.look_at = anyio.current_time() + self.poll
                return
            self._done = number
            # Streams that are followed in many replicas need not be looked at by all in the same moment.
            self.look_at = now + self.poll * random.uniform(0.5, 1.0)
            self._note(page, known)

    def wake(self) -> None:
        """Tell all who follow that there is something to be seen here."""
        for tail in self.tails:
            tail.wake()

    async def end(self) -> None:
        """Nobody follows any more: say so in the store. Whoever begins to meanwhile waits, and enters anew."""
        async with self._lock:
            registered, self._registered_as = self._registered_as, None
            if registered is not None and not self.is_closed:
                await self._store.unfollow(*self._key, registered)

    async def _register(self) -> bool:
        # Declared dead and born again, this replica is not among the followers any more.
        if self._registered_as == (me := self._me()):
            return True
        if not await self._store.follow(*self._key, me):
            return False
        self._registered_as = me
        return True

    def _note(self, page: EntryPage | None, known: int) -> None:
        """Take in a page, or that there is no session; `known`: the newest number that was known before it was read."""
        incarnation = None if page is None else page.incarnation
        if self.incarnation not in (None, incarnation):
            # It has ended, and perhaps another one has its id: there this replica is not entered.
            self._registered_as = None
        if page is not None:
            # Or the store went back in time, in a fail-over.
            if incarnation != self.incarnation or page.last_seq < known:
                self.window = Window(page.entries[0].seq - 1 if page.entries else page.last_seq)
            self.window.add(page)
            if page.entries and page.entries[-1].seq < page.last_seq:
                # There is more.
                self.look_at = 0.0
        changed, self.incarnation = incarnation != self.incarnation, incarnation
        if changed or self.window.last != known:
            self.wake()


class Following:
    """All streams that are followed in this replica."""

    def __init__(self, store: SessionEvents, tails: Tails, *, me: Callable[[], ReplicaId], poll: float) -> None:
        self._store = store
        self._me = me
        self._poll = poll
        self._tails = tails
        self._followed: dict[Key, Followed] = {}
        self._is_open = False

    def __len__(self) -> int:
        """How many follow."""
        return sum(len(followed.tails) for followed in self._followed.values())

    def open(self) -> None:
        """The layer runs."""
        self._is_open = True

    def close(self) -> None:
        """The layer ends, and with it all who follow."""
        self._is_open = False
        for followed in self._followed.values():
            followed.is_closed = True
            followed.wake()
        self._followed.clear()

    def hearing(self, key: Key) -> AbstractContextManager[Tail]:
        """Hear the bells of a stream while inside."""
        session_id, stream = key
        return self._tails.reading(session_id, stream_id_of(stream))

    def join(self, key: Key, tail: Tail) -> Followed:
        """Follow; `leave` is to come. Raises LayerClosedError."""
        if not self._is_open:
            raise LayerClosedError
        followed = self._followed.setdefault(key, Followed(self._store, key, self._me, self._poll))
        followed.tails.add(tail)
        return followed

    async def leave(self, key: Key, followed: Followed, tail: Tail) -> None:
        """Follow no more."""
        followed.tails.discard(tail)
        if followed.tails:
            return
        try:
            with anyio.move_on_after(_UNFOLLOW_WITHIN, shield=True):
                await followed.end()
        except MCPSessionError as error:
            # Bells for nobody, until the session or this replica ends.
            logger.debug("a stream of session %s counts as followed still: %s", fingerprint(key[0]), error)
        finally:
            if not followed.tails and self._followed.get(key) is followed:
                del self._followed[key]

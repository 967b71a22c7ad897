"""Who reads a stream in this replica: woken by a bell, and by a slow poll if the bell was lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from mcpsession.model import STANDALONE, SessionId, StreamId


class Tail:
    """One reader's alarm. A level, not an edge: waking it before it waits is not lost."""

    __slots__ = ("_event", "rung")

    def __init__(self) -> None:
        self._event = anyio.Event()
        self.rung = True
        """Whether the stream may have grown; for the reader to take back."""

    def ring(self) -> None:
        """The stream has grown."""
        self.rung = True
        self._event.set()

    def wake(self) -> None:
        """Something else is to be looked at."""
        self._event.set()

    async def wait(self, at_most: float) -> None:
        """Wait for the next wake, or `at_most` seconds."""
        with anyio.move_on_after(at_most):
            await self._event.wait()
        self._event = anyio.Event()


class Tails:
    """All readers of this replica, by stream."""

    def __init__(self) -> None:
        self._tails: dict[tuple[SessionId, StreamId], set[Tail]] = {}
        self._alarm = anyio.Event()

    def __len__(self) -> int:
        return sum(map(len, self._tails.values()))

    @contextmanager
    def reading(self, session_id: SessionId, stream_id: StreamId) -> Iterator[Tail]:
        """Hear of a stream's growth while inside."""
        tail, key = Tail(), (session_id, stream_id)
        self._tails.setdefault(key, set()).add(tail)
        try:
            yield tail
        finally:
            readers = self._tails[key]
            readers.discard(tail)
            if not readers:
                del self._tails[key]

    def wake(self, session_id: SessionId, stream_id: StreamId) -> None:
        for tail in self._tails.get((session_id, stream_id), ()):
            tail.ring()

    def wake_session(self, session_id: SessionId) -> None:
        for (session, _), tails in self._tails.items():
            if session == session_id:
                for tail in tails:
                    tail.ring()

    def wake_all(self) -> None:
        """Any stream may have grown. Standalone ones can be thousands: who waits in `alarmed` looks for all of them."""
        for (_, stream_id), tails in self._tails.items():
            if stream_id != STANDALONE:
                for tail in tails:
                    tail.ring()
        self._alarm.set()

    async def alarmed(self, at_most: float) -> None:
        """Wait until any stream may have grown, or `at_most` seconds."""
        with anyio.move_on_after(at_most):
            await self._alarm.wait()
        self._alarm = anyio.Event()

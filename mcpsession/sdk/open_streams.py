"""GET streams that this replica holds open."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Protocol

import anyio

from mcpsession.model import SessionId, StreamId
from mcpsession.records import Session


class LocalStream(Protocol):
    """An open GET stream of this replica."""

    @property
    def session(self) -> Session: ...

    @property
    def began(self) -> float:
        """When it was opened, by time.monotonic()."""

    @property
    def request_id(self) -> str | int | None:
        """The request that it answers, as far as that is known."""

    def let_go(self, below: int | None = None) -> None:
        """Stop writing and tell the client to reconnect: another socket takes over, or this replica goes.

        `below`: only if this stream's hold is of an earlier epoch.
        """

    def end(self) -> None:
        """The session has ended: say so where there is something to say, and stop."""


class OpenStreams:
    """By session and stream; of one stream, one socket."""

    def __init__(self) -> None:
        self._streams: dict[SessionId, dict[StreamId, set[LocalStream]]] = {}
        self._left = anyio.Event()

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[LocalStream]:
        return iter([stream for session_id in self._streams for stream in self.of(session_id)])

    def of(self, session_id: SessionId) -> list[LocalStream]:
        """Those of one session."""
        return [stream for streams in self._streams.get(session_id, {}).values() for stream in streams]

    @contextmanager
    def holding(self, stream_id: StreamId, stream: LocalStream) -> Iterator[None]:
        """Hold a stream open while inside; an older socket of the same stream is told to let go."""
        session_id = stream.session.id
        sockets = self._streams.setdefault(session_id, {}).setdefault(stream_id, set())
        for older in list(sockets):
            older.let_go()
        sockets.add(stream)
        try:
            yield
        finally:
            sockets.discard(stream)
            if not sockets:
                streams = self._streams[session_id]
                del streams[stream_id]
                if not streams:
                    del self._streams[session_id]
            left, self._left = self._left, anyio.Event()
            left.set()

    async def closed(self, streams: Collection[LocalStream]) -> None:
        """Wait until none of these is open."""
        while any(stream in self.of(stream.session.id) for stream in streams):
            await self._left.wait()

    def let_go(self, session_id: SessionId, below: int | None = None) -> None:
        for stream in self.of(session_id):
            stream.let_go(below)

    def let_go_all(self) -> None:
        for stream in self:
            stream.let_go()

    def end_session(self, session_id: SessionId, incarnation: int) -> None:
        """End those of a session that has ended; a new one with the same id keeps its own."""
        for stream in self.of(session_id):
            if stream.session.incarnation == incarnation:
                stream.end()

"""The pen of one request stream: what it appends is written a moment later, by the journal."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from mcpsession.errors import StoreError
from mcpsession.model import (
    AppendedStream,
    NewEvent,
    OpenedStream,
    ReplicaId,
    SessionId,
    StreamId,
    error_finals,
    new_stream_id,
)


class Inkwell(Protocol):
    """What a writer needs of the journal."""

    def note(self, writer: StreamWriter, size: int, *, urgent: bool = False) -> None:
        """There is something to write, of so many characters."""

    def forget(self, size: int) -> None:
        """So many characters need not be written after all."""

    def close(self, writer: StreamWriter) -> None:
        """Nothing more will come of this writer."""


class StreamListener(Protocol):
    """Whoever writes a stream hears what became of it."""

    def landed(self) -> None:
        """What was written so far is in the log; from now on its event ids may leave."""

    def read_by(self, replica: ReplicaId) -> None:
        """Another socket reads the stream now, in that replica."""

    def refused(self, error: Exception | None) -> None:
        """The stream is not ours to write: a twin of the request runs elsewhere, it was taken over (None), or the
        store cannot hold what was written (the error). Nothing more of it will be written.
        """


class StreamWriter:
    """The pen of one request stream. Appending is immediate; the log has it a moment later."""

    __slots__ = (
        "_journal",
        "_listener",
        "_most_bytes",
        "_most_events",
        "_pending",
        "_read_elsewhere",
        "_sizes",
        "_spoilt",
        "_sum",
        "base",
        "closed",
        "finished",
        "method",
        "pending_size",
        "request_ids",
        "seq",
        "session_id",
        "stream_id",
        "trimmed",
    )

    def __init__(
        self,
        journal: Inkwell,
        session_id: SessionId,
        request_ids: tuple[str, ...],
        listener: StreamListener,
        *,
        method: str = "",
        max_events: int,
        max_bytes: int,
    ) -> None:
        self._journal = journal
        self._listener = listener
        self._pending: list[NewEvent] = []
        self.pending_size = 0
        """Characters that are not in a batch yet."""
        self._read_elsewhere = False
        self.session_id = session_id
        self.stream_id: StreamId = new_stream_id()
        self.request_ids = request_ids
        self.method = method
        self.base = -1
        """Events in the log; -1 while the stream itself is not there."""
        self.seq = 0
        self.finished = False
        self.closed = False
        """Finished and in the log, or lost."""
        self.trimmed = 0
        """The log keeps no events up to this one: only so many of the newest, and the last one always."""
        self._most_events, self._most_bytes = max_events, max_bytes
        # In bytes, of the events that are kept, and their sum.
        self._sizes: deque[int] | None = None
        self._sum = 0
        self._spoilt = False

    def tell(self, listener: StreamListener) -> None:
        """From now on somebody else hears what becomes of it."""
        self._listener = listener

    @property
    def in_log(self) -> bool:
        return self.base >= 0

    def append(self, message: str, *, request_of: ReplicaId | None = None, final: bool = False) -> int:
        """Add a message and return its number. After the final one, or once the stream is lost, nothing is added."""
        if self.finished or self.closed:
            return self.seq
        self.seq += 1
        self.finished = final
        self._put(message, request_of)
        if self.seq > 1 or not final:
            self._keep(message)
        # A message before the last waits for its stream's row; once that is there nobody waits for what comes, unless
        # another replica's client does, which hears of it when it is in the log. The last one leaves without the row.
        self._journal.note(self, len(message), urgent=self._read_elsewhere or (self.base < 0 and not final))
        return self.seq

    def _put(self, message: str, request_of: ReplicaId | None = None) -> None:
        self._pending.append(NewEvent(message, request_of))
        self.pending_size += len(message)

    def _keep(self, message: str) -> None:
        """Count one more, and let the oldest go for it. An answer that stands alone is not worth it."""
        sizes = self._sizes
        if sizes is None:
            sizes = self._sizes = deque()
        sizes.append(size := len(message) if message.isascii() else len(message.encode("utf-8", "surrogatepass")))
        self._sum += size
        while (len(sizes) > self._most_events or self._sum > self._most_bytes) and len(sizes) > 1:
            self._sum -= sizes.popleft()
            self.trimmed += 1

    def _drop_pending(self) -> None:
        self._journal.forget(self.pending_size)
        self._pending, self.pending_size = [], 0

    def take(self) -> OpenedStream | AppendedStream:
        events, self._pending, self.pending_size = self._pending, [], 0
        if self.base >= 0:
            return AppendedStream(self.session_id, self.stream_id, self.base, events, self.finished, self.trimmed)
        return OpenedStream(
            self.session_id, self.stream_id, self.request_ids, events, self.finished, self.method, self.trimmed
        )

    def settle(self, count: int, finished: bool, reader: ReplicaId | None) -> None:
        if self.closed:
            # Lost while the batch was on its way; what it brought is for whoever took the stream over.
            return
        self.base = max(self.base, 0) + count
        self.closed = finished
        if finished:
            self._journal.close(self)
        self._listener.landed()
        if reader is not None:
            self._read_elsewhere = True
            self._listener.read_by(reader)

    def spoil(self, error: StoreError) -> None:
        """The store cannot hold what was appended: end the stream with an error in its place."""
        if self._spoilt:
            self.lose(error)
            return
        self._spoilt = True
        self._drop_pending()
        self._forget_after(max(self.base, 0))
        for message in unstorable(self.request_ids):
            self.seq += 1
            self._put(message)
            self._keep(message)
        self.finished = True
        self._journal.note(self, self.pending_size)
        self._listener.refused(error)

    def _forget_after(self, seq: int) -> None:
        """What came after this one never was."""
        while self._sizes and self.trimmed + len(self._sizes) > seq:
            self._sum -= self._sizes.pop()
        self.seq, self.trimmed = seq, min(self.trimmed, seq)

    def lose(self, error: Exception | None) -> None:
        """The stream is somebody else's now."""
        self.closed = True
        self._drop_pending()
        self._journal.close(self)
        self._listener.refused(error)


def unstorable(request_ids: Sequence[str]) -> list[str]:
    """The finals of a stream that the store could not hold."""
    error = '{"code":-32603,"message":"the messages of this call could not be stored; nothing more of it is known"}'
    return error_finals(request_ids, error)

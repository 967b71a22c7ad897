"""Who writes a session's standalone stream to a socket, in memory: an epoch on the stream's row.

Whoever took it is settled once `released_epoch` has reached the epoch before its own: the one before has let go, is
dead, or its claim was ended by force, and then its late release changes nothing any more. The death of one that was
never settled ends no claim but its own: it may have died before it could ring whoever held the stream until then.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from mcpsession.errors import HoldRefusedError
from mcpsession.memory.rows import StreamRow
from mcpsession.memory.tables import Tables
from mcpsession.model import STANDALONE, Hold, ReplicaId, SessionId

# Two take-overs of a living holder within this time are two clients that fight; a third is refused.
_FIGHT = 10.0


class MemoryHolds:
    """Holds over the standalone stream's row."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def take(self, session_id: SessionId, holder: ReplicaId) -> Hold | None:
        with self._tables.lock:
            row = self._tables.standalone(session_id)
            if row is None:
                return None
            contested = row.released_epoch < row.holder_epoch and not self._tables.is_dead(row.holder)
            if contested:
                now = time.monotonic()
                if len(row.takes) >= 2 and row.takes[-2] > now - _FIGHT:
                    raise HoldRefusedError
                row.takes = [*row.takes[-1:], now]
            elif row.holder is None or row.released_epoch >= row.holder_epoch - 1:
                row.released_epoch = row.holder_epoch
            row.previous_holder, row.holder = row.holder, holder
            row.holder_epoch += 1
            return _hold(row)

    async def settle(self, session_id: SessionId, epoch: int, *, force: bool) -> Hold | None:
        with self._tables.lock:
            row = self._tables.standalone(session_id)
            if row is None or row.holder_epoch != epoch:
                return None
            was_last = row.released_epoch >= epoch - 2
            if force or (was_last and self._tables.is_dead(row.previous_holder)):
                row.released_epoch = max(row.released_epoch, epoch - 1)
            return _hold(row)

    async def save(self, session_id: SessionId, epoch: int, seq: int, news: str) -> bool:
        with self._tables.lock:
            row = self._tables.streams.get(session_id, {}).get(STANDALONE)
            if row is None or row.holder_epoch != epoch or row.released_epoch >= epoch:
                return False
            row.delivered_seq, row.delivered_news = seq, news
            return True

    async def release(self, session_id: SessionId, epoch: int, seq: int, news: str) -> ReplicaId | None:
        with self._tables.lock:
            row = self._tables.streams.get(session_id, {}).get(STANDALONE)
            # Only by one who was settled: one who never was has written nothing, and its position would overwrite
            # that of the holder before it, who is still about to let go.
            if row is None or row.released_epoch != epoch - 1 or row.holder_epoch < epoch:
                return None
            # It speaks for those between it and the present holder as well: they can never be settled any more.
            row.released_epoch = max(epoch, row.holder_epoch - 1)
            row.delivered_seq, row.delivered_news = seq, news
            if row.holder_epoch == epoch:
                row.holder = None
            return row.holder

    async def holder(self, session_id: SessionId) -> ReplicaId | None:
        with self._tables.lock:
            return self._tables.holder(session_id)

    async def changed(self, held: Sequence[tuple[SessionId, int, int]]) -> Collection[SessionId]:
        with self._tables.lock:
            return {session_id for session_id, epoch, seq in held if self._has_changed(session_id, epoch, seq)}

    def _has_changed(self, session_id: SessionId, epoch: int, seq: int) -> bool:
        row = self._tables.streams.get(session_id, {}).get(STANDALONE)
        return row is None or row.finished or row.holder_epoch != epoch or row.last_seq != seq


def _hold(row: StreamRow) -> Hold:
    settled = row.released_epoch >= row.holder_epoch - 1
    return Hold(row.holder_epoch, settled, row.previous_holder, row.delivered_seq, row.delivered_news)

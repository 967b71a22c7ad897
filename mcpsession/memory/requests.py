"""Requests under way, in memory: a call is its stream, and what an application tracks is a stream without events."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from heapq import nsmallest
from itertools import islice

from mcpsession.errors import DuplicateRequestError
from mcpsession.event_records import RequestInfo
from mcpsession.memory.rows import StreamRow
from mcpsession.memory.tables import Tables
from mcpsession.model import ReplicaId, SessionId, new_stream_id
from mcpsession.texts import check_text


class MemoryRequests:
    """RequestRows over the streams that run."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def track(
        self,
        session_id: SessionId,
        request_id: str,
        method: str,
        timeout: float,  # noqa: ASYNC109  # of the request, not of this call
        *,
        owner: str | None = None,
        by: ReplicaId,
    ) -> RequestInfo | None:
        check_text(request_id, method)
        with self._tables.lock:
            if self._tables.live(session_id, owner) is None:
                return None
            if self._tables.twin(session_id, (request_id,)) is not None:
                raise DuplicateRequestError(json.loads(request_id))
            row = StreamRow(session_id, new_stream_id(), (request_id,), kind="tracked", method=method, producer=by)
            row.expires_at = row.began.tick + timeout
            self._tables.run(row)
            return _info(row, request_id)

    async def complete(
        self, session_id: SessionId, request_id: str, *, owner: str | None = None, begun: datetime | None = None
    ) -> RequestInfo | None:
        with self._tables.lock:
            row = self._tables.running.get((session_id, (request_id,)))
            if (
                row is None
                or row.kind != "tracked"
                or row.has_expired()
                or begun not in (None, row.began.time)
                or self._tables.live(session_id, owner) is None
            ):
                return None
            self._tables.discard(row)
            return _info(row, request_id)

    async def find(self, session_id: SessionId, request_id: str, *, owner: str | None = None) -> RequestInfo | None:
        with self._tables.lock:
            rows = (row for row, found in self._running(session_id, owner) if found == request_id)
            return next((_info(row, request_id) for row in rows), None)

    async def running(
        self,
        session_id: SessionId | None = None,
        *,
        owner: str | None = None,
        after: tuple[SessionId, str] = ("", ""),
        limit: int,
    ) -> Sequence[RequestInfo]:
        with self._tables.lock:
            past = (
                (row.session_id, request_id, row)
                for row, request_id in self._running(session_id, owner)
                if (row.session_id, request_id) > after
            )
            return [_info(row, request_id) for _, request_id, row in nsmallest(limit, past, key=lambda it: it[:2])]

    async def sweep(self, limit: int) -> int:
        with self._tables.lock:
            over = list(islice(filter(self._tables.is_over, self._tables.running.values()), limit))
            for row in over:
                self._tables.discard(row)
            return len(over)

    def _running(self, session_id: SessionId | None, owner: str | None) -> Iterator[tuple[StreamRow, str]]:
        """Each request under way, with its stream: one of a batch has several."""
        rows = self._tables.running.values() if session_id is None else self._tables.streams_of(session_id)
        for row in rows:
            if (
                row.kind in ("request", "tracked")
                and not (row.finished or row.has_expired() or self._tables.is_dead(row.producer))
                and self._tables.live(row.session_id, owner) is not None
            ):
                yield from ((row, request_id) for request_id in row.request_ids if request_id not in row.answered_ids)


def _info(row: StreamRow, request_id: str) -> RequestInfo:
    assert row.began.time is not None
    return RequestInfo(
        session_id=row.session_id,
        request_id=json.loads(request_id),
        method=row.method,
        replica=row.producer or "",
        started_at=row.began.time,
        duration=time.monotonic() - row.began.tick,
        tracked=row.kind == "tracked",
    )

"""What a replica does for which session at this moment, to be looked at and to be ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import anyio
from mcp_types import RequestId

from mcpsession.model import ReplicaId, SessionId, fingerprint
from mcpsession.sdk.open_streams import OpenStreams
from mcpsession.sdk.parts import Parts

Kind = Literal["request", "stream", "standalone"]

CLOSED = "This call was ended by whoever runs this server; whether it had effects is unknown"

# A handler that shields itself, or does not listen, is not waited for.
_DEADLINE = 5.0


@dataclass(frozen=True, slots=True)
class Work:
    """One piece of work. Its text is fit for a log: the session's id is not in it."""

    kind: Kind
    """`request`: a call; `stream`: a call's stream that its client resumed here; `standalone`: the session's own."""
    session: str
    """The session's fingerprint, as in logs."""
    session_id: SessionId = field(repr=False)
    request_id: RequestId | None
    """None for a standalone stream, and for a resumed one that has not been read yet."""
    method: str | None
    """Of a call."""
    started: float
    """Seconds ago."""
    replica: ReplicaId


def running_here(parts: Parts, session_id: SessionId | None = None) -> list[Work]:
    """What this replica does now, for one session or for all, the oldest first."""
    sessions = parts.in_flight.sessions() if session_id is None else [session_id]
    work = [
        _work(parts, "request", session, call.request_id, call.method, call.began)
        for session in sessions
        for call in parts.in_flight.of(session)
    ]
    work += _streams(parts, "stream", parts.readers, session_id)
    work += _streams(parts, "standalone", parts.standalones, session_id)
    return sorted(work, key=lambda one: -one.started)


async def close_here(parts: Parts, session_id: SessionId) -> int:
    """End what this replica does for a session, which lives on; returns how much that was.

    Calls end with an error, streams are told to reconnect. Returns when that is done, or 5 s have passed.
    """
    calls = parts.in_flight.of(session_id)
    resumed, standing = parts.readers.of(session_id), parts.standalones.of(session_id)
    for call in calls:
        call.end(CLOSED)
    for stream in resumed + standing:
        stream.let_go()
    with anyio.move_on_after(_DEADLINE):
        await parts.in_flight.finished(session_id)
        await parts.readers.closed(resumed)
        await parts.standalones.closed(standing)
    return len(calls) + len(resumed) + len(standing)


def _streams(parts: Parts, kind: Kind, streams: OpenStreams, session_id: SessionId | None) -> Iterator[Work]:
    for stream in streams if session_id is None else streams.of(session_id):
        yield _work(parts, kind, stream.session.id, stream.request_id, None, stream.began)


def _work(
    parts: Parts, kind: Kind, session_id: SessionId, request_id: RequestId | None, method: str | None, began: float
) -> Work:
    return Work(
        kind=kind,
        session=fingerprint(session_id),
        session_id=session_id,
        request_id=request_id,
        method=method,
        started=time.monotonic() - began,
        replica=parts.heartbeat.replica_id,
    )

"""What the contract's tests begin with, and how they wait."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
import pytest

from mcpsession.contracts import Backend
from mcpsession.event_records import Appended, Entry, EntryPage
from mcpsession.model import AppendedStream, Batch, Mail, NewEvent, OpenedStream, SessionId, StreamId, StreamState
from mcpsession.records import Admission, Ended, EndReason, Filter, Session


def given(**settings: Any) -> pytest.MarkDecorator:
    """Run a test's backends with these settings."""
    marker: pytest.MarkDecorator = pytest.mark.given(**settings)
    return marker


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait, at most 5 s, until a condition holds."""
    with anyio.fail_after(5):
        # Nothing rings when a row expires.
        while not await condition():  # noqa: ASYNC110
            await anyio.sleep(0.005)


async def a_session(backend: Backend, session_id: SessionId = "session", **fields: Any) -> Session:
    """Create a session; returns it as it is stored."""
    return await enter(backend, Session(session_id, **fields))


async def enter(backend: Backend, session: Session, opening: OpenedStream | None = None, **options: Any) -> Session:
    """Create a session that a test has made itself."""
    [stored] = await backend.sessions.create([session], opening, **{"admission": Admission(), **options})
    return stored


async def record(backend: Backend, session_id: SessionId = "session") -> Session:
    """The whole record of a session that must live."""
    [found] = await backend.directory.records([session_id])
    return found


async def dead_record(backend: Backend, session_id: SessionId = "session") -> Session | None:
    """The record that diagnosis sees."""
    found = await backend.directory.records([session_id], include_dead=True)
    return found[0] if found else None


async def living(backend: Backend) -> list[SessionId]:
    """All that lives, in order."""
    page = await backend.directory.page(Filter(), "", 10_000)
    assert len(page) == await backend.directory.count(Filter())
    return [session.id for session in page]


async def end(
    backend: Backend,
    *session_ids: SessionId,
    reason: EndReason = "deleted",
    sender: str = "a",
    claim: bool = False,
    **options: Any,
) -> Ended:
    return await backend.sessions.end(session_ids or ["session"], reason, sender=sender, claim=claim, **options)


async def terminate(backend: Backend, *session_ids: SessionId, **options: Any) -> Ended:
    return await end(backend, *session_ids, **{"reason": "terminated", **options})


async def mail_since(backend: Backend, position: str) -> list[Mail]:
    """The broadcast mail past a position."""
    news = await backend.mailbox.news(position)
    assert news is not None
    return list(news.mails)


def keys(*sessions: Session) -> list[tuple[SessionId, int]]:
    """What names these sessions, and not others that have their ids later."""
    return [(session.id, session.incarnation) for session in sessions]


def body(mail: Mail) -> Any:
    return json.loads(mail.body)


async def expire(backend: Backend, session_id: SessionId = "session", **fields: Any) -> Session:
    """Create a session and see it expire."""
    session = await a_session(backend, session_id, **{"ttl": 0.01, **fields})
    await expired(backend, session_id)
    return session


async def expired(backend: Backend, session_id: SessionId = "session") -> None:
    """Wait until a session has expired."""

    async def is_gone() -> bool:
        return await backend.sessions.get(session_id) is None

    await until(is_gone)


def opened(
    *messages: str,
    session_id: SessionId = "session",
    stream_id: StreamId = "stream",
    request_ids: tuple[str, ...] = ("1",),
    finished: bool = False,
) -> OpenedStream:
    return OpenedStream(session_id, stream_id, request_ids, [NewEvent(message) for message in messages], finished)


def appended(
    base: int,
    *messages: str | NewEvent,
    session_id: SessionId = "session",
    stream_id: StreamId = "stream",
    finished: bool = False,
) -> AppendedStream:
    events = [message if isinstance(message, NewEvent) else NewEvent(message) for message in messages]
    return AppendedStream(session_id, stream_id, base, events, finished)


async def write(backend: Backend, *parts: OpenedStream | AppendedStream, producer: str = "a") -> Sequence[str]:
    """Write a batch; returns the streams that it reached, sorted."""
    batch = Batch(
        opened=[part for part in parts if isinstance(part, OpenedStream)],
        appended=[part for part in parts if isinstance(part, AppendedStream)],
    )
    return sorted(stream.stream_id for stream in await backend.log.write(batch, producer=producer))


async def read(
    backend: Backend, session_id: SessionId = "session", stream_id: StreamId = "stream", *, after: int = 0
) -> StreamState:
    state = await backend.log.read(session_id, stream_id, after, 1000)
    assert state is not None
    return state


async def messages(backend: Backend, session_id: SessionId = "session", stream_id: StreamId = "stream") -> list[str]:
    return [event.message for event in (await read(backend, session_id, stream_id)).events]


async def numbered(
    backend: Backend, session_id: SessionId = "session", stream_id: StreamId = "stream", *, after: int = 0
) -> list[tuple[int, str]]:
    return [(event.seq, event.message) for event in (await read(backend, session_id, stream_id, after=after)).events]


async def log(
    backend: Backend,
    *entries: Entry | str,
    session_id: SessionId = "session",
    stream: str = "log",
    owner: str | None = None,
) -> Appended:
    """Add to a stream of the application's own; its session must live."""
    made = [entry if isinstance(entry, Entry) else Entry(entry) for entry in entries]
    appended = await backend.events.append(session_id, stream, made, owner=owner)
    assert appended is not None
    return appended


async def page(
    backend: Backend,
    after: int | str = 0,
    *,
    limit: int = 10_000,
    session_id: SessionId = "session",
    stream: str = "log",
) -> EntryPage:
    """A page of a stream of the application's own; its session must live."""
    found = await backend.events.read(session_id, stream, after, limit)
    assert found is not None
    return found


async def logged(
    backend: Backend, after: int | str = 0, *, session_id: SessionId = "session", stream: str = "log"
) -> list[tuple[int, str]]:
    """The numbers and texts of what such a stream holds."""
    found = await page(backend, after, session_id=session_id, stream=stream)
    return [(entry.seq, entry.data) for entry in found.entries]

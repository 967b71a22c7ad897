"""What the tests of `layer.events` begin with: replicas on one store, whose log of events has a gate at each method."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio

from mcpsession import SessionLayer
from mcpsession.event_records import EventGap, LoggedEvent
from mcpsession.events import Events
from mcpsession.follower import Follower
from mcpsession.settings import Settings
from tests.control.replicas import LOST, _Apart
from tests.sdk.gates import Gated, until
from tests.sessions.replicas import Place
from tests.sessions.replicas import until as eventually

LISTENERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND query ~* '(LISTEN|mcpsession_ping|pg_notify)'
"""

Data = list[Any]


class Replica:
    """One layer, that is to be entered."""

    def __init__(self, backend: Any, settings: Settings) -> None:
        self.backend = backend
        self.store = backend.events = Gated(backend.events)
        self.layer = SessionLayer(backend, settings)
        self.sessions = self.layer.sessions
        self.events: Events = self.layer.events

    @property
    def id(self) -> str:
        return self.layer._wiring.me()

    @property
    def following(self) -> int:
        """How many follow here."""
        return len(self.layer._wiring.following)

    async def __aenter__(self) -> Replica:
        await self.layer.__aenter__()
        return self

    async def __aexit__(self, *raised: Any) -> None:
        await self.layer.__aexit__(*raised)

    def reset(self) -> None:
        """Undo what a test did to it."""
        for gate in [*self.store.before.values(), *self.store.after.values()]:
            gate.open()
        for done in (self.store.before, self.store.after, self.store.failing, self.store.failing_after):
            done.clear()  # type: ignore[attr-defined]
        self.store.calls.clear()

    def mute(self) -> None:
        """Ring no bell from now on: as if each append's replica had died between its commit and the bell."""
        self.layer._wiring.post_office.ring_stream = lambda *_: None  # type: ignore[method-assign]

    async def data(self, session_id: str, stream: str = "events") -> Data:
        """The data of all that a stream keeps."""
        return [event.data for event in (await self.events.replay(session_id, stream=stream)).events]


class EventsPlace(Place):
    """One store, and as many replicas on it as a test wants."""

    def new(self, **settings: Any) -> Replica:
        chosen = Settings(**{**self.settings, **settings})
        return Replica(_Apart(self.backend(**settings)), chosen)

    async def deafen(self) -> None:
        """End the listening connections, one at least; in memory there are none."""

        async def ended() -> bool:
            return bool(await self.fetch(LISTENERS))

        if self.url is not None:
            await eventually(ended)

    async def declare_dead(self, replica: Replica) -> None:
        """Record the death of a replica that lives: it goes on under a new id."""
        old = replica.id
        if self.url is None:
            [backend] = self._memories.values()
            with backend._tables.lock:
                backend._tables.replicas[old].dead_at = 0.0
        else:
            await self.fetch(LOST, self.settings["namespace"], old)
        with anyio.fail_after(10):
            await until(lambda: replica.id != old)

    async def followers(self, session_id: str, stream: str = "events") -> list[str]:
        """The replicas that the store counts among a stream's followers, the dead as well."""
        if self.url is None:
            [backend] = self._memories.values()
            row = backend._tables.stream(session_id, f"a:{stream}")
            return [] if row is None else list(row.followers)
        query = "SELECT followers FROM mcpsession.streams WHERE namespace = $1 AND session_id = $2 AND id = $3"
        rows = await self.fetch(query, self.settings["namespace"], session_id, f"a:{stream}")
        return list(rows[0]["followers"]) if rows else []


class Reader:
    """A task that writes down what a follower gives."""

    def __init__(self, events: Follower) -> None:
        self.events = events
        self.heard: list[LoggedEvent] = []
        self.over = anyio.Event()
        self._changed = anyio.Event()

    @property
    def numbers(self) -> list[int]:
        return [event.seq for event in self.heard]

    @property
    def data(self) -> Data:
        return ["gap" if isinstance(event, EventGap) else event.data for event in self.heard]

    async def run(self) -> None:
        async for event in self.events:
            self.heard.append(event)
            changed, self._changed = self._changed, anyio.Event()
            changed.set()
        self.over.set()

    async def reach(self, number: int) -> None:
        """Wait until the event with this number has come."""
        with anyio.fail_after(20):
            while not self.heard or self.heard[-1].seq < number:
                await self._changed.wait()

    async def end(self) -> None:
        """Wait for the end of what it follows."""
        with anyio.fail_after(20):
            await self.over.wait()


@asynccontextmanager
async def reading(replica: Replica, session_id: str, *args: Any, **options: Any) -> AsyncIterator[Reader]:
    """Follow in a task of its own while inside."""
    async with anyio.create_task_group() as tasks, replica.events.follow(session_id, *args, **options) as events:
        reader = Reader(events)
        tasks.start_soon(reader.run)
        yield reader
        tasks.cancel_scope.cancel()

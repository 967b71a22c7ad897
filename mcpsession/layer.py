"""SessionLayer: builds the parts of one replica and runs them in one task group."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anyio
import anyio.abc

from mcpsession.backends import open_backend
from mcpsession.broadcaster import Broadcaster
from mcpsession.cache import SessionCache
from mcpsession.contracts import Backend, EventLog
from mcpsession.errors import (
    ConfigurationError,
    ListenerError,
    MCPSessionError,
    SchemaError,
    StoreUnavailableError,
)
from mcpsession.heartbeat import Heartbeat
from mcpsession.journal import Journal
from mcpsession.model import ReplicaId
from mcpsession.periodic import every
from mcpsession.post_office import PostOffice
from mcpsession.reaper import ExpiryHandler, Reaper
from mcpsession.sdk.acknowledgements import Acknowledgements
from mcpsession.sdk.app import session_manager, streamable_http_app
from mcpsession.sdk.drain import drain
from mcpsession.sdk.health import Health, examine
from mcpsession.sdk.parts import Limits, Parts
from mcpsession.sdk.subscriptions import Subscriptions
from mcpsession.sessions import Sessions
from mcpsession.settings import Settings
from mcpsession.tails import Tails
from mcpsession.telemetry import Telemetry
from mcpsession.touches import Touches

if TYPE_CHECKING:
    from mcpsession.sdk.app import Starlette
    from mcpsession.sdk.session_manager import LayerSessionManager

logger = logging.getLogger(__name__)

T = TypeVar("T")

_FLUSH_DEADLINE = 5.0


class SessionLayer:
    """The session layer of one replica: any replica serves any request of any session.

    Building it does nothing; it connects when it is entered, which the app that it makes does by itself.
    """

    def __init__(self, backend: Backend, settings: Settings, *, telemetry: Telemetry | None = None) -> None:
        self._backend = backend
        self._settings = settings
        self._heartbeat = heartbeat = Heartbeat(backend, settings)
        me = self._me
        post_office = PostOffice(backend.mailbox, backend.doorbell, me)
        cache = SessionCache(
            backend.sessions,
            settings,
            lambda: -math.inf if post_office.behind else backend.doorbell.last_echo(),
        )
        self._parts = parts = Parts(
            settings=settings,
            sessions=backend.sessions,
            log=backend.log,
            holds=backend.holds,
            mailbox=backend.mailbox,
            cache=cache,
            touches=Touches(backend.sessions, cache.extend),
            journal=Journal(backend.log, settings, me),
            tails=Tails(),
            post_office=post_office,
            broadcaster=Broadcaster(post_office.broadcast, me),
            heartbeat=heartbeat,
            telemetry=telemetry or Telemetry(),
            acknowledgements=Acknowledgements(),
            limits=Limits(settings.session_ttl, settings.max_sessions, settings.retry_ms),
        )
        self._reaper = Reaper(backend.reaping, backend.log, settings, me=me, telemetry=parts.telemetry)
        self._introduce(parts)
        self.sessions = Sessions(backend.sessions, me, post_office.ring_all)
        self.events: EventLog = backend.log
        self.broadcaster = parts.broadcaster
        self.subscriptions = Subscriptions(parts.broadcaster)
        self._entered = 0
        self._entering = anyio.Lock()
        self._stack = AsyncExitStack()
        self._tasks: anyio.abc.TaskGroup | None = None
        self._reborn = anyio.Event()

    @classmethod
    def from_url(cls, url: str, *, listen_url: str | None = None, **settings: Any) -> SessionLayer:
        """A layer on `postgresql://…`, `memory://` (one process) or `embedded:///path` (a private Postgres).

        `listen_url` is a direct URL for the listener where `url` goes through a pooler. Settings are those of
        `mcpsession.settings.Settings`; what is not given comes from MCPSESSION_* variables.

        Raises ConfigurationError for a URL or a setting that cannot work.
        """
        loaded = Settings.load(settings)
        listen_url = listen_url or os.environ.get("MCPSESSION_LISTEN_URL")
        return cls(open_backend(url, listen_url, loaded), loaded)

    @classmethod
    def from_env(cls, **settings: Any) -> SessionLayer:
        """A layer on MCPSESSION_URL.

        Raises ConfigurationError if the variable is not set.
        """
        url = os.environ.get("MCPSESSION_URL")
        if not url:
            raise ConfigurationError(
                "MCPSESSION_URL", url or "", "set it to postgresql://user@host/database, or memory://"
            )
        return cls.from_url(url, **settings)

    def __repr__(self) -> str:
        state = "running" if self._tasks is not None else "not running"
        return f"<SessionLayer {self._settings.namespace!r} as {self._heartbeat.replica_id or 'nobody'}: {state}>"

    # For the server

    def session_manager(self, server: Any, **options: Any) -> LayerSessionManager:
        """The manager to mount by hand, for an `MCPServer` or a low-level `Server`; its `run()` starts the layer."""
        return session_manager(server, self, **options)

    def streamable_http_app(self, server: Any, **options: Any) -> Starlette:
        """The SDK's own Starlette app for this server, with our sessions in it.

        Takes the keyword arguments of the SDK's `streamable_http_app`. `session_idle_timeout` and `max_sessions` become
        our ttl and limit; `event_store` and `stateless_http=True` are refused. `health_path` (default `/healthz`) names
        a route that answers 200 while this replica is ready, 503 otherwise; None adds none.
        """
        return streamable_http_app(server, self, **options)

    @property
    def settings(self) -> Settings:
        return self._settings

    def set_session_limits(self, *, ttl: float | None, max_sessions: int | None) -> None:
        """What the SDK calls `session_idle_timeout` and `max_sessions`. For sessions created from now on."""
        self._parts.limits.ttl = ttl
        self._parts.limits.max_sessions = max_sessions

    def on_expired(self, handler: ExpiryHandler) -> ExpiryHandler:
        """Call `handler`, sync or async, with each session that expires, whole, before it is removed.

        On one replica, once without faults and at least once with them. One that raises, or takes longer than 30 s, is
        logged, and the session is removed all the same. Usable as a decorator; register it on every replica.
        """
        self._reaper.on_expired(handler)
        return handler

    # For the operator

    def health(self) -> Health:
        """How this replica is, at once and without asking the store: `ok`, `degraded`, `draining` or `away`."""
        return examine(self._parts, self._backend.doorbell.last_echo(), running=self._tasks is not None)

    async def drain(self, grace: float | None = None) -> None:
        """Take this replica out of service without losing anything; returns when it can be stopped.

        Not ready at once; no new sessions; standalone streams are told to reconnect; calls shorter than the grace
        (default: the setting `drain_grace`) finish unnoticed, longer ones get an error; the journal is flushed.
        """
        await drain(self._parts, self._settings.drain_grace if grace is None else grace)

    # Running

    async def __aenter__(self) -> Self:
        await self._enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._leave()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Parts]:
        """Connected and beating while inside. Entering it again, while it runs, is free.

        Raises:
            StoreUnavailableError: the store cannot be reached.
            SchemaError: its schema is missing or of another version; the message says what to run.
            ListenerError: a pooler in transaction mode lies between.
        """
        async with self:
            yield self._parts

    async def _enter(self) -> None:
        async with self._entering:
            if self._entered == 0:
                await self._start()
            self._entered += 1

    async def _start(self) -> None:
        self._parts.drain.reset()
        try:
            await self._connect()
        except (ConfigurationError, StoreUnavailableError, SchemaError, ListenerError) as error:
            # Its sentence says what to do; the driver's traceback would bury it.
            logger.debug("could not start", exc_info=True)
            raise error from None
        logger.info("replica %s is ready: %r", self._me(), self._backend)

    async def _connect(self) -> None:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(_single_error(self._backend.running()))
            await stack.enter_async_context(self._heartbeat.running())
            await self._parts.post_office.start()
            self._tasks = await stack.enter_async_context(_single_error(self._serving()))
            self._stack = stack.pop_all()

    async def _leave(self) -> None:
        # Not under the lock: it is left in the task that entered it, whatever the others do.
        self._entered -= 1
        if self._entered == 0:
            try:
                await self._stack.aclose()
            finally:
                self._tasks = None

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[anyio.abc.TaskGroup]:
        parts, settings = self._parts, self._settings
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._listen)
            tasks.start_soon(parts.post_office.run)
            tasks.start_soon(parts.journal.run)
            tasks.start_soon(lambda: every(settings.touch_flush, parts.touches.flush, name="touching sessions"))
            tasks.start_soon(lambda: every(settings.reap_every, self._reaper.run_once, name="reaping", jitter=0.2))
            tasks.start_soon(lambda: every(settings.reap_every, self._reaper.bury, name="expiry", jitter=0.2))
            try:
                yield tasks
            finally:
                with anyio.move_on_after(_FLUSH_DEADLINE, shield=True) as flushing:
                    await parts.journal.flushed()
                    await parts.touches.flush()
                if flushing.cancelled_caught:
                    logger.error("the journal could not be flushed in %.0f s; events were lost", _FLUSH_DEADLINE)
                tasks.cancel_scope.cancel()

    async def _listen(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Hear the bells of whoever this replica is; a reborn one has another channel."""
        while True:
            async with self._backend.doorbell.listening(
                self._me(), heard=self._parts.post_office.hear, reconnected=self._after_a_gap
            ):
                self._parts.post_office.wake()
                task_status.started()
                task_status = anyio.TASK_STATUS_IGNORED
                await self._reborn.wait()
                self._reborn = anyio.Event()

    # What the parts tell each other

    def _me(self) -> ReplicaId:
        return self._heartbeat.replica_id

    def _introduce(self, parts: Parts) -> None:
        office, heartbeat = parts.post_office, parts.heartbeat
        office.on("news", parts.broadcaster.hear)
        office.on_stream = parts.tails.wake
        office.on_death = parts.tails.wake_all
        office.on_hold = parts.standalones.let_go
        office.on_acknowledged = parts.acknowledgements.hear
        office.on_lost = self._all_may_have_changed
        parts.journal.on_standalone = lambda session_id, holder: office.ring_stream(holder, session_id, "s")
        self._reaper.on_finished = parts.tails.wake
        self._reaper.writes = parts.journal.writes
        heartbeat.position = lambda: office.position
        heartbeat.on_pulse = lambda pulse: office.wake() if pulse.mail or pulse.news else None
        heartbeat.on_death = self._finish_orphans
        heartbeat.on_reborn = self._be_reborn

    def _after_a_gap(self) -> None:
        """The listener was away: nothing it knew of is certain, and bells may have been lost."""
        self._parts.cache.clear()
        self._parts.post_office.wake()
        self._parts.tails.wake_all()

    def _all_may_have_changed(self) -> None:
        self._parts.cache.clear()
        self._parts.broadcaster.tell_all_changed()
        self._parts.tails.wake_all()

    def _finish_orphans(self) -> None:
        if self._tasks is not None:
            self._tasks.start_soon(self._try_to_finish_orphans)

    async def _try_to_finish_orphans(self) -> None:
        try:
            await self._reaper.finish_orphans()
        except MCPSessionError as error:
            logger.warning("the streams of a dead replica wait for the reaper: %s", error)
        self._parts.post_office.ring_death()

    async def _try_to_finish_strays(self) -> None:
        try:
            await self._reaper.finish_strays()
        except MCPSessionError as error:
            logger.warning("streams that nobody writes wait for the reaper: %s", error)

    def _be_reborn(self, new: ReplicaId) -> None:
        """This replica was declared dead: cut everything of the old incarnation, go on as a new one."""
        parts = self._parts
        parts.journal.abandon()
        parts.in_flight.sever_all()
        parts.standalones.let_go_all()
        parts.readers.let_go_all()
        parts.cache.clear()
        self._reborn.set()
        self._heartbeat.unfence()
        if self._tasks is not None:
            # What was opened under the new id before this cut is nobody's, and its producer lives.
            self._tasks.start_soon(self._try_to_finish_strays)
        logger.warning("cut everything of the old incarnation; serving on as %s", new)


@asynccontextmanager
async def _single_error(context: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """What fails in a task group arrives alone where only one thing failed, so that its message can be read."""
    try:
        async with context as value:
            yield value
    except BaseExceptionGroup as group:
        errors: Mapping[int, BaseException] = {id(error): error for error in group.exceptions}
        if len(errors) == 1:
            raise next(iter(errors.values())) from None
        raise

"""SessionLayer: builds the parts of one replica and runs them in one task group."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anyio
import anyio.abc

from mcpsession.backends import open_backend
from mcpsession.contracts import Backend
from mcpsession.control import ControlLog
from mcpsession.errors import (
    ConfigurationError,
    ListenerError,
    SchemaError,
    StoreUnavailableError,
)
from mcpsession.events import Events
from mcpsession.expiry import ExpiryHandler
from mcpsession.listening import ListenerCallback
from mcpsession.model import SessionId
from mcpsession.occupancy import Occupancy
from mcpsession.presets import check_store, chosen
from mcpsession.reaper import Reaper
from mcpsession.requests import Requests
from mcpsession.sdk.app import session_manager, streamable_http_app
from mcpsession.sdk.drain import drain
from mcpsession.sdk.health import Health, examine
from mcpsession.sdk.parts import Parts
from mcpsession.sdk.subscriptions import Subscriptions
from mcpsession.sdk.supervision import Work, close_here, running_here
from mcpsession.serving import serving
from mcpsession.sessions import Sessions
from mcpsession.settings import Settings
from mcpsession.telemetry import Telemetry
from mcpsession.wiring import Wiring

if TYPE_CHECKING:
    from mcpsession.sdk.app import Starlette
    from mcpsession.sdk.session_manager import LayerSessionManager

logger = logging.getLogger(__name__)

T = TypeVar("T")


class SessionLayer:
    """The session layer of one replica: any replica serves any request of any session.

    Building it does nothing; it connects when it is entered, which the app that it makes does by itself.

    `sessions`: all that one can do with a session. `reaper`: what removes them when they expire. `subscriptions`: the
    SDK's SubscriptionBus, across replicas. `broadcaster`: news for all. `control`: the application's own messages to
    its replicas. `requests`: what is under way, and how to stop it. `events`: the application's own log.
    """

    def __init__(self, backend: Backend, settings: Settings, *, telemetry: Telemetry | None = None) -> None:
        self._backend = backend
        self._settings = settings
        self._wiring = wiring = Wiring(backend, settings, telemetry or Telemetry())
        self._parts = wiring.parts
        self.sessions: Sessions = wiring.sessions
        self.reaper: Reaper = wiring.reaper
        self.requests: Requests = wiring.requests
        self.control: ControlLog = wiring.control
        self.events: Events = wiring.events
        self.broadcaster = wiring.parts.broadcaster
        self.subscriptions = Subscriptions(wiring.parts.broadcaster)
        self._occupancy = Occupancy(self._run)
        self._tasks: anyio.abc.TaskGroup | None = None

    @classmethod
    def from_url(
        cls, url: str, *, listen_url: str | None = None, preset: str | None = None, **settings: Any
    ) -> SessionLayer:
        """A layer on `postgresql://…`, `memory://` (one process) or `embedded:///path` (a private Postgres).

        `listen_url` is a direct URL for the listener where `url` goes through a pooler. Settings are those of
        `mcpsession.settings.Settings`; what is not given comes from MCPSESSION_* variables, then from the preset.

        Raises ConfigurationError for a URL, a preset or a setting that cannot work.
        """
        if not isinstance(url, str):
            raise ConfigurationError("the URL", url, "use postgresql://user@host:5432/database, or memory://")
        loaded = Settings.load(settings, preset=preset)
        check_store(chosen(preset, os.environ), url)
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

    @classmethod
    def development(cls, **settings: Any) -> SessionLayer:
        """A layer for one's desk: sessions in this process, gone with it, and soon."""
        return cls.from_url("memory://", preset="development", **settings)

    @classmethod
    def single_node(cls, url: str, **settings: Any) -> SessionLayer:
        """A layer on a Postgres for one machine."""
        return cls.from_url(url, preset="single_node", **settings)

    @classmethod
    def cluster(cls, url: str, **settings: Any) -> SessionLayer:
        """A layer on a Postgres for several replicas."""
        return cls.from_url(url, preset="cluster", **settings)

    def __repr__(self) -> str:
        state = "running" if self._tasks is not None else "not running"
        return f"<SessionLayer {self._settings.namespace!r} as {self._wiring.me() or 'nobody'}: {state}>"

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
        """What the SDK calls `session_idle_timeout` and `max_sessions`. For sessions created from now on.

        Raises ConfigurationError for what these settings may not be.
        """
        replace(self._settings, session_ttl=ttl, max_sessions=max_sessions)
        self._parts.limits.ttl = ttl
        self._parts.limits.max_sessions = max_sessions

    def on_expired(self, handler: ExpiryHandler) -> ExpiryHandler:
        """Call `handler` with each session that ends, whole, before it is removed; its `end_reason` says why it ended.

        On one replica, once without faults and at least once with them. One that raises, or takes longer than
        `handler_timeout`, is logged, and the session is removed all the same. Sync ones run in a thread. Usable as a
        decorator; register it on every replica.
        """
        self._wiring.handlers.add(handler)
        return handler

    # For the operator

    def on_listener(self, callback: ListenerCallback) -> ListenerCallback:
        """Call `callback` with each change of the listener: `connected` once, then `disconnected`, `failed` for each
        attempt to listen again that failed, and `reconnected`.

        On the event loop, so it must not block; what it raises is logged. Usable as a decorator.
        """
        return self._parts.listening.on(callback)

    def health(self) -> Health:
        """How this replica is, at once and without asking the store: `ok`, `degraded`, `draining` or `away`."""
        return examine(self._parts, self._backend.doorbell.last_heard(), running=self._tasks is not None)

    def running_here(self, session_id: SessionId | None = None) -> list[Work]:
        """What this replica does now, for one session or for all: calls and open streams, the oldest first."""
        return running_here(self._parts, session_id)

    async def close_here(self, session_id: SessionId) -> int:
        """End what this replica does for a session, which lives on; returns how much that was.

        Calls end with an error, streams are told to reconnect. Returns when the calls are over, or 5 s have passed.
        """
        return await close_here(self._parts, session_id)

    async def drain(self, grace: float | None = None) -> None:
        """Take this replica out of service without losing anything; returns when it can be stopped.

        Not ready at once; no new sessions; standalone streams are told to reconnect; calls shorter than the grace
        (default: the setting `drain_grace`) finish unnoticed, longer ones get an error; the journal is flushed.
        """
        await drain(self._parts, self._settings.drain_grace if grace is None else grace)

    # Running

    async def __aenter__(self) -> Self:
        await self._occupancy.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._occupancy.leave()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Parts]:
        """Connected and beating while inside. Entering it again, while it runs, is free, from other tasks as well: the
        task that entered it first waits for them when it leaves.

        Raises:
            StoreUnavailableError: the store cannot be reached.
            SchemaError: its schema is missing or of another version; the message says what to run.
            ListenerError: a pooler in transaction mode lies between.
        """
        async with self:
            yield self._parts

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        self._parts.drain.reset()
        self._parts.broadcaster.open()
        try:
            async with AsyncExitStack() as stack:
                try:
                    await self._connect(stack)
                except (ConfigurationError, StoreUnavailableError, SchemaError, ListenerError) as error:
                    # Its sentence says what to do; the driver's traceback would bury it.
                    logger.debug("could not start", exc_info=True)
                    raise error from None
                logger.info("replica %s is ready: %r", self._wiring.me(), self._backend)
                yield
        finally:
            self._tasks = None
            self._parts.listening.rest()

    async def _connect(self, stack: AsyncExitStack) -> None:
        await stack.enter_async_context(_single_error(self._backend.running()))
        await stack.enter_async_context(self._wiring.heartbeat.running())
        await self._parts.post_office.start()
        self._tasks = await stack.enter_async_context(
            _single_error(serving(self._wiring, self._backend.doorbell, self._settings))
        )


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

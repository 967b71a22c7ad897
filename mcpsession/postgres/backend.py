"""Postgres as the store: all its parts over one pool and four connections of their own."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio.abc
from anyio import to_thread

from mcpsession.postgres.address import Address
from mcpsession.postgres.control import PostgresControl
from mcpsession.postgres.directory import PostgresDirectory
from mcpsession.postgres.embedded import embedded_postgres
from mcpsession.postgres.events import PostgresLog
from mcpsession.postgres.holds import PostgresHolds
from mcpsession.postgres.initialization import PostgresInitialization
from mcpsession.postgres.link import Link
from mcpsession.postgres.listener import PostgresDoorbell, beside
from mcpsession.postgres.mail import PostgresMailbox
from mcpsession.postgres.migrate import check_schema, migrate
from mcpsession.postgres.news import PostgresNewsLog
from mcpsession.postgres.pool import Database
from mcpsession.postgres.reaping import PostgresReaping
from mcpsession.postgres.replicas import PostgresRegistry
from mcpsession.postgres.requests import PostgresRequests
from mcpsession.postgres.session_events import PostgresSessionEvents
from mcpsession.postgres.sessions import PostgresSessions
from mcpsession.postgres.subscriptions import PostgresSubscriptions
from mcpsession.settings import Settings

logger = logging.getLogger(__name__)


class PostgresBackend:
    """Backend over one database.

    `listen_url` reaches it directly where `url` is a pooler's in transaction mode; the ear uses it, and the heart while
    it can.
    """

    _has_neighbours = True
    """Whether other servers may use the same database."""

    def __init__(self, url: str, listen_url: str | None, settings: Settings) -> None:
        self._settings = settings
        self._database = Database(url, settings)
        self._direct = Address(listen_url, settings, setting="listen_url") if listen_url else self._database.address
        self._journal = Link(self._database.address)
        self._notifier = Link(self._database.address)
        self.sessions = PostgresSessions(self._database, settings)
        self.initialization = PostgresInitialization(self._database, settings)
        self.directory = PostgresDirectory(self._database, settings)
        self.subscriptions = PostgresSubscriptions(self._database, settings)
        self.log = PostgresLog(self._database, self._journal, settings)
        self.events = PostgresSessionEvents(self._database, settings)
        self.requests = PostgresRequests(self._database, settings)
        self.holds = PostgresHolds(self._database, settings)
        self.mailbox = PostgresMailbox(self._database, settings)
        self.control = PostgresControl(self._database, settings)
        self.news_log = PostgresNewsLog(self._database, settings)
        self.doorbell = PostgresDoorbell(self._notifier, self._direct, settings)
        self.reaping = PostgresReaping(self._database, settings)

    def __repr__(self) -> str:
        return f"<PostgresBackend {self._database!r}>"

    @asynccontextmanager
    async def registry(self) -> AsyncIterator[PostgresRegistry]:
        # A beat that takes longer than half of what makes one dead is better given up and sent anew.
        # A replica that cannot listen is slower, but it lives.
        otherwise = self._database.address if self._direct is not self._database.address else None
        link = Link(self._direct, otherwise=otherwise, timeout=self._settings.dead_after / 2)
        async with link.closing():
            yield PostgresRegistry(link, self._settings)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._database.running())
            async with self._database.connection() as connection:
                await check_schema(connection, url=self._database.address.url)
            if self._has_neighbours and self._settings.is_nameless:
                logger.warning(
                    "the namespace and the channel prefix are the defaults: another server with the defaults in this "
                    "database would share sessions and news with this one; give each its own: MCPSESSION_NAMESPACE"
                )
            await stack.enter_async_context(self._journal.closing())
            await stack.enter_async_context(self._notifier.closing())
            await stack.enter_async_context(beside(self._ring_on))
            yield

    async def _ring_on(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        task_status.started()
        await self.doorbell.ring_on()


class EmbeddedBackend(PostgresBackend):
    """Backend over a private Postgres that it starts, migrates and stops itself."""

    _has_neighbours = False

    def __init__(self, path: str, settings: Settings) -> None:
        # Nobody dials this: the port is known once the server runs.
        super().__init__("postgresql://embedded", None, settings)
        self._directory = Path(path) if path.strip("/") else None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with embedded_postgres(self._directory) as url:
            await to_thread.run_sync(migrate, url)
            self._database.address.move_to(url)
            async with super().running():
                yield

"""The memory backend: everything that one process needs, nothing that outlives it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mcpsession.contracts import ReplicaRegistry
from mcpsession.memory.control import MemoryControl
from mcpsession.memory.directory import MemoryDirectory
from mcpsession.memory.events import MemoryLog
from mcpsession.memory.holds import MemoryHolds
from mcpsession.memory.initialization import MemoryInitialization
from mcpsession.memory.listener import MemoryDoorbell
from mcpsession.memory.mail import MemoryMailbox
from mcpsession.memory.news import MemoryNewsLog
from mcpsession.memory.reaping import MemoryReaping
from mcpsession.memory.replicas import MemoryRegistry
from mcpsession.memory.requests import MemoryRequests
from mcpsession.memory.session_events import MemorySessionEvents
from mcpsession.memory.sessions import MemorySessions
from mcpsession.memory.subscriptions import MemorySubscriptions
from mcpsession.memory.tables import Tables
from mcpsession.settings import Settings

logger = logging.getLogger(__name__)


class MemoryBackend:
    """One store with all its parts. Several layers of one process may share it, each as a replica of its own."""

    def __init__(self, settings: Settings) -> None:
        self._tables = Tables(settings)
        self._settings = settings
        self.sessions = MemorySessions(self._tables, settings)
        self.initialization = MemoryInitialization(self._tables)
        self.directory = MemoryDirectory(self._tables)
        self.subscriptions = MemorySubscriptions(self._tables)
        self.log = MemoryLog(self._tables, settings)
        self.events = MemorySessionEvents(self._tables, settings)
        self.requests = MemoryRequests(self._tables)
        self.holds = MemoryHolds(self._tables)
        self.mailbox = MemoryMailbox(self._tables, settings)
        self.news_log = MemoryNewsLog(self._tables, settings)
        self.control = MemoryControl(self._tables, settings)
        self.doorbell = MemoryDoorbell()
        self.reaping = MemoryReaping(self._tables)

    @asynccontextmanager
    async def registry(self) -> AsyncIterator[ReplicaRegistry]:
        yield MemoryRegistry(self._tables, self._settings)

    def __repr__(self) -> str:
        return "<MemoryBackend of this process>"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        logger.warning("memory://: sessions live in this process alone; for several workers use postgresql://")
        yield

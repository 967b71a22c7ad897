"""Which replicas share this memory: a counter each, and a death that is recorded once.

Used from the heartbeat's thread, hence under the lock like everything else.
"""

from __future__ import annotations

import math
import time

from mcpsession.errors import StoreError
from mcpsession.memory.mail import seen_until
from mcpsession.memory.rows import ReplicaRow
from mcpsession.memory.tables import Tables
from mcpsession.model import Pulse, Replica, ReplicaId
from mcpsession.settings import Settings


class MemoryRegistry:
    """ReplicaRegistry over a dictionary."""

    def __init__(self, tables: Tables, settings: Settings) -> None:
        self._tables = tables
        # A position that grows old in silence would be lost (mail_ttl); past half of it, one is to look again.
        self._fresh = settings.mail_ttl / 2

    async def join(self, replica: Replica) -> None:
        with self._tables.lock:
            if replica.id in self._tables.replicas:
                raise StoreError("a replica with this id has joined already", "23505")
            self._tables.replicas[replica.id] = ReplicaRow()

    async def beat(self, replica: ReplicaId, position: str) -> Pulse:
        with self._tables.lock:
            alive = not self._tables.is_dead(replica)
            if alive:
                self._tables.replicas[replica].beats += 1
            return Pulse(
                alive=alive,
                mail=any(row.mail.recipient == replica for row in self._tables.inboxes.values()),
                news=self._is_news(position),
                others={
                    other: row.beats
                    for other, row in self._tables.replicas.items()
                    if other != replica and row.dead_at is None
                },
            )

    def _is_news(self, position: str) -> bool:
        # Before the first read there is no position and nothing to miss; one that cannot be used must be looked at.
        if not position:
            return False
        unseen = seen_until(self._tables, position, self._fresh)
        newest = self._tables.broadcasts[-1].mail.xid if self._tables.broadcasts else -math.inf
        return unseen is None or newest >= unseen

    async def declare_dead(self, replica: ReplicaId, beats: int) -> bool:
        with self._tables.lock:
            row = self._tables.replicas.get(replica)
            if row is None or row.dead_at is not None or row.beats != beats:
                return False
            row.dead_at = time.monotonic()
            return True

    async def leave(self, replica: ReplicaId) -> None:
        with self._tables.lock:
            row = self._tables.replicas.get(replica)
            if row is not None and row.dead_at is None:
                row.dead_at = time.monotonic()

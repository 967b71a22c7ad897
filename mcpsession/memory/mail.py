"""Mail between replicas in memory: an inbox each, and a log for all.

A position in the broadcast mail looks like that of Postgres, a snapshot and its time. Transactions end here in the
order in which they begin, so that one number says what a reader has seen.
"""

from __future__ import annotations

import re
import time
from bisect import bisect_left
from collections.abc import Sequence

from mcpsession.memory.tables import Tables
from mcpsession.model import Mail, ReplicaId
from mcpsession.settings import Settings

# Clients send it back to us, so it is checked. A snapshot with gaps was never one of ours.
_POSITION = re.compile(r"(\d{1,19}):\1:@(\d{1,12}(?:\.\d{1,9})?)", re.ASCII)

# Mail may be reaped right at its end; a position that old is not trusted any more.
_TRUSTED = 0.9


def position_of(tables: Tables) -> str:
    """The present position; the caller holds the lock."""
    return f"{tables.next_xid}:{tables.next_xid}:@{time.time():.6f}"


def parse_position(position: str) -> tuple[int, float] | None:
    """The first number that a position has not seen, and its time; None if it cannot be one."""
    match = _POSITION.fullmatch(position)
    return None if match is None else (int(match[1]), float(match[2]))


def seen_until(tables: Tables, position: str, max_age: float) -> int | None:
    """The first number that a position has not seen; None if it cannot be used. The caller holds the lock."""
    parsed = parse_position(position)
    if parsed is None:
        return None
    unseen, taken_at = parsed
    of_this_store = max(tables.first_xid, tables.reaped_xid + 1) <= unseen <= tables.next_xid
    return unseen if of_this_store and taken_at > time.time() - max_age else None


class MemoryMailbox:
    """Mailbox over a dictionary and a list."""

    def __init__(self, tables: Tables, settings: Settings) -> None:
        self._tables = tables
        self._max_age = settings.mail_ttl * _TRUSTED

    async def send(self, mail: Mail) -> bool:
        with self._tables.lock:
            if self._tables.is_dead(mail.recipient):
                return False
            self._tables.post(mail)
            return True

    async def broadcast(self, mails: Sequence[Mail]) -> None:
        with self._tables.lock:
            self._tables.post(*(Mail(mail.kind, mail.sender, None, mail.session_id, mail.body) for mail in mails))

    async def inbox(self, replica: ReplicaId) -> Sequence[Mail]:
        with self._tables.lock:
            return [row.mail for row in self._tables.inboxes.values() if row.mail.recipient == replica]

    async def delete(self, mail_ids: Sequence[int]) -> None:
        with self._tables.lock:
            for mail_id in mail_ids:
                self._tables.inboxes.pop(mail_id, None)

    async def position(self) -> str:
        with self._tables.lock:
            return position_of(self._tables)

    async def news(self, position: str, *, only_news: bool = False) -> tuple[Sequence[Mail], str] | None:
        with self._tables.lock:
            unseen = seen_until(self._tables, position, self._max_age)
            if unseen is None:
                return None
            broadcasts = self._tables.broadcasts
            first = bisect_left(broadcasts, unseen, key=lambda row: row.mail.xid)
            mails = [row.mail for row in broadcasts[first:] if not only_news or row.mail.kind == "news"]
            return mails, position_of(self._tables)

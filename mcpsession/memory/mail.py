"""Mail between replicas in memory: an inbox each, and a log for all.

A position in the broadcast mail looks like that of Postgres, a snapshot and its time. Transactions end here in the
order in which they begin, so that one number says what a reader has seen.
"""

from __future__ import annotations

import re
import time
from bisect import bisect_left
from collections.abc import Sequence

from mcpsession import news_contracts
from mcpsession.memory.rows import MailRow
from mcpsession.memory.tables import Tables
from mcpsession.model import Mail, NewsPage, ReplicaId
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


def unread(tables: Tables, position: str, mail_ttl: float) -> list[MailRow] | None:
    """The broadcast mail past a position; None if it cannot be used. The caller holds the lock."""
    unseen = seen_until(tables, position, mail_ttl * _TRUSTED)
    if unseen is None:
        return None
    first = bisect_left(tables.broadcasts, unseen, key=lambda row: row.mail.xid)
    return tables.broadcasts[first:]


def page_of(tables: Tables, rows: Sequence[MailRow]) -> NewsPage:
    """The first page of all that was unread, or of what is left of it for one reader. The caller holds the lock."""
    count = size = 0
    for row in rows:
        is_full = count >= news_contracts.PAGE_MAILS or size >= news_contracts.PAGE_BYTES
        if is_full and row.mail.xid != rows[count - 1].mail.xid:
            # What is left was posted after this, so it lasts longer.
            last = rows[count - 1]
            next_xid = last.mail.xid + 1
            return NewsPage([row.mail for row in rows[:count]], f"{next_xid}:{next_xid}:@{last.posted_at:.6f}", True)
        count, size = count + 1, size + len(row.mail.body)
    return NewsPage([row.mail for row in rows], position_of(tables), False)


class MemoryMailbox:
    """Mailbox over a dictionary and a list."""

    def __init__(self, tables: Tables, settings: Settings) -> None:
        self._tables = tables
        self._mail_ttl = settings.mail_ttl

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

    async def news(self, position: str) -> NewsPage | None:
        with self._tables.lock:
            rows = unread(self._tables, position, self._mail_ttl)
            return None if rows is None else page_of(self._tables, rows)

"""News for all, or for one session, in memory: broadcast mail that says who it is for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from mcpsession.allowed import kind_of
from mcpsession.errors import ConfigurationError
from mcpsession.memory.mail import page_of, unread
from mcpsession.memory.rows import MailRow
from mcpsession.memory.tables import Tables, check_texts
from mcpsession.model import Mail, NewsPage, SessionId, has_seen
from mcpsession.news_contracts import Reach
from mcpsession.settings import Settings


class MemoryNewsLog:
    """NewsLog over the list of the broadcast mail. `missed` costs a look at all that is past the position."""

    def __init__(self, tables: Tables, settings: Settings) -> None:
        self._tables = tables
        self._mail_ttl = settings.mail_ttl

    async def publish(
        self, mail: Mail, *, uri: str | None = None, newest_of: str | None = None, connection: object = None
    ) -> Reach | None:
        if connection is not None:
            raise ConfigurationError(
                "conn", kind_of(connection), "memory:// has no transactions to publish in; leave it out"
            )
        check_texts(mail.session_id, mail.topic, mail.body, uri, newest_of)
        with self._tables.lock:
            if mail.session_id is not None:
                session = self._tables.live(mail.session_id)
                if session is None:
                    return None
                mail = replace(mail, incarnation=session.session.incarnation)
            self._tables.post(mail, uri=uri, newest_of=newest_of)
            return Reach(None if mail.session_id is None else self._tables.holder(mail.session_id))

    async def missed(
        self,
        position: str,
        *,
        session_id: SessionId | None = None,
        incarnation: int | None = None,
        topic: str | None = None,
        newest: bool = False,
        subscribed: bool = False,
        heard: Sequence[int] = (),
        floor: str = "",
    ) -> NewsPage | None:
        check_texts(session_id, topic)
        with self._tables.lock:
            rows = unread(self._tables, position, self._mail_ttl)
            if rows is None:
                return None
            uris = self._tables.subscriptions.get(session_id or "", set())
            rows = [
                row
                for row in rows
                if row.mail.kind == "news"
                and row.mail.session_id in (None, session_id)
                and row.mail.topic in (None, topic)
                and not (subscribed and row.uri is not None and row.uri not in uris)
                and (incarnation is None or row.mail.incarnation in (None, incarnation))
                and row.mail.id not in heard
                and not has_seen(floor, row.mail.xid)
            ]
            return page_of(self._tables, _newest(rows) if newest else rows)


def _newest(rows: Iterable[MailRow]) -> list[MailRow]:
    """Of those that are the newest of the same, the last, in its place."""
    kept: dict[object, MailRow] = {}
    for row in rows:
        key = row if row.newest_of is None else row.newest_of
        kept.pop(key, None)
        kept[key] = row
    return list(kept.values())

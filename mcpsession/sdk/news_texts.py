"""News as the JSON text of a notification: made once for all streams of a replica that tell it."""

from __future__ import annotations

import logging
from collections import OrderedDict

from mcpsession.errors import UnstorableTextError
from mcpsession.model import News
from mcpsession.sdk import wire

logger = logging.getLogger(__name__)

# All streams that hear a page of news tell it one after the other, and then nobody asks again.
_MOST, _MOST_BYTES = 256, 8 * 1024 * 1024


def notification_text(news: News) -> str:
    """The JSON-RPC notification; its params are always there.

    Raises UnstorableTextError for text that is not Unicode (lone surrogates).
    """
    return wire.dump(wire.notification(news.method, news.params))


class NewsTexts:
    """The latest texts, by the news' ids."""

    def __init__(self) -> None:
        # With the news itself: after a fail-over the store can give a number again.
        self._texts: OrderedDict[int, tuple[News, str | None]] = OrderedDict()
        self._bytes = 0

    def of(self, news_id: int, news: News) -> str | None:
        """The notification, or None for what no client can be sent; that is logged once."""
        known = self._texts.get(news_id)
        if known is not None and (known[0] is news or known[0] == news):
            return known[1]
        try:
            text = notification_text(news)
        except UnstorableTextError as error:
            logger.warning("news %d (%.100s) was not sent to clients: %s", news_id, news.method, error)
            text = None
        self._bytes += len(text or "") - len((known and known[1]) or "")
        self._texts[news_id] = (news, text)
        while len(self._texts) > _MOST or (self._bytes > _MOST_BYTES and len(self._texts) > 1):
            _, (_, oldest) = self._texts.popitem(last=False)
            self._bytes -= len(oldest or "")
        return text

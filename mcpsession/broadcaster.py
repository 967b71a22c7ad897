"""News, to every local listener of every replica.

Costs one insert a publish, on whichever replica. Each replica hears each news once while it lives, in the order of its
publisher; none is promised across publishers. Listeners are called on the event loop and must not block.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable

from mcpsession.model import Mail, News, ReplicaId

logger = logging.getLogger(__name__)

NewsListener = Callable[[News, Mail], None]

EVERYTHING_CHANGED = tuple(News(f"notifications/{kind}/list_changed") for kind in ("tools", "prompts", "resources"))
"""What a listener is told when news may have been missed."""


class Broadcaster:
    """Publishes to all replicas; tells this one's listeners."""

    def __init__(self, broadcast: Callable[[Mail], Awaitable[None]], me: Callable[[], ReplicaId]) -> None:
        self._broadcast = broadcast
        self._me = me
        self._listeners: dict[object, NewsListener] = {}

    @property
    def listener_count(self) -> int:
        return len(self._listeners)

    async def publish(self, news: News) -> None:
        """Tell all listeners everywhere, here too. Durable when it returns.

        Raises StoreUnavailableError if it could not be recorded: then nobody was told.
        """
        await self._broadcast(Mail(kind="news", sender=self._me(), body=encode(news)))

    def subscribe(self, listener: NewsListener) -> Callable[[], None]:
        """Call `listener` with each news and its mail; returns what ends that, safe to call twice."""
        token = object()
        self._listeners[token] = listener
        return lambda: self._listeners.pop(token, None) and None

    def tell_all_changed(self) -> None:
        """Tell the local listeners that anything may have changed."""
        for news in EVERYTHING_CHANGED:
            self._tell(news, Mail(kind="news", sender=self._me(), body=encode(news)))

    def hear(self, mail: Mail) -> None:
        """Take one news mail from the post office."""
        if (news := decode(mail.body)) is None:
            logger.warning("news %d is malformed and was ignored", mail.id)
        else:
            self._tell(news, mail)

    def _tell(self, news: News, mail: Mail) -> None:
        for listener in list(self._listeners.values()):
            try:
                listener(news, mail)
            except Exception:  # the boundary: one bad listener must not keep news from the others
                logger.exception("a listener failed on %s", news.method)


def encode(news: News) -> str:
    return json.dumps({"method": news.method, "params": dict(news.params)}, ensure_ascii=True)


def decode(body: str) -> News | None:
    try:
        raw = json.loads(body)
        method, params = raw["method"], raw.get("params") or {}
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return News(method, params) if isinstance(method, str) and isinstance(params, dict) else None

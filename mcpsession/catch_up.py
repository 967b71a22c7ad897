"""How a subscriber that lagged reads from the log what it missed, and gets back to what is live.

Live news only says that there is more, until a read that began after the last of it has found the end of the log. What
that read saw was given; what it did not see comes live. So nothing is lost between them, and nothing comes twice.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from mcpsession.errors import LayerClosedError, StoreError, StoreUnavailableError
from mcpsession.model import News, SessionId
from mcpsession.news import decode
from mcpsession.news_contracts import NewsLog

logger = logging.getLogger(__name__)


class CatchUp:
    """One subscriber's way through the log. Costs a page of news."""

    def __init__(
        self,
        log: NewsLog,
        position: str,
        ids: frozenset[int],
        floor: str,
        *,
        session_id: SessionId | None,
        topic: str | None,
        newest: bool,
    ) -> None:
        self._log = log
        self._ids = sorted(ids)
        self._floor = floor
        self._session_id = session_id
        self._topic = topic
        self._newest = newest
        self._more = True
        self._warned = False
        self.position = position
        """The subscriber has everything up to here, besides what it had of the page in which it began to lag (`ids`)
        and of an earlier catch-up (`floor`)."""
        self.again = False
        """News came since the last read began."""

    @property
    def done(self) -> bool:
        """From here on the subscriber can live on what comes live and `position` does not cover."""
        return not self._more and not self.again

    async def read(self, pause: Callable[[], Awaitable[None]]) -> Sequence[News] | None:
        """The next page, or none of it, after a pause, while the store is away. None: what was missed is not known."""
        self.again = False
        try:
            page = await self._log.missed(
                self.position,
                session_id=self._session_id,
                topic=self._topic,
                newest=self._newest,
                heard=self._ids,
                floor=self._floor,
            )
        except (StoreUnavailableError, LayerClosedError) as error:
            self.again = True
            if not self._warned:
                self._warned = True
                logger.warning("a subscriber that lags cannot read what it missed: %s; it tries until it can", error)
            await pause()
            return ()
        except StoreError:  # the same again would fail again, and the subscriber is to go on
            logger.exception("a subscriber that lags cannot read what it missed; it is told of a gap")
            return None
        if page is None:
            return None
        self.position, self._more = page.position, page.more
        # What is malformed was complained of when it came live.
        return [news for mail in page.mails if (news := decode(mail)) is not None]

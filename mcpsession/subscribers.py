"""All subscriptions of one replica: who hears what, who must have room first, and what is said of those that lag.

Costs a look at each of them for each news; a publisher pays nothing, unless a subscriber asked to hold publishers up.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakSet

import anyio

from mcpsession.allowed import shown
from mcpsession.errors import ConfigurationError
from mcpsession.model import Heard, SessionId
from mcpsession.subscription import POLICIES, Subscription
from mcpsession.telemetry import Telemetry
from mcpsession.texts import storable

logger = logging.getLogger(__name__)

# Seconds between two warnings of subscribers that lag.
_QUIET = 60.0


class Subscribers:
    """Keeps them weakly: whoever drops a subscription has unsubscribed."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._all: WeakSet[Subscription] = WeakSet()
        self._blocking: WeakSet[Subscription] = WeakSet()
        self._waiting: set[Subscription] = set()
        self._dropped = self._lagging = 0
        """Since the last warning."""
        self._warned = -math.inf

    def __len__(self) -> int:
        return len(self._all)

    def add(self, subscription: Subscription) -> None:
        self._all.add(subscription)
        if subscription.policy == "block":
            self._blocking.add(subscription)

    def hear(self, heard: Heard, *, own: bool) -> None:
        for subscription in list(self._all):
            subscription.hear(heard, own=own)

    def lose(self) -> None:
        for subscription in list(self._all):
            subscription.lose()

    def end(self) -> None:
        """End them all; what waits in them can still be read."""
        for subscription in list(self._all):
            subscription.end()
        self.warn()

    @asynccontextmanager
    async def room(
        self, session_id: SessionId | None, topic: str | None, *, longest: float, keep: bool = True
    ) -> AsyncIterator[None]:
        """Enter once every `block` subscriber that would hear it has room, or its timeout (or the longest) has passed.

        The room is kept until it comes; not if this is left with an error, or not to be kept.
        """
        began = anyio.current_time()
        kept: list[Subscription] = []
        try:
            for subscription in list(self._blocking):
                # One that let a publisher wait for nothing, and has not read since, holds no other up.
                if subscription.is_stalled or not subscription.wants(session_id, topic):
                    continue
                with anyio.CancelScope(deadline=began + min(subscription.timeout, longest)) as waiting:
                    await subscription.reserve()
                    kept.append(subscription)
                subscription.is_stalled = waiting.cancelled_caught
            yield
        except BaseException:
            keep = False
            raise
        finally:
            if not keep:
                for subscription in kept:
                    subscription.give_back()

    # What subscriptions say

    def leave(self, subscription: Subscription) -> None:
        self._all.discard(subscription)
        self._blocking.discard(subscription)

    def hold(self, subscription: Subscription) -> None:
        self._waiting.add(subscription)

    def let_go(self, subscription: Subscription) -> None:
        self._waiting.discard(subscription)

    def overflowed(self, *, dropped: int, subscribers: int) -> None:
        if dropped:
            self._telemetry.count("mcpsession_dropped_news_total", dropped)
        if subscribers:
            self._telemetry.count("mcpsession_slow_subscribers_total", subscribers)
        self._dropped += dropped
        self._lagging += subscribers
        if self._dropped and time.monotonic() - self._warned >= _QUIET:
            self.warn()

    def warn(self) -> None:
        """Say how much did not fit since the last time, if anything did."""
        if not self._dropped:
            return
        logger.warning(
            "subscribers were too slow %d times, and %d news did not fit; each does as its policy says. The next "
            "such warning comes in %.0f s at the earliest",
            self._lagging,
            self._dropped,
            _QUIET,
        )
        self._warned = time.monotonic()
        self._dropped = self._lagging = 0


def check(session_id: object, topic: object, policy: object, timeout: object, room: object) -> None:
    """Raises ConfigurationError for what no subscription can have."""
    for name, text in (("session_id", session_id), ("topic", topic)):
        if text is not None and not (isinstance(text, str) and storable(text)):
            raise ConfigurationError(name, shown(text), "a text without NUL and lone surrogates, or None")
    if policy not in POLICIES:
        raise ConfigurationError("policy", shown(policy), "one of " + ", ".join(POLICIES))
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 <= timeout < math.inf:
        raise ConfigurationError("timeout", shown(timeout), "seconds, 0 or more")
    if isinstance(room, bool) or not isinstance(room, int) or room < 1:
        raise ConfigurationError("buffer", shown(room), "a whole number, 1 or more")

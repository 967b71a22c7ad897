"""The bell in memory: a call on the event loop of each who listens."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from mcpsession.model import Bell, ListenerState, ReplicaId

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Ear:
    replica: ReplicaId
    loop: asyncio.AbstractEventLoop
    heard: Callable[[str], None]
    open: bool = True

    def hear(self, word: str) -> None:
        # What was rung before the end and comes after it is not heard any more.
        if self.open:
            _call(self.heard, word)


def _call(hear: Callable[..., None], word: str) -> None:
    try:
        hear(word)
    except Exception:  # the boundary: what a bell wakes must not break the event loop's turn
        logger.exception("a bell's hearer failed")


class MemoryDoorbell:
    """Doorbell without a wire: it is never away, so there is never a gap to tell of."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ears: dict[_Ear, None] = {}

    def ring(self, bell: Bell) -> None:
        with self._lock:
            ears = [ear for ear in self._ears if bell.recipient is None or bell.recipient == ear.replica]
        for ear in ears:
            # A loop that was closed meanwhile has nobody left to wake.
            with suppress(RuntimeError):
                ear.loop.call_soon_threadsafe(ear.hear, bell.word)

    @asynccontextmanager
    async def listening(
        self,
        replica: ReplicaId,
        *,
        heard: Callable[[str], None],
        reconnected: Callable[[], None],
        state: Callable[[ListenerState], None] = lambda _: None,
    ) -> AsyncIterator[None]:
        ear = _Ear(replica, asyncio.get_running_loop(), heard)
        with self._lock:
            self._ears[ear] = None
        try:
            _call(state, "connected")
            yield
        finally:
            ear.open = False
            with self._lock:
                del self._ears[ear]

    def last_heard(self) -> float:
        return time.monotonic() if self._ears else -math.inf

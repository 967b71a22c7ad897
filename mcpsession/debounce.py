"""Many of a kind within a moment become one.

Costs one task, and at rest no timer.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
import threading
import time
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, NoReturn, TypeVar

import anyio

from mcpsession.errors import LayerClosedError, NewsError, SessionNotFoundError, StoreUnavailableError

logger = logging.getLogger(__name__)

T = TypeVar("T")

MOST_KINDS = 10_000
"""That wait at once."""
_DISPATCH_TIMEOUT = 5.0


@dataclass(slots=True)
class _Waiting(Generic[T]):
    thing: T
    first: float
    """When the burst began."""
    due: float


class Waiting(Generic[T]):
    """What waits for a pause, by kind. Plain decisions; the time is an argument."""

    def __init__(self, pause: float, longest: float) -> None:
        self._pause = pause
        self._longest = longest
        self._kinds: dict[Hashable, _Waiting[T]] = {}
        # Each kind once, with a time that is not after the one when it is due.
        self._heap: list[tuple[float, int, Hashable]] = []
        self._number = 0

    def __len__(self) -> int:
        return len(self._kinds)

    def put(self, kind: Hashable, thing: T, now: float) -> None:
        """Let it wait in the place of an older one of its kind.

        Raises NewsError when too many kinds wait already.
        """
        known = self._kinds.get(kind)
        if known is not None:
            known.thing, known.due = thing, min(now + self._pause, known.first + self._longest)
        elif len(self._kinds) >= MOST_KINDS:
            raise NewsError(f"{MOST_KINDS} kinds of news wait already; the store is away, or publish at once instead")
        else:
            self._enter(kind, thing, now, now + min(self._pause, self._longest))

    def put_back(self, kind: Hashable, thing: T, due: float) -> None:
        """Let it wait again, unless a newer one of its kind has taken its place."""
        if kind not in self._kinds:
            self._enter(kind, thing, due, due)

    def clear(self) -> int:
        """Forget all that waits; returns how much that was."""
        lost = len(self._kinds)
        self._kinds.clear()
        self._heap.clear()
        return lost

    def take(self, now: float) -> tuple[Hashable, T] | None:
        """One that is due."""
        while self._heap and self._heap[0][0] <= now:
            _, number, kind = heapq.heappop(self._heap)
            waiting = self._kinds[kind]
            if waiting.due <= now:
                del self._kinds[kind]
                return kind, waiting.thing
            heapq.heappush(self._heap, (waiting.due, number, kind))
        return None

    @property
    def next_due(self) -> float | None:
        """When to look again; None: nothing waits."""
        return self._heap[0][0] if self._heap else None

    def _enter(self, kind: Hashable, thing: T, first: float, due: float) -> None:
        self._kinds[kind] = _Waiting(thing, first, due)
        self._number += 1
        heapq.heappush(self._heap, (due, self._number, kind))


class Debouncer(Generic[T]):
    """Hands on the last of each burst, once there is a pause, and now and then while there is none."""

    def __init__(
        self,
        dispatch: Callable[[T], Awaitable[object]],
        *,
        pause: float,
        longest: float,
        retry: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dispatch = dispatch
        self._retry = retry
        self._clock = clock
        self._waiting: Waiting[T] = Waiting(pause, longest)
        # Tools that are no coroutines run in threads.
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = anyio.Event()
        self._dispatching = anyio.Lock()
        self._failing = False

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, kind: Hashable, thing: T) -> None:
        """Hand it on soon, unless a newer one of its kind comes before. From any thread, and at once.

        Raises NewsError when too many kinds wait already.
        """
        with self._lock:
            was_at_rest = not self._waiting
            self._waiting.put(kind, thing, self._clock())
            if was_at_rest and self._loop is not None:
                # A loop that was closed meanwhile has nobody left to wake.
                with suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._wake.set)

    async def run(self) -> NoReturn:
        """Hand on what is due, until cancelled."""
        self._loop = asyncio.get_running_loop()
        while True:
            with self._lock:
                self._wake = anyio.Event()
                due = self._waiting.next_due
            if due is None:
                await self._wake.wait()
            # What comes meanwhile is due later.
            elif (wait := due - self._clock()) > 0:
                await anyio.sleep(wait)
            elif not await self._hand_on(self._clock()):
                await anyio.sleep(self._retry)

    async def flush(self) -> None:
        """Hand on all that waits, now. What cannot be handed on is lost, and the log says how much."""
        try:
            await self._hand_on(math.inf)
        finally:
            with self._lock:
                lost = self._waiting.clear()
            if lost:
                logger.error("%d news that waited for a pause could not be published before the end", lost)

    async def _hand_on(self, now: float) -> bool:
        """Dispatch what is due by then; False if that is of no use at present."""
        async with self._dispatching:
            while True:
                with self._lock:
                    taken = self._waiting.take(now)
                if taken is None:
                    return True
                if not await self._try(*taken):
                    return False

    async def _try(self, kind: Hashable, thing: T) -> bool:
        try:
            with anyio.fail_after(_DISPATCH_TIMEOUT):
                await self._dispatch(thing)
        except (StoreUnavailableError, LayerClosedError, TimeoutError) as error:
            self._put_back(kind, thing)
            if not self._failing:
                self._failing = True
                logger.warning("news cannot be published: %s; it is tried until it can", error or "no answer in time")
            return False
        except SessionNotFoundError:
            logger.debug("news for a session that has ended meanwhile was dropped")
        except Exception:  # the boundary: one bad piece of news must not keep the others
            logger.exception("news could not be published, and is dropped")
        except BaseException:
            self._put_back(kind, thing)
            raise
        if self._failing:
            self._failing = False
            logger.info("news can be published again")
        return True

    def _put_back(self, kind: Hashable, thing: T) -> None:
        with self._lock:
            self._waiting.put_back(kind, thing, self._clock() + self._retry)

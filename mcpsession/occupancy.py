"""One thing that runs while anybody is inside, whoever and however many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack

import anyio


class Occupancy:
    """The first task to enter runs it, and is the last to leave: what runs can only end in the task that began it."""

    def __init__(self, running: Callable[[], AbstractAsyncContextManager[None]]) -> None:
        self._running = running
        self._inside: Counter[int] = Counter()
        self._host: int | None = None
        self._stack = AsyncExitStack()
        self._door = anyio.Lock()
        self._somebody_left = anyio.Event()
        self._left_behind: set[int] = set()

    async def enter(self) -> None:
        """Begin to run, if it does not. Raises what beginning raises; then nobody is inside."""
        me = anyio.get_current_task().id
        async with self._door:
            if self._host is None:
                await self._stack.enter_async_context(self._running())
                self._host = me
            self._inside[me] += 1

    async def leave(self) -> None:
        """The host waits until all others have left, and ends what runs; cancelled meanwhile, it ends it at once."""
        me = anyio.get_current_task().id
        if me in self._left_behind:
            self._left_behind.discard(me)
            return
        if me not in self._inside:
            raise RuntimeError("the session layer was left in another task than it was entered in")
        self._inside[me] -= 1
        self._inside += Counter()  # drops those that are at nought
        self._somebody_left.set()
        if me == self._host and me not in self._inside:
            await self._end()

    async def _end(self) -> None:
        alone = False
        try:
            while not alone:
                while self._inside:
                    self._somebody_left = anyio.Event()
                    await self._somebody_left.wait()
                # Whoever comes from here on waits at the door, and begins anew.
                await self._door.acquire()
                alone = not self._inside
                if not alone:
                    self._door.release()
        finally:
            self._left_behind.update(self._inside)
            self._inside.clear()
            try:
                await self._stack.aclose()
            finally:
                self._host = None
                if alone:
                    self._door.release()

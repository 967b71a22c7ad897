"""The tasks that handlers run in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio

from mcpsession.errors import LayerClosedError


class Handlers:
    """A task for each handler, apart from the socket that brought its request. All have ended when this has.

    Asyncio's own: a task group's task costs three times as much, for a name, a scope, and the errors that leave it.
    Here none does, and each handler has a scope of its own by which it is cancelled.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take on handlers while inside. Whoever leaves has told them to end, and waits for that."""
        self._loop = asyncio.get_running_loop()
        try:
            yield
        finally:
            self._loop = None
            try:
                # Also when whoever leaves was cancelled: they were told, and what they shield, as a last word to their
                # client, they may do.
                with anyio.CancelScope(shield=True):
                    while self._tasks:
                        await asyncio.wait(self._tasks)
            finally:
                # Of whoever cannot even wait.
                for task in self._tasks:
                    task.cancel()

    def start(self, handler: Coroutine[Any, Any, None]) -> None:
        """Run it; what it raises is not raised here.

        Raises LayerClosedError when no more are taken on: nobody would tell it to end.
        """
        if self._loop is None:
            handler.close()
            raise LayerClosedError
        task = self._loop.create_task(handler)
        # The loop itself holds tasks weakly.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

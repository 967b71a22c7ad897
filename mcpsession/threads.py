"""Code of the application's that may block, in a thread that ends with the process."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.lowlevel
from anyio import from_thread

T = TypeVar("T")


async def in_daemon_thread(function: Callable[[], T]) -> T:
    """Run `function` in a thread of its own; cancelled, leave it behind.

    AnyIO's own workers are no daemons: one that never comes back would keep the process alive.
    """
    token, done = anyio.lowlevel.current_token(), anyio.Event()
    context = contextvars.copy_context()
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(context.run(function))
        except BaseException as error:  # it is raised where the function was called
            failure.append(error)
        try:
            from_thread.run_sync(done.set, token=token)
        except (RuntimeError, anyio.RunFinishedError):
            # Left behind, and the loop has ended since.
            return

    threading.Thread(target=run, name="mcpsession-handler", daemon=True).start()
    await done.wait()
    if failure:
        raise failure[0]
    return outcome[0]

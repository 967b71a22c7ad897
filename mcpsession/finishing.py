"""Work that is finished once it has begun, whatever becomes of whoever asked for it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import anyio.abc

from mcpsession.errors import LayerClosedError

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A handler that never returns must not keep a process from ending.
_GRACE = 5.0


async def finish(tasks: anyio.abc.TaskGroup, work: Callable[[], Awaitable[T]]) -> T:
    """Do it in a task of its own, and wait for it: neither a client that hangs up nor a server that cancels ends it.

    The end of this replica ends it after 5 s. Raises what it raised; if nobody waits for it any more, the log has it.
    """
    over = anyio.Event()
    made: list[T] = []
    raised: list[Exception] = []
    alone = False

    async def run(working: anyio.CancelScope) -> None:
        try:
            with working:
                made.append(await work())
        except Exception as error:  # the boundary: it belongs to who waits, and must not end the task group
            raised.append(error)
            if alone:
                logger.warning("what a client asked for and did not wait for has failed", exc_info=True)
        finally:
            over.set()

    async def run_on() -> None:
        working = anyio.CancelScope(shield=True)
        async with anyio.create_task_group() as both:
            both.start_soon(run, working)
            try:
                await over.wait()
            finally:
                working.deadline = anyio.current_time() + _GRACE

    tasks.start_soon(run_on)
    try:
        await over.wait()
    except anyio.get_cancelled_exc_class():
        alone = True
        raise
    if raised:
        raise raised[0]
    if not made:
        raise LayerClosedError
    return made[0]

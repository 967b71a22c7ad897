"""What runs in a replica while its layer does, in one task group: begun in order, ended in order."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc

from mcpsession.contracts import Doorbell
from mcpsession.journal import Journal
from mcpsession.periodic import every
from mcpsession.sdk.standalone_looks import look_on
from mcpsession.settings import Settings
from mcpsession.wiring import Wiring

logger = logging.getLogger(__name__)

_FLUSH_DEADLINE = 5.0


@asynccontextmanager
async def serving(wiring: Wiring, doorbell: Doorbell, settings: Settings) -> AsyncIterator[anyio.abc.TaskGroup]:
    """Serve while inside; entered once this replica hears its bells and has applied the control log."""
    parts, reaper, control = wiring.parts, wiring.reaper, wiring.control
    # What an earlier run of this layer knew nobody has kept true since.
    parts.cache.clear()
    # Cancelled with the rest it could not be flushed, and clients have what is in it.
    writing = anyio.CancelScope(shield=True)
    async with anyio.create_task_group() as tasks, _cancelled_at_last(writing):
        await tasks.start(_listen, wiring, doorbell)
        tasks.start_soon(parts.post_office.run)
        tasks.start_soon(_write_on, parts.journal, writing)
        tasks.start_soon(parts.broadcaster.run)
        tasks.start_soon(lambda: every(settings.touch_flush, parts.touches.flush, name="touching sessions"))
        tasks.start_soon(lambda: every(wiring.poll_every, wiring.poll, name="polling"))
        tasks.start_soon(look_on, parts)
        wiring.tasks = tasks
        wiring.handlers.closing = False
        wiring.following.open()
        await reaper.start()
        try:
            # Before this replica says that it is ready; until it follows, what comes waits in the log.
            await control.start()
            tasks.start_soon(control.run)
            yield tasks
        finally:
            await _end(wiring)
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def _cancelled_at_last(scope: anyio.CancelScope) -> AsyncIterator[None]:
    try:
        yield
    finally:
        scope.cancel()


async def _write_on(journal: Journal, scope: anyio.CancelScope) -> None:
    with scope:
        await journal.run()


async def _end(wiring: Wiring) -> None:
    parts = wiring.parts
    # Handlers that have begun end; of the others the next replica takes care.
    wiring.handlers.closing = True
    with anyio.move_on_after(_FLUSH_DEADLINE, shield=True):
        await wiring.reaper.stop()
    with anyio.CancelScope(shield=True):
        await wiring.control.stop()
    await parts.broadcaster.close()
    wiring.following.close()
    wiring.tasks = None
    with anyio.move_on_after(_FLUSH_DEADLINE, shield=True) as flushing:
        await parts.journal.flushed()
        await parts.touches.flush()
    if flushing.cancelled_caught:
        logger.error("the journal could not be flushed in %.0f s; events were lost", _FLUSH_DEADLINE)


async def _listen(
    wiring: Wiring, doorbell: Doorbell, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Hear the bells of whoever this replica is; a reborn one has another channel."""
    parts = wiring.parts
    while True:
        async with doorbell.listening(
            wiring.me(),
            heard=parts.post_office.hear,
            reconnected=wiring.after_a_gap,
            state=parts.listening.note,
        ):
            parts.post_office.wake()
            # Whoever waits for a bell under an earlier id looks, and says who it is now.
            parts.tails.wake_all()
            task_status.started()
            task_status = anyio.TASK_STATUS_IGNORED
            await wiring.reborn()
        if parts.listening.hears:
            parts.listening.note("disconnected")

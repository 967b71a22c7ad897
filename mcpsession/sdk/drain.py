"""Taking a replica out of service: at SIGTERM, not in the lifespan, which servers reach only after open streams end."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import anyio
import anyio.abc

from mcpsession.sdk.in_flight import Running
from mcpsession.sdk.parts import Parts

logger = logging.getLogger(__name__)

LONGER = "This replica is shutting down and the call took longer than its grace; whether it had effects is unknown"
_FLUSH = 5.0


async def drain(parts: Parts, grace: float) -> None:
    """Stop taking on work, tell open streams to reconnect, let calls finish for `grace` seconds, flush.

    A second caller waits for the first one's end; where that was cancelled, it drains itself.
    """
    async with parts.drain.turn:
        if not parts.drain.done:
            await _drain(parts, grace)
            parts.drain.done = True


async def _drain(parts: Parts, grace: float) -> None:
    parts.drain.begun = True
    logger.info("draining: %d requests in flight, %d standalone streams", len(parts.in_flight), len(parts.standalones))
    parts.standalones.let_go_all()
    parts.readers.let_go_all()
    for close in parts.drain.closing:
        close()
    # Balancers need a moment to see that this replica is not ready; what they still send is served.
    early = list(parts.in_flight)
    with anyio.move_on_after(grace):
        await parts.in_flight.finished()
    parts.drain.over = True
    await _end_the_rest(parts, early, grace)
    for end in parts.drain.ending:
        end()
    with anyio.move_on_after(_FLUSH):
        await parts.journal.flushed()
    logger.info("drained")


async def _end_the_rest(parts: Parts, early: list[Running], grace: float) -> None:
    """End the calls that had the whole grace, then, a little later, those that came during it."""
    left = set(map(id, parts.in_flight))
    if not left:
        return
    logger.warning("%d calls took longer than the grace of %.0f s; they end with an error", len(left), grace)
    for exchange in early:
        if id(exchange) in left:
            exchange.end(LONGER)
    with anyio.move_on_after(_FLUSH):
        await parts.in_flight.finished()
    parts.in_flight.end_all(LONGER)
    with anyio.move_on_after(_FLUSH):
        await parts.in_flight.finished()


def _asked_to_exit(handler: object) -> bool:
    """Have the server whose handler this is end by itself; False if it is none that we know.

    uvicorn raises every signal that its handler took once more when it has shut down, and the process dies of that. One
    that has drained ends as it should: with 0.
    """
    server: Any = getattr(handler, "__self__", None)
    if not isinstance(getattr(server, "should_exit", None), bool):
        return False
    server.should_exit = True
    return True


@contextmanager
def draining_at_sigterm(run: Callable[[], Awaitable[None]], tasks: anyio.abc.TaskGroup) -> Iterator[None]:
    """Drain at the first SIGTERM, then have the server end; a second one goes to the server's own handler at once."""
    if threading.current_thread() is not threading.main_thread():
        # Signals can only be handled there; whoever runs servers in threads calls layer.drain() himself.
        yield
        return
    loop = asyncio.get_running_loop()
    before: Any = signal.getsignal(signal.SIGTERM)
    begun = False

    def pass_on(number: int, frame: FrameType | None) -> None:
        if callable(before):
            before(number, frame)
        elif before == signal.SIG_DFL:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)

    async def drain_first(number: int) -> None:
        try:
            await run()
        except Exception:  # the boundary: a process that was told to end must end
            logger.exception("draining failed")
        if not _asked_to_exit(before):
            pass_on(number, None)

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal begun
        if begun:
            pass_on(number, frame)
            return
        begun = True
        loop.call_soon_threadsafe(lambda: tasks.start_soon(drain_first, number))

    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is handle:
            signal.signal(signal.SIGTERM, before)

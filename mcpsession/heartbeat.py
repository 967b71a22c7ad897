"""Keeps this replica's row fresh, watches the others', and fences this one when it lapsed.

Costs one statement a beat, on a thread and a connection of its own, so that nothing can starve it: not a tool that
blocks the event loop, not an exhausted pool.

A death is recorded by compare-and-set on the dead one's counter, by an observer that has itself beaten without a lapse
and has watched that counter stand still for `dead_after` on its own monotonic clock. So an outage of the store, a
stepped clock or a fail-over kills nobody.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import anyio
import anyio.to_thread

from mcpsession.contracts import Backend, ReplicaRegistry
from mcpsession.errors import MCPSessionError
from mcpsession.model import Pulse, Replica, ReplicaId, new_replica_id
from mcpsession.settings import Settings

logger = logging.getLogger(__name__)

_STOP_DEADLINE = 5.0
# A tool that blocks the event loop for some seconds kills nobody; one that blocks it for ever must not be taken for
# a replica that serves.
_WEDGED = 30.0
# A beat that failed is sent anew after this part of a beat. After a whole one, a store that is away for a second at the
# wrong moment would keep a sound replica silent for as long as makes one dead.
_AGAIN = 1 / 4


class Watch:
    """What one replica saw of the others' counters. Plain decisions, no I/O."""

    def __init__(self, dead_after: float) -> None:
        self._dead_after = dead_after
        self._seen: dict[ReplicaId, tuple[int, float]] = {}

    def look(
        self, others: dict[ReplicaId, int], now: float, *, asked: float | None = None
    ) -> list[tuple[ReplicaId, int]]:
        """Take note of the counters, and name those that stood still for too long when they were asked for.

        `now` is when the answer came. What a store that stalls did to the answer it may have done to their beats.
        """
        until = now if asked is None else asked
        self._seen = {
            replica: seen if (seen := self._seen.get(replica)) and seen[0] == beats else (beats, now)
            for replica, beats in others.items()
        }
        return [(replica, beats) for replica, (beats, since) in self._seen.items() if until - since >= self._dead_after]

    def forget(self) -> None:
        """Start all over, after a lapse of one's own: while one did not look, nothing was seen to stand still."""
        self._seen.clear()


class Heartbeat:
    """This replica's pulse and, with it, its right to write to sockets."""

    def __init__(self, backend: Backend, settings: Settings) -> None:
        self._backend = backend
        self._settings = settings
        self._lapse = settings.dead_after - settings.fence_margin
        self.replica_id: ReplicaId = ""
        self.position: Callable[[], str] = str
        """Where the post office stands in the broadcast mail; each beat looks for more."""
        self.on_pulse: Callable[[Pulse, float], None] = lambda _p, _s: None
        """Called on the event loop with what each confirmed beat brought back, and when that had been sent."""
        self.on_death: Callable[[], None] = lambda: None
        """Called on the event loop when this replica recorded another's death."""
        self.on_reborn: Callable[[ReplicaId], None] = lambda _: None
        """Called on the event loop with the new id, after this replica was declared dead."""
        self._last_beat = -math.inf
        self._fenced = False
        self._stopping = False
        self._wake_thread: Callable[[], None] = lambda: None
        self._resumed = anyio.Event()

    def may_write(self) -> bool:
        """Whether no other replica can have declared this one dead yet. Asked before every write to a socket."""
        return not self._fenced and time.monotonic() - self._last_beat < self._lapse

    @property
    def last_beat(self) -> float:
        """Seconds since the last confirmed beat was sent."""
        return time.monotonic() - self._last_beat

    async def may_write_again(self) -> None:
        """Wait until this replica may write to sockets."""
        while not self.may_write():
            await self._resumed.wait()

    def unfence(self) -> None:
        """Go on under the new id, once everything of the old one is cut."""
        self._fenced = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Beat while inside. Entered after the first beat; leaving records the own end.

        Raises what the store raised, if the first beat fails.
        """
        # Minted here and not where the layer is built: that may be before a server forks its workers.
        self.replica_id = new_replica_id()
        self._last_beat, self._fenced, self._stopping = -math.inf, False, False
        self._loop_ran = time.monotonic()
        loop = asyncio.get_running_loop()
        started: asyncio.Future[None] = loop.create_future()

        def settle(error: BaseException | None) -> None:
            if started.done():
                return
            if error:
                started.set_exception(error)
            else:
                started.set_result(None)

        def tell(call: Callable[[], None]) -> None:
            # What is logged goes this way, too: a handler's lock is held for as long as another thread's line takes.
            # The loop may close while the thread still winds down; then nobody is left to tell.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(call)

        def work() -> None:
            while True:
                try:
                    asyncio.run(self._beat_on(tell, lambda: tell(lambda: settle(None))))
                    return
                except BaseException as error:  # the thread's boundary: whoever waits for the first beat hears of it
                    if self._stopping or not started.done():
                        tell(partial(settle, error))
                        return
                    # The heart of a replica that serves must go on, whatever it stumbled over.
                    stopped = "the heart stopped; it starts again as the same replica"
                    tell(partial(logger.error, stopped, exc_info=error))
                    time.sleep(self._settings.beat)

        thread = threading.Thread(target=work, name="mcpsession-heartbeat", daemon=True)
        thread.start()
        try:
            await started
            yield
        finally:
            self._stopping = True
            self._wake_thread()
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(thread.join, _STOP_DEADLINE)

    def _note_loop(self) -> None:
        self._loop_ran = time.monotonic()

    async def _beat_on(self, tell: Callable[[Callable[[], None]], None], ready: Callable[[], None]) -> None:
        watch, stop, loop = Watch(self._settings.dead_after), asyncio.Event(), asyncio.get_running_loop()
        self._wake_thread = lambda: tell_stop(loop, stop)
        async with self._backend.registry() as registry:
            if self._last_beat == -math.inf:
                await registry.join(Replica(self.replica_id, self._settings.label))
            await self._beat(registry, watch, tell)
            ready()
            pause = self._settings.beat
            while True:
                with anyio.move_on_after(pause):
                    await stop.wait()
                if self._stopping:
                    break
                tell(self._note_loop)
                if time.monotonic() - self._loop_ran > _WEDGED:
                    # Beats say that this replica serves. One whose event loop does nothing any more does not. Said
                    # right here: the loop would say it when it is no longer true.
                    logger.error("the event loop has not run for %.0f s: no more beats until it does", _WEDGED)
                    continue
                failed, pause = pause < self._settings.beat, self._settings.beat
                try:
                    await self._beat(registry, watch, tell)
                except MCPSessionError as error:
                    watch.forget()
                    pause *= _AGAIN
                    # Once in a row: it is tried several times a second.
                    level = logging.DEBUG if failed else logging.WARNING
                    tell(partial(logger.log, level, "no beat: %s; this replica pauses if it lasts", error))
                except Exception as error:  # the boundary: a heart must not stop for one bad beat
                    watch.forget()
                    tell(partial(logger.error, "a beat failed; this replica pauses if it lasts", exc_info=error))
            with anyio.move_on_after(1.0):
                await registry.leave(self.replica_id)

    async def _beat(self, registry: ReplicaRegistry, watch: Watch, tell: Callable[[Callable[[], None]], None]) -> None:
        sent = time.monotonic()
        if sent - self._last_beat > self._lapse:
            watch.forget()
        pulse = await registry.beat(self.replica_id, self.position())
        if not pulse.alive:
            await self._be_reborn(registry, watch, tell)
            return
        self._last_beat = sent

        def resume() -> None:
            resumed, self._resumed = self._resumed, anyio.Event()
            resumed.set()
            self.on_pulse(pulse, sent)

        tell(resume)
        for replica, beats in watch.look(dict(pulse.others), time.monotonic(), asked=sent):
            if await registry.declare_dead(replica, beats):
                stood = self._settings.dead_after
                tell(partial(logger.warning, "replica %s has stood still for %.1f s: dead", replica, stood))
                tell(self.on_death)

    async def _be_reborn(
        self, registry: ReplicaRegistry, watch: Watch, tell: Callable[[Callable[[], None]], None]
    ) -> None:
        # Fence first: from here to the event loop's cut, nothing may reach a socket.
        self._fenced = True
        old, new = self.replica_id, new_replica_id()
        tell(partial(logger.warning, "replica %s was declared dead while it lived; it goes on as %s", old, new))
        await registry.join(Replica(new, self._settings.label))
        watch.forget()
        self.replica_id = new
        tell(lambda: self.on_reborn(new))


def tell_stop(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Set an event of another thread's loop; that loop may be gone already."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(stop.set)

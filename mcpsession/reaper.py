"""`layer.reaper`: deletes what expired, on every replica, with jitter and without a leader.

Each pass is a few deletes in batches over expiry indexes; whatever two replicas both want is deleted by one of them.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import anyio
import anyio.abc

from mcpsession.endings import Endings
from mcpsession.errors import LayerClosedError
from mcpsession.expiry import ExpiryHandlers
from mcpsession.model import Reaped, SessionId
from mcpsession.orphans import Orphans
from mcpsession.periodic import log_failure
from mcpsession.policies import Expired, Idle, Matching, Orphaned, Policy
from mcpsession.records import EndReason, Filter, Session
from mcpsession.session_contracts import Directory, Reaping
from mcpsession.settings import Settings
from mcpsession.telemetry import Telemetry

logger = logging.getLogger(__name__)

_PAUSE = 0.005
_PAGE = 1000
_JITTER = 0.2


@dataclass(frozen=True, slots=True)
class ReaperStats:
    """What this replica's reaper has done since the layer was built."""

    passes: int = 0
    failures: int = 0
    """Passes that ended in an error; the next one tries again."""
    sessions: int = 0
    streams: int = 0
    mail: int = 0
    replicas: int = 0
    control: int = 0
    last_pass_seconds: float | None = None
    last_pass_age: float | None = None
    """Seconds since the last pass ended."""
    interval: float | None = None
    running: bool = False
    paused: bool = False


class Reaper:
    """A loop of passes, in the layer's task group: it never keeps a process alive."""

    def __init__(
        self,
        reaping: Reaping,
        directory: Directory,
        orphans: Orphans,
        handlers: ExpiryHandlers,
        endings: Endings,
        settings: Settings,
        *,
        tasks: Callable[[], anyio.abc.TaskGroup | None],
        telemetry: Telemetry,
    ) -> None:
        self._reaping = reaping
        self._directory = directory
        self._orphans = orphans
        self._handlers = handlers
        self._endings = endings
        self._batch = settings.reap_batch
        self._touch_flush = settings.touch_flush
        self._tasks = tasks
        self._telemetry = telemetry
        self._interval = settings.reap_every or None
        self._paused = False
        self._changed = anyio.Event()
        self._stopping = False
        self._stopped: anyio.Event | None = None
        self._policies: list[Policy] = [Orphaned(), Expired()]
        self._counts = Reaped()
        self._passes = self._failures = 0
        self._last: tuple[float, float] | None = None

    def __repr__(self) -> str:
        state = "paused" if self._paused else "running" if self.running else "stopped"
        return f"<Reaper {state}, every {self._interval} s>"

    # What it looks for

    @property
    def policies(self) -> Sequence[Policy]:
        return tuple(self._policies)

    def add_policy(self, policy: Policy) -> None:
        """Look for these, too (see `mcpsession.policies`), from the next pass on. On this replica: add it on every one.

        Raises TypeError for what is no policy.
        """
        if not isinstance(policy, Policy):
            raise TypeError(f"a policy is one of mcpsession.policies, such as Idle(after=600), not {policy!r}")
        if policy not in self._policies:
            self._policies.append(policy)

    def remove_policy(self, policy: Policy) -> None:
        """Look for these no more. One that is not there is no error."""
        if policy in self._policies:
            self._policies.remove(policy)

    # The loop

    @property
    def running(self) -> bool:
        return self._stopped is not None

    @property
    def paused(self) -> bool:
        return self._paused

    @property
    def interval(self) -> float | None:
        return self._interval

    async def start(self) -> None:
        """Reap every `interval` seconds. Free if it runs already, or if `reap_every` is off.

        Entering the layer does it. Raises LayerClosedError if the layer is not entered.
        """
        tasks = self._tasks()
        if tasks is None:
            raise LayerClosedError
        if self._stopping:
            await self.stop()
        if self._stopped is None and self._interval is not None:
            self._stopped = anyio.Event()
            tasks.start_soon(self._run, self._stopped)

    async def stop(self) -> None:
        """End the loop and wait until it has ended; a pass under way is finished first. Free if it does not run."""
        if self._stopped is not None:
            self._stopping = True
            self._changed.set()
            await self._stopped.wait()

    def pause(self) -> None:
        """Begin no pass on its own until `resume`. `run_once` works meanwhile."""
        self._paused = True

    def resume(self) -> None:
        """Go on; the next pass comes after one interval."""
        self._paused = False
        self._changed.set()

    async def set_interval(self, seconds: float | None) -> None:
        """Reap so often from now on; None ends the loop.

        Raises ValueError for seconds that are not above 0.
        """
        if seconds is not None and not 0 < seconds < float("inf"):
            raise ValueError(f"seconds={seconds} is not allowed: above 0, or None to stop")
        self._interval = seconds
        if seconds is None:
            await self.stop()
        elif self._tasks() is not None:
            await self.start()
        self._changed.set()

    @property
    def stats(self) -> ReaperStats:
        took, ended = self._last or (None, None)
        return ReaperStats(
            passes=self._passes,
            failures=self._failures,
            sessions=self._counts.sessions,
            streams=self._counts.streams,
            mail=self._counts.mail,
            replicas=self._counts.replicas,
            control=self._counts.control,
            last_pass_seconds=took,
            last_pass_age=None if ended is None else time.monotonic() - ended,
            interval=self._interval,
            running=self.running,
            paused=self._paused,
        )

    async def _run(self, stopped: anyio.Event) -> None:
        try:
            while self._interval is not None and not self._stopping:
                # Replicas started together must not all hit the database together.
                with anyio.move_on_after(self._interval * random.uniform(1 - _JITTER, 1 + _JITTER)) as waiting:
                    await self._changed.wait()
                if not waiting.cancelled_caught:
                    # Something is other than it was: look at it, and wait anew.
                    self._changed = anyio.Event()
                elif not self._paused:
                    await self._try()
        finally:
            self._stopping, self._stopped = False, None
            stopped.set()

    async def _try(self) -> None:
        try:
            await self.run_once()
        except Exception as error:  # the boundary: a pass that failed must not end the loop
            log_failure(logger, error, f"reaping failed, next pass in about {self._interval or 0:.0f} s")

    # A pass

    async def run_once(self) -> Reaped:
        """Remove all that the policies say, and return how much.

        Works without the loop, and beside it. Raises StoreUnavailableError, StoreError; what went until then is gone.
        """
        began, done = time.monotonic(), Reaped()
        self._passes += 1
        try:
            for policy in self.policies:
                async for reaped in self._apply(policy):
                    done, self._counts = _plus(done, reaped), _plus(self._counts, reaped)
        except BaseException:
            self._failures += 1
            raise
        finally:
            self._last = (time.monotonic() - began, time.monotonic())
            self._telemetry.count("mcpsession_reaped_sessions_total", done.sessions)
        return done

    async def _apply(self, policy: Policy) -> AsyncIterator[Reaped]:
        match policy:
            case Orphaned():
                await self._orphans.finish_orphans()
                await self._orphans.finish_strays()
            case Expired():
                # Handlers may take their time; what needs none goes first.
                async for reaped in self._reap():
                    yield reaped
                yield Reaped(sessions=await self._handlers.bury())
            case Idle(after):
                # What a busy session was touched last may not be written yet.
                async for count in self._end_idle(after + self._touch_flush):
                    yield Reaped(sessions=count)
            case Matching(predicate):
                async for count in self._end_matching(predicate):
                    yield Reaped(sessions=count)

    async def _reap(self) -> AsyncIterator[Reaped]:
        while True:
            reaped = await self._reaping.reap(self._batch, handled=bool(self._handlers))
            yield reaped
            if max(reaped.sessions, reaped.streams, reaped.mail, reaped.replicas, reaped.control) < self._batch:
                return
            # Others want the disk as well.
            await anyio.sleep(_PAUSE)

    async def _end_idle(self, idle_for: float) -> AsyncIterator[int]:
        after: SessionId | None = ""
        while after is not None:
            ids, after = await self._reaping.idle(idle_for, after, _PAGE)
            yield await self._end(ids, "idle", idle_for=idle_for)

    async def _end_matching(self, predicate: Callable[[Session], bool]) -> AsyncIterator[int]:
        after = ""
        while page := await self._directory.page(Filter(), after, _PAGE):
            chosen = [session for session in page if predicate(session)]
            # Who was active since it was read stays.
            seen = [session.last_active_at for session in chosen]
            yield await self._end([session.id for session in chosen], "policy", seen=seen)
            after = page[-1].id

    async def _end(
        self,
        session_ids: Sequence[SessionId],
        reason: EndReason,
        *,
        idle_for: float | None = None,
        seen: Sequence[datetime | None] | None = None,
    ) -> int:
        if not session_ids:
            return 0
        ended = await self._endings.end_and_clear_away(session_ids, reason, idle_for=idle_for, seen=seen)
        return len(ended.sessions)


def _plus(one: Reaped, other: Reaped) -> Reaped:
    return Reaped(
        one.sessions + other.sessions,
        one.streams + other.streams,
        one.mail + other.mail,
        one.replicas + other.replicas,
        one.control + other.control,
    )

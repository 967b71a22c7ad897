"""Cancelling a coroutine at each of the places where it waits, one after the other.

Three ways: a task that is cancelled while what it waits for is under way, one that is cancelled when that is done and
the task has not heard of it yet (here things that were handed over get lost), and a cancel scope around it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import anyio

Work = Callable[[], Awaitable[Any]]
Way = Literal["task", "task, too late", "scope"]
WAYS: tuple[Way, ...] = get_args(Way)

# Seconds. What was cancelled ends by then, or it hangs.
ENDS_WITHIN = 20.0
# More places than any of ours has: a loop that never ends is a bug of the test.
_MOST = 400


class Stepped:
    """Runs a coroutine as `await` would, and calls `reach` when it is suspended for the n-th time."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], at: int, reach: Callable[[Any], None]) -> None:
        self._coroutine = coroutine
        self._at = at
        self._reach = reach
        self.suspensions = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        thrown: BaseException | None = None
        while True:
            try:
                waits_for = self._coroutine.send(None) if thrown is None else self._coroutine.throw(thrown)
            except StopIteration as stop:
                return stop.value
            self.suspensions += 1
            if self.suspensions == self._at:
                self._reach(waits_for)
            thrown = None
            try:
                yield waits_for
            except BaseException as error:
                thrown = error


@dataclass
class Outcome:
    """What became of something that was cancelled at one place."""

    way: Way
    place: int
    reached: bool = False
    """False: it had ended before it came there."""
    cancelled: bool = False
    made: Any = None
    error: BaseException | None = None
    stack: list[str] = field(default_factory=list)
    """Where it was."""

    def __str__(self) -> str:
        end = "cancelled" if self.cancelled else f"raised {self.error!r}" if self.error else "ended"
        return f"{self.way}, place {self.place} ({' < '.join(self.stack)}): {end}"


async def cancelled_at(place: int, way: Way, work: Work) -> Outcome:
    """Run it in a task of its own, cancelled at its n-th suspension.

    Raises AssertionError if it does not end.
    """
    outcome = Outcome(way, place)

    async def alone() -> Any:
        return await work()

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        coroutine = alone()

        def reach(waits_for: Any) -> None:
            outcome.reached = True
            outcome.stack = _stack(coroutine)
            if way == "scope":
                scope.cancel()
            elif way == "task":
                # What it waits for is cancelled as soon as the task has it in its hands.
                task.cancel()
            elif asyncio.isfuture(waits_for):
                # Called before the task's own callback: then what it waits for is done, and cannot be cancelled.
                waits_for.add_done_callback(lambda _: task.cancel())
            else:
                asyncio.get_running_loop().call_soon(task.cancel)

        try:
            with anyio.CancelScope() as scope:
                outcome.made = await Stepped(coroutine, place, reach)
            outcome.cancelled = scope.cancelled_caught
        except asyncio.CancelledError:
            outcome.cancelled = True
        except BaseException as error:
            outcome.error = error

    task = asyncio.ensure_future(run())
    done, _ = await asyncio.wait([task], timeout=ENDS_WITHIN)
    if not done:
        hangs = [str(frame) for frame in task.get_stack()]
        task.cancel()
        raise AssertionError(f"does not end: {outcome}; it waits in {hangs}")
    # Whoever was cancelled after its last wait has ended all the same.
    if not task.cancelled():
        task.result()
    return outcome


async def at_every_place(
    prepare: Callable[[], Awaitable[Work]], ways: tuple[Way, ...] = WAYS
) -> AsyncIterator[Outcome]:
    """Prepare work and do it, again and again, cancelled at one place more each time, until it comes through without.

    Only the work is cancelled, never its preparation.
    """
    for way in ways:
        for place in range(1, _MOST):
            outcome = await cancelled_at(place, way, await prepare())
            yield outcome
            if not outcome.reached:
                break
        else:
            raise AssertionError(f"it waits at more than {_MOST} places")


def _stack(coroutine: Coroutine[Any, Any, Any]) -> list[str]:
    """Where a suspended coroutine waits, the innermost function of ours first."""
    names: list[str] = []
    inner: Any = coroutine
    while inner is not None and not asyncio.isfuture(inner):
        code = getattr(inner, "cr_code", None) or getattr(inner, "ag_code", None) or getattr(inner, "gi_code", None)
        frame = getattr(inner, "cr_frame", None) or getattr(inner, "gi_frame", None)
        if code is not None and "mcpsession" in code.co_filename:
            names.append(f"{code.co_qualname}:{frame.f_lineno if frame else '?'}")
        inner = getattr(inner, "cr_await", None) or getattr(inner, "gi_yieldfrom", None)
    return names[::-1][:4]

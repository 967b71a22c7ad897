"""Holding one side of a race: a real backend's parts, each method of which can be stopped before or after its work."""

from __future__ import annotations

import inspect
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import anyio


class Gate:
    """Open at first. While closed, whoever comes waits, and `reached` says that somebody does."""

    def __init__(self) -> None:
        self.reached = anyio.Event()
        self._open = anyio.Event()
        self._open.set()

    def close(self) -> None:
        self.reached = anyio.Event()
        self._open = anyio.Event()

    def open(self) -> None:
        self._open.set()

    async def passing(self) -> None:
        if not self._open.is_set():
            self.reached.set()
            await self._open.wait()


class Gated:
    """One real part of a backend (a store, a log, a mailbox) with a gate on each side of each of its methods."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.before: defaultdict[str, Gate] = defaultdict(Gate)
        self.after: defaultdict[str, Gate] = defaultdict(Gate)
        self.calls: Counter[str] = Counter()
        self.seen: list[tuple[str, tuple[Any, ...]]] = []
        self.failing: dict[str, Callable[..., Exception | None]] = {}
        """By method: asked before the work is done; what it returns is raised instead."""
        self.failing_after: dict[str, Callable[..., Exception | None]] = {}
        """The same, but the work was done: its outcome is unknown to the caller."""
        self.all_shut = False
        """Nothing comes through any method."""
        self._opened = anyio.Event()

    def let_go(self) -> None:
        """Open all."""
        self.all_shut = False
        self._opened.set()

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._real, name)
        if not inspect.iscoroutinefunction(attribute):
            return attribute

        async def gated(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            self.seen.append((name, args))
            if self.all_shut:
                await self._opened.wait()
            await self.before[name].passing()
            if name in self.failing and (error := self.failing[name](*args)) is not None:
                raise error
            result = await attribute(*args, **kwargs)
            await self.after[name].passing()
            if name in self.failing_after and (error := self.failing_after[name](*args)) is not None:
                raise error
            return result

        return gated


async def until(condition: Callable[[], object]) -> None:
    """Let the other tasks run until something is so. Only for what announces itself in no other way."""
    while not condition():  # noqa: ASYNC110  # what is waited for has no event
        await anyio.sleep(0.002)


async def settle() -> None:
    """Let every task that can run do so, some rounds: what has not happened then waits for something else."""
    for _ in range(50):
        await anyio.lowlevel.checkpoint()
    # Sockets to the database are answered by another process, which may need a moment.
    await anyio.sleep(0.05)
    for _ in range(50):
        await anyio.lowlevel.checkpoint()

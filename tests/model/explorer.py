"""Visits every state that a model can reach, and says how the shortest way to a broken promise goes.

Breadth-first over hashable states, so the first fault found is one with the fewest steps. A model says which steps are
faults of the world (a cut, a kill, a lost reply): from every state an end must be reachable without any further one.
"""

from __future__ import annotations

import gc
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

S = TypeVar("S", bound=Hashable)

STUCK = "every call ends"
"""The promise that no state breaks by itself: no end can be reached from it any more, unless something else breaks."""


class Step(NamedTuple, Generic[S]):
    """One atomic step of one actor."""

    label: str
    after: S
    broken: str = ""
    """The promise that this very step breaks."""
    fault: bool = False
    """What the world does to us; never needed for an end."""


class Model(Protocol[S]):
    """What can happen, and what is promised."""

    def start(self) -> S: ...

    def steps(self, state: S) -> Iterator[Step[S]]:
        """Everything that may happen next, in any order."""

    def broken(self, state: S) -> str:
        """The promise that a state breaks; empty if it keeps them all."""

    def is_over(self, state: S) -> bool:
        """Whether this is an end."""


@dataclass(frozen=True)
class Outcome:
    """What an exploration found."""

    states: int
    steps: int
    broken: str = ""
    """The promise; empty if all are kept."""
    trace: tuple[str, ...] = ()
    """The shortest way there."""

    def __str__(self) -> str:
        seen = f"{self.states:,} states, {self.steps:,} steps"
        if not self.broken:
            return f"{seen}: every promise is kept"
        return "\n".join([f"{seen}: broken is: {self.broken}", *(f"  {n:3}  {s}" for n, s in enumerate(self.trace, 1))])


class TooManyStatesError(Exception):
    """The model is larger than was allowed, so nothing is proven."""


def explore(model: Model[S], *, most: int = 2_000_000) -> Outcome:
    """Visit every reachable state, or stop at the first that breaks a promise.

    Raises TooManyStatesError after `most` states.
    """
    # States are plain tuples without cycles; what the collector would look for, again and again, is not there.
    gc.disable()
    try:
        return _explore(model, most)
    finally:
        gc.enable()


def _explore(model: Model[S], most: int) -> Outcome:
    begin = model.start()
    numbers = {begin: 0}
    came: list[tuple[int, str]] = [(-1, "")]
    # Backwards, without the faults: who can come here by progress alone.
    before: list[list[int]] = [[]]
    queue, ends, count = [begin], [], 0
    for number, state in enumerate(queue):
        if model.is_over(state):
            ends.append(number)
        for step in model.steps(state):
            count += 1
            after = numbers.get(step.after)
            if after is None:
                if len(numbers) >= most:
                    raise TooManyStatesError(f"more than {most:,} states")
                after = numbers[step.after] = len(numbers)
                came.append((number, step.label))
                before.append([])
                queue.append(step.after)
                broken = step.broken or model.broken(step.after)
            else:
                broken = step.broken
            if broken:
                return Outcome(len(numbers), count, broken, (*_way(came, number), step.label))
            if not step.fault:
                before[after].append(number)
    if (stuck := _stuck(before, ends)) is not None:
        return Outcome(len(numbers), count, STUCK, _way(came, stuck))
    return Outcome(len(numbers), count)


def _way(came: list[tuple[int, str]], number: int) -> tuple[str, ...]:
    labels = []
    while number > 0:
        number, label = came[number]
        labels.append(label)
    return tuple(reversed(labels))


def _stuck(before: list[list[int]], ends: list[int]) -> int | None:
    """The first state from which progress reaches no end."""
    hopeful = bytearray(len(before))
    for end in ends:
        hopeful[end] = 1
    waiting = list(ends)
    while waiting:
        for number in before[waiting.pop()]:
            if not hopeful[number]:
                hopeful[number] = 1
                waiting.append(number)
    found = hopeful.find(0)
    return None if found < 0 else found

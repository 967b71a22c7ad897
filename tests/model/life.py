"""The model of life and death: a replica that beats, one that watches it, a store that stalls or is away, and time.

Time goes in half seconds, with the defaults: a beat every second, given up after 1.5 s; the right to write to sockets
ends 2.5 s after the last confirmed beat was sent; a counter that stood still for 3 s is a death. What can happen at
once happens before time goes on. `calls.py` builds on what is shown here: who may write is not recorded dead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.model.explorer import Step

BEAT, AGAIN, TIMEOUT, LAPSE, DEAD_AFTER = 2, 1, 3, 5, 6
# Older than anything that is compared.
OLD = DEAD_AFTER + TIMEOUT + 1
# Beats behind the counter, beyond which it makes no difference how many.
FAR = 3

FENCED = "a replica that may write to sockets is not recorded dead"
NO_MURDER = "no outage and no lapse of the observer's kills a replica that was never stopped"


@dataclass(frozen=True)
class LifeRules:
    """What the design does; each can be left out."""

    counter_watched: bool = True
    """An observer judges by a counter that it has watched, not by the age of the last beat's time in the store."""
    compared_and_set: bool = True
    """A death is recorded only while the counter is still what the observer saw."""
    own_lapse_forgets: bool = True
    """After a lapse or a failure of its own the observer begins to watch anew."""
    judged_when_asked: bool = True
    """A counter stood still only until the observer asked, not until it was answered."""
    failed_repeated_soon: bool = True
    """A beat that failed is sent anew sooner than the next one would be."""
    right_ends: bool = True
    """The right to write ends by itself, some time before others may record a death."""
    counts_from_sent: bool = True
    """That time counts from when the beat was sent, not from when it was confirmed."""


@dataclass(frozen=True)
class LifeBounds:
    """How much of the world there is."""

    stops: int = 1
    """Of the replica (SIGSTOP, and on again)."""
    observer_stops: int = 0
    stalls: int = 0
    """Of the store: for a while no statement runs."""
    outages: int = 0
    """Of the store: for a while every statement fails."""


class Heart(NamedTuple):
    """One replica's."""

    wait: int = BEAT
    """Until the next beat."""
    sent: int = -1
    """Since the statement under way was sent; -1: none is."""
    answer: str = ""
    """To it: `beaten`, `dead`, or for the observer's record `done`."""
    age: int = 0
    """Since the last confirmed beat was sent."""
    stopped: bool = False


class Watch(NamedTuple):
    """What the observer knows."""

    seen: int = -1
    """By how many beats the counter has gone on since it was noted; -1: nothing was noted."""
    since: int = 0
    """Since then."""
    told: int = -1
    """The same of the answer that is on its way."""
    told_age: int = 0
    """And of the last beat in it: how old it was. (Only where no counter is watched.)"""
    condemned: int = -1
    """The same of the count that is to be recorded dead."""


class Life(NamedTuple):
    """One state."""

    stops: int
    observer_stops: int
    stalls: int
    outages: int
    a: Heart = Heart(wait=0)
    b: Heart = Heart()
    watch: Watch = Watch()
    store: str = "up"
    """`up`, `stalled` or `away`."""
    row_age: int = 0
    """Since the replica's row was written."""
    ghost: bool = False
    """A beat that was given up, but may still run."""
    dead: bool = False
    was_stopped: bool = False


class LifeModel:
    """A beats and writes; B beats, watches A and may record its death."""

    def __init__(self, rules: LifeRules | None = None, bounds: LifeBounds | None = None) -> None:
        self.rules = rules or LifeRules()
        self.bounds = bounds or LifeBounds()

    def start(self) -> Life:
        b = self.bounds
        return Life(b.stops, b.observer_stops, b.stalls, b.outages)

    def is_over(self, state: Life) -> bool:
        # Life goes on; what is promised here is promised of every state.
        return True

    def broken(self, state: Life) -> str:
        may_write = not state.a.stopped and (state.a.age < LAPSE or not self.rules.right_ends)
        if state.dead and not state.was_stopped:
            return NO_MURDER
        return FENCED if state.dead and may_write else ""

    def steps(self, state: Life) -> Iterator[Step[Life]]:
        if state.dead and not state.a.stopped and state.a.age >= LAPSE and self.rules.right_ends:
            # Its next beat makes it another; what then happens is told in calls.py.
            return
        urgent = [*self._heart(state, "A", state.a), *self._heart(state, "B", state.b), *self._statements(state)]
        yield from urgent
        yield from self._world(state)
        if not urgent:
            yield self._tick(state)

    # Hearts

    def _heart(self, state: Life, name: str, heart: Heart) -> Iterator[Step[Life]]:
        if heart.stopped:
            return
        if heart.answer:
            yield self._hear(state, name, heart)
        elif heart.sent >= 0 and (heart.sent >= TIMEOUT or state.store == "away"):
            again = AGAIN if self.rules.failed_repeated_soon else BEAT
            # The statement of one that gives up may lie in the store, and run after all.
            after = _set(state, name, heart._replace(sent=-1, wait=again))
            after = after._replace(ghost=after.ghost or (name == "A" and state.store == "stalled"))
            yield Step(f"{name}'s statement fails", self._forgotten(after, name))
        elif heart.sent < 0 and heart.wait == 0:
            if name == "B" and heart.age > LAPSE:
                state = self._forgotten(state, name)
            yield Step(f"{name} sends its beat", _set(state, name, heart._replace(sent=0)))

    def _hear(self, state: Life, name: str, heart: Heart) -> Step[Life]:
        answer = heart.answer
        heard = heart._replace(sent=-1, answer="", wait=BEAT)
        if answer == "beaten":
            heard = heard._replace(age=heart.sent if self.rules.counts_from_sent else 0)
        after = _set(state, name, heard)
        if name == "A" or answer != "beaten":
            return Step(f"{name} hears what became of it", after)
        watch = state.watch
        judged = watch.since - heart.sent if self.rules.judged_when_asked else watch.since
        if not self.rules.counter_watched:
            judged = watch.told_age
        elif watch.seen != watch.told:
            noted = Watch(seen=watch.told)
            return Step("B sees that the counter has moved", after._replace(watch=noted))
        if judged >= DEAD_AFTER and not state.dead:
            condemned = watch._replace(told=-1, condemned=watch.told)
            return Step(
                "B sees that it stood still for too long, and sends the record",
                _set(after, "B", heard._replace(sent=0))._replace(watch=condemned),
            )
        return Step("B sees that the counter stands still", after._replace(watch=watch._replace(told=-1)))

    def _forgotten(self, state: Life, name: str) -> Life:
        if name == "A":
            return state
        return state._replace(watch=Watch() if self.rules.own_lapse_forgets else state.watch._replace(condemned=-1))

    # The store

    def _statements(self, state: Life) -> Iterator[Step[Life]]:
        if state.store != "up":
            return
        a, b, watch = state.a, state.b, state.watch
        if a.sent >= 0 and not a.answer:
            yield self._beaten(
                state, _set(state, "A", a._replace(answer="dead" if state.dead else "beaten")), "A's beat"
            )
        if state.ghost:
            yield self._beaten(state, state._replace(ghost=False), "the beat that A gave up")
            yield Step("the beat that A gave up is dropped", state._replace(ghost=False))
        if b.sent >= 0 and not b.answer and watch.condemned < 0:
            # The first look notes; it judges nothing.
            told = watch._replace(told=0, told_age=state.row_age)
            answered = _set(state, "B", b._replace(answer="beaten"))
            yield Step("B's beat runs, and reads A's counter", answered._replace(watch=told))
        elif b.sent >= 0 and not b.answer:
            records = watch.condemned == 0 or not self.rules.compared_and_set
            answered = _set(state, "B", b._replace(answer="done"))
            recorded = answered._replace(watch=watch._replace(condemned=-1), dead=state.dead or records)
            yield Step(f"the store {'records A dead' if records else 'finds that A has beaten'}", recorded)

    def _beaten(self, before: Life, after: Life, what: str) -> Step[Life]:
        if before.dead:
            return Step(f"{what} finds A dead", after)
        watch = before.watch
        moved = watch._replace(seen=_on(watch.seen), told=_on(watch.told), condemned=_on(watch.condemned))
        return Step(f"{what} runs", after._replace(watch=moved, row_age=0))

    # The world

    def _world(self, state: Life) -> Iterator[Step[Life]]:
        a, b = state.a, state.b
        if a.stopped:
            yield Step("A goes on", state._replace(a=a._replace(stopped=False)), fault=True)
        elif state.stops:
            stopped = state._replace(a=a._replace(stopped=True), stops=state.stops - 1, was_stopped=True)
            yield Step("A is stopped", stopped, fault=True)
        if b.stopped:
            yield Step("B goes on", state._replace(b=b._replace(stopped=False)), fault=True)
        elif state.observer_stops:
            stopped = state._replace(b=b._replace(stopped=True), observer_stops=state.observer_stops - 1)
            yield Step("B is stopped", stopped, fault=True)
        if state.store != "up":
            yield Step("the store is back", state._replace(store="up"), fault=True)
        elif state.stalls:
            yield Step("the store stalls", state._replace(store="stalled", stalls=state.stalls - 1), fault=True)
        elif state.outages:
            yield Step("the store goes away", state._replace(store="away", outages=state.outages - 1), fault=True)

    def _tick(self, state: Life) -> Step[Life]:
        watch = state.watch
        if watch.seen >= 0:
            watch = watch._replace(since=_older(watch.since))
        after = state._replace(a=_aged(state.a), b=_aged(state.b), watch=watch, row_age=self._row_age(state))
        return Step("half a second passes", after)

    def _row_age(self, state: Life) -> int:
        # Nobody asks for it, but without the rule; and it would make many states of one.
        return 0 if self.rules.counter_watched else _older(state.row_age)


def _set(state: Life, name: str, heart: Heart) -> Life:
    return state._replace(a=heart) if name == "A" else state._replace(b=heart)


def _aged(heart: Heart) -> Heart:
    sent = _older(heart.sent) if heart.sent >= 0 else -1
    wait = max(0, heart.wait - 1) if heart.sent < 0 else heart.wait
    return heart._replace(wait=wait, sent=sent, age=_older(heart.age))


def _older(age: int) -> int:
    return min(age + 1, OLD)


def _on(behind: int) -> int:
    return behind if behind < 0 else min(behind + 1, FAR)

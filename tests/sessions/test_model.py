"""Random operations on two replicas, some of them at once: after each, store and model agree.

Of operations that ran at once nobody knows the order, so every model that explains their answers is kept, until what
is seen on the replicas, or a later answer, excludes it. There must always be one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack

import anyio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mcpsession.records import Session
from tests.sessions.model import Done, Model, Op, Outcome
from tests.sessions.operations import NAMES, Choice, World, sequences, view
from tests.sessions.replicas import Place
from tests.sessions.verbs import steps_of

# The same examples in each run. No shrinking of what a race has found: it would find another.
CHOSEN = settings(
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
Played = Sequence[tuple[Choice, ...]]


def test_memory_does_what_the_model_does() -> None:
    @settings(CHOSEN, max_examples=300)
    @given(sequence=sequences, handled=st.booleans(), yielding=st.integers(0, 1000))
    def check(sequence: Played, handled: bool, yielding: int) -> None:
        anyio.run(play, Place(None, yielding=yielding), sequence, handled)

    check()


def test_postgres_does_what_the_model_does(database_url: str) -> None:
    @settings(CHOSEN, max_examples=80)
    @given(sequence=sequences, handled=st.booleans())
    def check(sequence: Played, handled: bool) -> None:
        # A namespace for each.
        anyio.run(play, Place(database_url), sequence, handled)

    check()


async def play(place: Place, sequence: Played, handled: bool) -> None:
    """Do it all, and compare after each operation, or pair of them."""
    told: list[int] = []

    async def hear(session: Session) -> None:
        told.append(session.incarnation)

    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(place.replica())
        there = await stack.enter_async_context(place.replica())
        if handled:
            here.on_expired(hear)
            there.on_expired(hear)
        world, models = World(place, (here, there), list(NAMES), {}), [Model()]
        for number, together in enumerate(sequence):
            ops = [await world.op(choice) for choice in together]
            outcomes = await do_at_once(world, ops)
            explained = explaining(models, ops, outcomes)
            assert explained, f"{number}: nothing explains {list(zip(ops, outcomes, strict=True))} after {models}"
            for op, outcome in zip(ops, outcomes, strict=True):
                world.remember(op, outcome)
            seen = await look(world, number % 2)
            assert len(told) == len(set(told)), f"{number}: {list(zip(ops, outcomes, strict=True))}: heard twice"
            models = [model for model in explained if agrees(model, world.ids, seen)]
            assert models, f"{number}: after {list(zip(ops, outcomes, strict=True))}: seen {seen}, not {explained}"
        if handled:
            await there.sessions.clear_all(confirm=True)
            await here.sessions.cleanup_expired()
            assert any(explains(model, told) for model in models), f"heard {Counter(told)}, ended {models}"


def explains(model: Model, told: Sequence[int]) -> bool:
    """Whether the handlers heard of each session that ended, once."""
    ended = Counter([*model.ended, *(row.incarnation for row in model.live.values())])
    # Of one that was rotated and then cleared away before anybody could look, nobody knows what it became.
    unknown = ended.pop(0, 0)
    return not ended - Counter(told) and len(told) - ended.total() == unknown


async def do_at_once(world: World, ops: Sequence[Op]) -> list[Outcome]:
    outcomes: list[Outcome] = [None] * len(ops)

    async def do(number: int) -> None:
        outcomes[number] = await world.do(ops[number])

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for number in range(len(ops)):
                tasks.start_soon(do, number)
    return outcomes


def explaining(models: Sequence[Model], ops: Sequence[Op], outcomes: Sequence[Outcome]) -> list[Model]:
    """What there may be after operations that answered so."""
    after: list[Model] = []
    for model in models:
        for order in orders([len(steps_of(op, outcome)) for op, outcome in zip(ops, outcomes, strict=True)]):
            made = run(model.copy(), ops, outcomes, order)
            if made is not None and made not in after:
                after.append(made)
    return after


def orders(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Each order in which so many steps of each operation can follow one another."""
    if not any(lengths):
        yield []
    for number, length in enumerate(lengths):
        if length:
            rest = [*lengths[:number], length - 1, *lengths[number + 1 :]]
            for order in orders(rest):
                yield [number, *order]


def run(model: Model, ops: Sequence[Op], outcomes: Sequence[Outcome], order: Sequence[int]) -> Model | None:
    """The model after the steps in this order; None if an operation would have answered otherwise."""
    left = [steps_of(op, outcome) for op, outcome in zip(ops, outcomes, strict=True)]
    for number in order:
        if left[number]:
            try:
                left[number].pop(0)(model)
            except Done as done:
                if done.outcome != outcomes[number]:
                    return None
                left[number] = []
    return None if any(left) else model


Seen = tuple[list[object], list[str | None], list[str], int]


async def look(world: World, replica: int) -> Seen:
    """All that is to be seen: the sessions on both replicas, and the rest on either."""
    sessions = world.replicas[replica].sessions
    found = [await layer.sessions.get_many(world.ids) for layer in world.replicas]
    dead = [await sessions.get(id_, include_dead=True) for id_ in world.ids]
    return (
        [view(sessions.get(id_)) for sessions in found for id_ in world.ids],
        [None if session is None else session.status for session in dead],
        [session.id for session in await sessions.list()],
        await sessions.count(),
    )


def agrees(model: Model, ids: Sequence[str], seen: Seen) -> bool:
    live = [model.live[id_].view if id_ in model.live else None for id_ in ids]
    statuses = ["live" if id_ in model.live else model.dead.get(id_) for id_ in ids]
    return seen == (live * 2, statuses, sorted(model.live), len(model.live))

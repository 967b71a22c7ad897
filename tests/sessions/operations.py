"""The verbs of the model, done in truth; and sequences of them, for Hypothesis to choose from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from hypothesis import strategies as st

from mcpsession import MCPSessionError, SessionLayer
from mcpsession.errors import SessionExistsError
from mcpsession.records import Session
from mcpsession.sessions import Sessions
from tests.sessions.model import Created, Op, Outcome
from tests.sessions.replicas import Place
from tests.sessions.verbs import VERBS

NAMES = ("a", "b")
OWNERS = (None, None, None, "alice")
TTLS = (None, 60.0, 3600.0)
# A session that is to be something must first be there, and live for a while.
OFTEN = ("create", "ensure", "register", "merge", "update", "compare_and_set", "claim", "complete", "mark_initialized")
# These ask for a claim and not for an owner, or are not by owner at all.
BY_EVERYBODY = ("complete", "release", "stats", "expire", "reap")


class Choice(NamedTuple):
    """An operation before it is known which sessions there are."""

    verb: str
    replica: int
    owner: str | None
    which: tuple[int, ...]
    n: int
    ttl: float | None


choices = st.builds(
    Choice,
    verb=st.sampled_from((*VERBS, *OFTEN, *OFTEN)),
    replica=st.integers(0, 1),
    owner=st.sampled_from(OWNERS),
    which=st.tuples(st.sampled_from((0, 0, 0, 1, 2, 3)), st.integers(0, 3)),
    n=st.integers(1, 3),
    ttl=st.sampled_from(TTLS),
)
# Those that get into each other's way are about the same session.
rivals = st.tuples(choices, choices).map(lambda pair: (pair[0], pair[1]._replace(which=pair[0].which)))
sequences = st.lists(st.one_of(st.tuples(choices), rivals, st.tuples(choices, choices)), min_size=15, max_size=25)
"""Of single operations, and of pairs that run at once."""


@dataclass
class World:
    """Two replicas on one store, and what a client would remember."""

    place: Place
    replicas: tuple[SessionLayer, SessionLayer]
    ids: list[str]
    claims: dict[str, str]

    async def op(self, choice: Choice) -> Op:
        ids = tuple(self.ids[number % len(self.ids)] for number in choice.which)
        owner = None if choice.verb in BY_EVERYBODY else choice.owner
        claim = self.claims.get(ids[0], "none")
        session = await self.replicas[0].sessions.get(ids[0]) if choice.verb == "compare_and_set" else None
        # One in three is about a version that is none any more.
        version = (session.version if session else 0) - (choice.n == 3)
        return Op(choice.verb, choice.replica, owner, ids, choice.n, choice.ttl, claim, version)

    async def do(self, op: Op) -> Outcome:
        """What the verb answers: a value that can be compared, or an error's name."""
        sessions = self.replicas[op.replica].sessions
        try:
            return await RUNS[op.verb](self, sessions if op.owner is None else sessions.of(op.owner), op)
        except SessionExistsError as error:
            return ("SessionExistsError", error.existing and error.existing.incarnation)
        except MCPSessionError as error:
            return type(error).__name__

    def remember(self, op: Op, outcome: Outcome) -> None:
        if op.verb == "rotate" and isinstance(outcome, tuple):
            self.ids.append(outcome[0])
            self.claims[outcome[0]] = self.claims.get(op.id, "none")
        if op.verb == "claim" and not outcome.endswith("Error"):
            self.claims[op.id] = outcome


def view(session: Session | None) -> tuple[Any, ...] | None:
    """What the model knows of a session."""
    if session is None:
        return None
    return (
        session.incarnation,
        session.owner,
        session.ttl,
        dict(session.state),
        dict(session.metadata),
        session.version,
        session.phase,
    )


def _created(session: Session) -> Created:
    return Created(session.incarnation, session.version)


def _fields(op: Op) -> dict[str, Any]:
    return {"ttl": op.ttl, "state": {"n": op.n}, "metadata": {"m": op.n}}


async def _create(world: World, sessions: Sessions, op: Op) -> Outcome:
    return _created(await sessions.create(op.id, **_fields(op)))


async def _register(world: World, sessions: Sessions, op: Op) -> Outcome:
    return _created(await sessions.register(op.id, **_fields(op)))


async def _ensure(world: World, sessions: Sessions, op: Op) -> Outcome:
    session, created = await sessions.ensure(op.id, **_fields(op))
    return _created(session), created


async def _create_many(world: World, sessions: Sessions, op: Op) -> Outcome:
    new = [sessions.new_session(id_, **_fields(op)) for id_ in op.ids]
    return [_created(session) for session in await sessions.create_many(new)]


async def _get(world: World, sessions: Sessions, op: Op) -> Outcome:
    return view(await sessions.get(op.id))


async def _retrieve(world: World, sessions: Sessions, op: Op) -> Outcome:
    return view(await sessions.retrieve(op.id))


async def _get_many(world: World, sessions: Sessions, op: Op) -> Outcome:
    return sorted(await sessions.get_many(op.ids))


async def _touch(world: World, sessions: Sessions, op: Op) -> Outcome:
    return await sessions.touch(op.id)


async def _touch_many(world: World, sessions: Sessions, op: Op) -> Outcome:
    return sorted(await sessions.touch_many(op.ids))


async def _set_ttl(world: World, sessions: Sessions, op: Op) -> Outcome:
    return await sessions.set_ttl(op.id, op.ttl)


async def _merge(world: World, sessions: Sessions, op: Op) -> Outcome:
    return await sessions.merge_state(op.id, {f"k{op.n % 2}": op.n})


async def _update(world: World, sessions: Sessions, op: Op) -> Outcome:
    return await sessions.update(op.id, lambda state: {**state, "n": state.get("n", 0) + 1})


async def _update_to_nothing_new(world: World, sessions: Sessions, op: Op) -> Outcome:
    return await sessions.update(op.id, lambda state: state)


async def _update_that_fails(world: World, sessions: Sessions, op: Op) -> Outcome:
    return await sessions.update(op.id, lambda state: state["missing"])


async def _compare_and_set(world: World, sessions: Sessions, op: Op) -> Outcome:
    return await sessions.compare_and_set(op.id, op.version, {"set": op.n})


async def _rotate(world: World, sessions: Sessions, op: Op) -> Outcome:
    rotated = await sessions.rotate(op.id)
    return rotated.id, rotated.incarnation


async def _delete(world: World, sessions: Sessions, op: Op) -> Outcome:
    return await sessions.delete(op.id)


async def _delete_many(world: World, sessions: Sessions, op: Op) -> Outcome:
    return sorted(await sessions.delete_many(op.ids))


async def _terminate(world: World, sessions: Sessions, op: Op) -> Outcome:
    return await sessions.terminate(op.id)


async def _clear_all(world: World, sessions: Sessions, op: Op) -> Outcome:
    return await sessions.clear_all(confirm=True)


async def _list(world: World, sessions: Sessions, op: Op) -> Outcome:
    return [session.id for session in await sessions.list()]


async def _count(world: World, sessions: Sessions, op: Op) -> Outcome:
    return await sessions.count()


async def _stats(world: World, sessions: Sessions, op: Op) -> Outcome:
    stats = await sessions.stats()
    return stats.live, stats.initialized, stats.terminated, stats.owners


async def _claim(world: World, sessions: Sessions, op: Op) -> Outcome:
    return await sessions.initialization.claim(op.id, lease=3600.0)


async def _complete(world: World, sessions: Sessions, op: Op) -> Outcome:
    await sessions.initialization.complete(op.id, op.claim, protocol_version="2025-11-25", client_info={})


async def _release(world: World, sessions: Sessions, op: Op) -> Outcome:
    return await sessions.initialization.release(op.id, op.claim)


async def _mark_initialized(world: World, sessions: Sessions, op: Op) -> Outcome:
    await sessions.initialization.mark_initialized(op.id)


async def _fail(world: World, sessions: Sessions, op: Op) -> Outcome:
    await sessions.initialization.fail(op.id, "it broke")


async def _expire(world: World, sessions: Sessions, op: Op) -> Outcome:
    await world.place.expire(op.id)


async def _reap(world: World, sessions: Sessions, op: Op) -> Outcome:
    await sessions.cleanup_expired()


RUNS: Mapping[str, Callable[[World, Sessions, Op], Awaitable[Outcome]]] = {
    "create": _create,
    "ensure": _ensure,
    "register": _register,
    "create_many": _create_many,
    "get": _get,
    "get_many": _get_many,
    "retrieve": _retrieve,
    "touch": _touch,
    "touch_many": _touch_many,
    "set_ttl": _set_ttl,
    "merge": _merge,
    "update": _update,
    "update to nothing new": _update_to_nothing_new,
    "update that fails": _update_that_fails,
    "compare_and_set": _compare_and_set,
    "rotate": _rotate,
    "delete": _delete,
    "delete_many": _delete_many,
    "terminate": _terminate,
    "clear_all": _clear_all,
    "list": _list,
    "count": _count,
    "stats": _stats,
    "claim": _claim,
    "complete": _complete,
    "release": _release,
    "mark_initialized": _mark_initialized,
    "fail": _fail,
    "expire": _expire,
    "reap": _reap,
}

"""An application may cancel what it asks of `layer.sessions` wherever that waits: nothing leaks, the next use works."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from tests.attacks.cancelling import Work
from tests.attacks.leaks import Leaks
from tests.sdk.replicas import Replica

Verb = Callable[[Any, str], Awaitable[Any]]


# layer.sessions: each with an id of a session that lives


async def _slowly(state: dict[str, Any]) -> None:
    await anyio.lowlevel.checkpoint()
    state["count"] = state.get("count", 0) + 1


VERBS: dict[str, Verb] = {
    "create": lambda sessions, _: sessions.create(),
    "create, of one that is there": lambda sessions, id: sessions.create(id, on_conflict="existing"),
    "create, in the place of another": lambda sessions, id: sessions.register(id),
    "create_many": lambda sessions, _: sessions.create_many([sessions.new_session() for _ in range(3)]),
    "get": lambda sessions, id: sessions.get(id),
    "retrieve": lambda sessions, id: sessions.retrieve(id),
    "list": lambda sessions, _: sessions.list(limit=3),
    "count": lambda sessions, _: sessions.count(),
    "touch": lambda sessions, id: sessions.touch(id),
    "set_ttl": lambda sessions, id: sessions.set_ttl(id, 60.0),
    "state": lambda sessions, id: sessions.state(id),
    "merge_state": lambda sessions, id: sessions.merge_state(id, {"key": 1}),
    "update": lambda sessions, id: sessions.update(id, _slowly),
    "subscribe": lambda sessions, id: sessions.subscribe(id, "test://one"),
    "rotate": lambda sessions, id: sessions.rotate(id),
    "delete": lambda sessions, id: sessions.delete(id),
    "terminate": lambda sessions, id: sessions.terminate(id),
    "cleanup_expired": lambda sessions, _: sessions.cleanup_expired(),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_sessions(here: Replica, there: Replica, leaks: Leaks, verb: str) -> None:
    sessions, seen = here.layer.sessions, there.layer.sessions
    ids: list[str] = []

    async def prepare() -> Work:
        ids.append((await sessions.create(state={"count": 1})).id)
        return lambda: VERBS[verb](sessions, ids[-1])

    places = 0
    async for _ in leaks.after(prepare):
        places += 1
        # Here and there the same, whether it was done or not; and if it lives, it can be used.
        session, other = await sessions.get(ids[-1]), await seen.get(ids[-1])
        assert (session is None) == (other is None)
        if session is not None:
            assert session.state == other.state
            after = await sessions.update(ids[-1], lambda state: {"count": state.get("count", 0) + 1})
            assert after["count"] in (1, 2, 3)
        elif verb != "rotate":
            await sessions.create(ids[-1] if verb == "delete" else None)
    assert places >= 4


async def test_a_rotated_session_lives_under_one_id(here: Replica, leaks: Leaks) -> None:
    sessions = here.layer.sessions
    owners: list[str] = []
    old: list[str] = []

    async def prepare() -> Work:
        owners.append(f"owner-{len(owners)}")
        old.append((await sessions.create(owner=owners[-1], state={"kept": True})).id)
        return lambda: sessions.rotate(old[-1])

    rotated = 0
    async for _ in leaks.after(prepare):
        [live] = await sessions.of(owners[-1]).list()
        assert {"kept": True} == live.state
        rotated += live.id != old[-1]
    assert rotated >= 3

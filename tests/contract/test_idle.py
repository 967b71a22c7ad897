"""Reaping, the idle: a walk over all that live, look by look, that ends."""

from __future__ import annotations

from mcpsession.contracts import Backend
from tests.contract.given import a_session, end, expire, until


async def all_idle(backend: Backend, idle_for: float, limit: int) -> tuple[list[str], int]:
    """Those that a walk over all sessions finds idle, and in how many looks."""
    idle: list[str] = []
    after, looks = "", 0
    while True:
        found, next_after = await backend.reaping.idle(idle_for, after, limit)
        idle.extend(found)
        looks += 1
        if next_after is None:
            return idle, looks
        assert after < next_after
        after = next_after


async def test_the_idle_are_found_by_a_walk_over_all(backend: Backend) -> None:
    await expire(backend, "expired")
    await a_session(backend, "deleted")
    for number in range(7):
        await a_session(backend, f"{number}", ttl=None if number % 2 else 60.0)
    await end(backend, "deleted")
    even = [f"{number}" for number in range(0, 7, 2)]

    async def odd_ones_are_idle() -> bool:
        await backend.sessions.touch(even)
        return ["1", "3", "5"] == (await all_idle(backend, 0.3, 100))[0]

    await until(odd_ones_are_idle)

    for limit in (1, 2, 3, 7):
        await backend.sessions.touch(even)
        assert ["1", "3", "5"] == (await all_idle(backend, 0.3, limit))[0]
    assert [] == (await all_idle(backend, 3600.0, 100))[0]


async def test_a_look_for_the_idle_goes_on_past_those_that_are_active(backend: Backend) -> None:
    for number in range(5):
        await a_session(backend, f"{number}")

    idle, looks = await all_idle(backend, 3600.0, 2)

    assert [] == idle
    assert looks >= 3


async def test_where_there_is_nothing_a_look_for_the_idle_ends_at_once(backend: Backend, neighbour: Backend) -> None:
    await a_session(neighbour)

    assert ([], None) == await backend.reaping.idle(0.0, "", 10)

"""The session cache on its own: what it keeps, and when it must not be believed."""

from __future__ import annotations

from types import SimpleNamespace

import anyio
import pytest

from mcpsession.cache import SessionCache
from mcpsession.memory.backend import MemoryBackend
from mcpsession.records import Admission, Session
from mcpsession.settings import Settings
from tests.sdk.gates import Gated


class World:
    """A cache over a real store in memory, with a clock and a proof that the test moves."""

    def __init__(self, monkeypatch, **settings):
        chosen = Settings(**{"touch_flush": 0.001, "touch_step": 0.001, **settings})
        self.now = 1000.0
        self.proof_age = 0.0
        backend = MemoryBackend(chosen)
        self.store, self.initialization = Gated(backend.sessions), backend.initialization
        self.cache = SessionCache(self.store, chosen, lambda: self.now - self.proof_age)
        monkeypatch.setattr("mcpsession.cache.time", SimpleNamespace(monotonic=lambda: self.now))

    async def open(self, session_id="s" * 43, *, ttl=None, initialized=True):
        session = Session(session_id, ttl=ttl, client_params="{}", initialized=initialized)
        await self.store.create([session], admission=Admission())
        return session_id

    @property
    def reads(self):
        return self.store.calls["get"]


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


async def test_a_second_load_costs_no_read(world):
    session_id = await world.open()
    first = await world.cache.load(session_id)
    assert first == await world.cache.load(session_id)
    assert first == world.cache.peek(session_id)
    assert 1 == world.reads


async def test_a_session_that_is_not_there_is_asked_for_each_time(world):
    assert await world.cache.load("nobody") is None
    assert await world.cache.load("nobody") is None
    assert 2 == world.reads


@pytest.mark.parametrize("invalidate", ["drop it", "drop another", "clear"])
async def test_a_row_read_before_an_invalidation_is_returned_but_not_kept(world, invalidate):
    session_id = await world.open()
    world.store.after["get"].close()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(world.cache.load, session_id)
            await world.store.after["get"].reached.wait()
            match invalidate:
                case "drop it":
                    world.cache.drop(session_id)
                case "drop another":
                    # One counter for all sessions: cheap, and only ever too careful.
                    world.cache.drop("another")
                case "clear":
                    world.cache.clear()
            world.store.after["get"].open()
    assert 0 == len(world.cache)
    assert world.cache.peek(session_id) is None


async def test_an_entry_is_not_used_once_its_proof_is_as_old_as_the_lease(world):
    session_id = await world.open()
    await world.cache.load(session_id)
    world.proof_age = 1.99
    assert world.cache.peek(session_id) is not None
    world.proof_age = 2.0
    assert world.cache.peek(session_id) is None
    await world.cache.load(session_id)
    assert 2 == world.reads


async def test_a_row_read_while_nothing_is_proven_is_not_kept(world):
    session_id = await world.open()
    world.proof_age = 2.0
    assert await world.cache.load(session_id) is not None
    world.proof_age = 0.0
    assert world.cache.peek(session_id) is None


@pytest.mark.parametrize("forget", ["drop", "clear"])
async def test_what_was_dropped_is_read_again(world, forget):
    session_id = await world.open()
    await world.cache.load(session_id)
    if forget == "drop":
        world.cache.drop(session_id)
    else:
        world.cache.clear()
    assert world.cache.peek(session_id) is None


async def test_an_entry_lives_no_longer_than_its_session(world):
    session_id = await world.open(ttl=30.0)
    remaining = (await world.cache.load(session_id)).remaining
    world.now += remaining - 0.01
    assert world.cache.peek(session_id) is not None
    world.now += 0.02
    assert world.cache.peek(session_id) is None


async def test_the_time_that_the_read_took_counts_against_the_remaining_life(world):
    session_id = await world.open(ttl=30.0)
    world.store.after["get"].close()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(world.cache.load, session_id)
            await world.store.after["get"].reached.wait()
            world.now += 50.0
            world.store.after["get"].open()
    session = await world.store.get(session_id)
    assert session.remaining - 50.0 == pytest.approx(world.cache.remaining(session), abs=1.0)


async def test_a_touch_moves_the_end_of_an_entry(world):
    session_id = await world.open(ttl=30.0)
    await world.cache.load(session_id)
    world.cache.extend(session_id, 5.0)
    world.now += 4.9
    assert world.cache.peek(session_id) is not None
    world.cache.extend(session_id, 5.0)
    world.now += 4.9
    assert world.cache.peek(session_id) is not None
    world.now += 0.2
    assert world.cache.peek(session_id) is None


async def test_an_entry_is_read_again_after_the_caches_own_ttl(world):
    session_id = await world.open()
    await world.cache.load(session_id)
    world.now += 59.9
    assert world.cache.peek(session_id) is not None
    world.now += 0.2
    assert world.cache.peek(session_id) is None


async def test_a_ttl_of_zero_reads_for_each_request(monkeypatch):
    world = World(monkeypatch, cache_ttl=0.0)
    session_id = await world.open()
    await world.cache.load(session_id)
    await world.cache.load(session_id)
    assert (2, 0) == (world.reads, len(world.cache))


async def test_a_session_that_is_not_initialized_yet_is_not_kept(world):
    session_id = await world.open(initialized=False)
    assert not (await world.cache.load(session_id)).initialized
    await world.initialization.mark_initialized(session_id)
    assert (await world.cache.load(session_id)).initialized

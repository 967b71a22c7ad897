"""The reaper's loop: when it passes, and what it says of itself. F54, F57, and the loop's part of F62."""

from __future__ import annotations

import time
from dataclasses import FrozenInstanceError
from itertools import pairwise

import anyio
import pytest

from mcpsession.errors import StoreUnavailableError
from mcpsession.model import Reaped
from mcpsession.settings import Settings
from tests.sdk.gates import until as when
from tests.sessions import reaping
from tests.sessions.reaping import LONG, OFTEN, Store, expired, is_gone, passes, until

store = reaping.store
postgres_store = reaping.postgres_store

# ---- F54: it passes again and again, whatever happens ---------------------------------------------------------------


async def test_f54_what_expired_is_reaped_in_the_background(store: Store) -> None:
    async with store.layer(reap_every=OFTEN) as layer:
        await layer.sessions.create("session", ttl=0.05)
        await until(lambda: is_gone(layer, "session"))


async def test_f54_by_default_it_passes_about_once_a_minute(store: Store) -> None:
    layer = store.layer(reap_every=Settings().reap_every)
    assert 60.0 == layer.reaper.interval


async def test_f54_passes_are_jittered_so_that_replicas_do_not_march_in_step(store: Store) -> None:
    interval = 0.05
    backend = store.backend()
    async with store.layer(backend, reap_every=interval) as layer:
        moments = []
        for _ in range(12):
            await passes(layer)
            moments.append(time.monotonic())
    pauses = [later - earlier for earlier, later in pairwise(moments)]
    # Twenty percent to either side; a loaded machine only makes them longer, and less alike.
    assert min(pauses) > 0.7 * interval
    assert max(pauses) - min(pauses) > 0.05 * interval


async def test_f54_a_pass_that_fails_does_not_end_the_loop(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    backend = store.backend()
    errors = [StoreUnavailableError("injected"), RuntimeError("injected as well")]
    backend.reaping.failing["reap"] = lambda *_: errors.pop(0) if errors else None

    async with store.layer(backend) as layer:
        await expired(layer, "session")
        await layer.reaper.set_interval(OFTEN)
        await until(lambda: is_gone(layer, "session"))

        assert 2 == layer.reaper.stats.failures
        assert layer.reaper.running
    assert [] == errors
    assert "injected" in caplog.text


async def test_f54_a_pass_that_the_database_refused_is_followed_by_one_that_works(postgres_store: Store) -> None:
    async with postgres_store.layer() as layer:
        await expired(layer, "session")
        await postgres_store.fetch("ALTER TABLE mcpsession.sessions RENAME TO mislaid")
        await layer.reaper.set_interval(OFTEN)
        with anyio.fail_after(5):
            await when(lambda: layer.reaper.stats.failures)

        await postgres_store.fetch("ALTER TABLE mcpsession.mislaid RENAME TO sessions")

        await until(lambda: is_gone(layer, "session"))


async def test_f54_a_pass_by_hand_says_what_failed(store: Store) -> None:
    backend = store.backend()
    backend.reaping.failing["reap"] = lambda *_: StoreUnavailableError("injected")
    async with store.layer(backend) as layer:
        with pytest.raises(StoreUnavailableError, match="injected"):
            await layer.reaper.run_once()
        assert 1 == layer.reaper.stats.failures
        del backend.reaping.failing["reap"]
        await layer.reaper.run_once()


# ---- F57: by hand ---------------------------------------------------------------------------------------------------


async def test_f57_cleaning_up_by_hand_works_without_the_loop_and_says_how_many(store: Store) -> None:
    async with store.layer() as layer:
        await layer.sessions.create("alive")
        await expired(layer, "a", "b", "c")
        assert not layer.reaper.running

        assert 3 == await layer.sessions.cleanup_expired()
        assert 0 == await layer.sessions.cleanup_expired()

        assert [None, None, None] == [await layer.sessions.get(dead, include_dead=True) for dead in "abc"]
        assert await layer.sessions.get("alive") is not None


async def test_f57_cleaning_up_counts_those_that_handlers_were_told_of(store: Store) -> None:
    async with store.layer() as layer:
        told: list[str] = []
        layer.on_expired(lambda session: told.append(session.id))
        await expired(layer, "a", "b")

        assert 2 == await layer.sessions.cleanup_expired()

        assert ["a", "b"] == sorted(told)


async def test_f57_cleaning_up_by_hand_works_while_the_loop_is_paused(store: Store) -> None:
    async with store.layer(reap_every=OFTEN) as layer:
        layer.reaper.pause()
        await expired(layer, "session")
        assert 1 == await layer.sessions.cleanup_expired()


async def test_f57_a_pass_takes_all_batches(store: Store) -> None:
    async with store.layer(reap_batch=10) as layer:
        await layer.sessions.create_many([layer.sessions.new_session(f"{n}", ttl=0.01) for n in range(35)])
        await reaping.all_dead(layer, *(f"{n}" for n in range(35)))
        assert 35 == (await layer.reaper.run_once()).sessions


# ---- F62: pause, resume, set_interval, stats ------------------------------------------------------------------------


async def test_f62_a_paused_reaper_does_nothing_until_it_is_resumed(store: Store) -> None:
    async with store.layer(reap_every=OFTEN) as layer:
        layer.reaper.pause()
        layer.reaper.pause()
        assert layer.reaper.paused
        assert layer.reaper.running
        await expired(layer, "session")
        paused = layer.reaper.stats.passes
        await anyio.sleep(LONG)
        assert not await is_gone(layer, "session")
        assert paused == layer.reaper.stats.passes
        assert layer.reaper.stats.paused

        layer.reaper.resume()

        assert not layer.reaper.paused
        await until(lambda: is_gone(layer, "session"))


async def test_f62_a_new_interval_counts_at_once_and_not_after_the_old_one(store: Store) -> None:
    async with store.layer(reap_every=3600.0) as layer:
        await expired(layer, "session")
        assert 3600.0 == layer.reaper.interval

        await layer.reaper.set_interval(OFTEN)

        assert OFTEN == layer.reaper.interval == layer.reaper.stats.interval
        await until(lambda: is_gone(layer, "session"))


async def test_f62_without_an_interval_there_is_no_loop_until_there_is_one_again(store: Store) -> None:
    async with store.layer(reap_every=OFTEN) as layer:
        await layer.reaper.set_interval(None)
        assert layer.reaper.interval is None
        assert not layer.reaper.running
        await layer.reaper.run_once()
        waited = layer.reaper.stats.passes
        await anyio.sleep(LONG)
        assert waited == layer.reaper.stats.passes

        await layer.reaper.set_interval(OFTEN)

        await passes(layer)


@pytest.mark.parametrize("interval", [-1.0, 0.0, float("nan"), float("inf")])
async def test_f62_an_interval_that_cannot_be_is_refused(store: Store, interval: float) -> None:
    layer = store.layer(reap_every=OFTEN)
    with pytest.raises(ValueError, match=f"seconds={interval}"):
        await layer.reaper.set_interval(interval)
    assert OFTEN == layer.reaper.interval


async def test_f62_the_stats_count_what_was_removed_and_say_when(store: Store) -> None:
    async with store.layer() as layer:
        nothing = layer.reaper.stats
        assert (0, 0, 0, 0, 0, 0) == (
            nothing.passes,
            nothing.failures,
            nothing.sessions,
            nothing.streams,
            nothing.mail,
            nothing.replicas,
        )
        assert nothing.last_pass_age is None
        await expired(layer, "a", "b")

        reaped = await layer.reaper.run_once()
        await layer.reaper.run_once()

        stats = layer.reaper.stats
        assert Reaped(sessions=2) == reaped
        assert (2, 0, 2) == (stats.passes, stats.failures, stats.sessions)
        assert stats.last_pass_age is not None
        assert 0 <= stats.last_pass_age < 5
        assert stats.last_pass_seconds is not None
        assert 0 <= stats.last_pass_seconds < 5
        with pytest.raises(FrozenInstanceError):
            stats.passes = 0  # type: ignore[misc]

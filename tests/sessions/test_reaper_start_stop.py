"""The reaper is started and stopped, and is in nobody's way. F58."""

from __future__ import annotations

import asyncio
import sys

import anyio
import pytest

from tests.sessions import reaping
from tests.sessions.reaping import LONG, OFTEN, Store, expired, is_gone, passes, tasks_beside, until

store = reaping.store


async def test_f58_it_runs_while_the_layer_does_and_leaves_no_task_behind(store: Store) -> None:
    before = asyncio.all_tasks()
    layer = store.layer(reap_every=OFTEN)
    assert not layer.reaper.running
    async with layer:
        assert layer.reaper.running
        await passes(layer)
    assert not layer.reaper.running
    assert set() == tasks_beside(before)


async def test_f58_starting_it_again_starts_nothing(store: Store) -> None:
    async with store.layer(reap_every=3600.0) as layer:
        await anyio.wait_all_tasks_blocked()
        before = asyncio.all_tasks()
        for _ in range(3):
            await layer.reaper.start()
        await anyio.wait_all_tasks_blocked()
        assert layer.reaper.running
        assert set() == tasks_beside(before)


async def test_f58_stopping_it_again_or_before_it_was_started_is_free(store: Store) -> None:
    async with store.layer(reap_every=OFTEN) as layer:
        for _ in range(3):
            await layer.reaper.stop()
            assert not layer.reaper.running
        stopped = layer.reaper.stats.passes
        await anyio.sleep(LONG)
        assert stopped == layer.reaper.stats.passes
    await layer.reaper.stop()
    await store.layer().reaper.stop()


async def test_f58_it_can_be_started_again_after_a_stop(store: Store) -> None:
    async with store.layer(reap_every=OFTEN) as layer:
        await layer.reaper.stop()
        await expired(layer, "session")
        await layer.reaper.start()
        await until(lambda: is_gone(layer, "session"))


async def test_f58_a_stop_waits_for_the_pass_that_is_under_way(store: Store) -> None:
    backend = store.backend()
    async with store.layer(backend) as layer:
        await expired(layer, "session")
        gate = backend.reaping.before["reap"]
        gate.close()
        await layer.reaper.set_interval(OFTEN)
        stopped = anyio.Event()

        async def stop() -> None:
            await layer.reaper.stop()
            stopped.set()

        async with anyio.create_task_group() as tasks:
            with anyio.fail_after(5):
                await gate.reached.wait()
                tasks.start_soon(stop)
                await anyio.wait_all_tasks_blocked()
                assert not stopped.is_set()
                gate.open()
                await stopped.wait()
        # It was not cut off, it ended.
        assert await is_gone(layer, "session")


@pytest.mark.parametrize("interval", [None, 0, 0.0])
async def test_f58_no_interval_means_no_loop(store: Store, interval: float | None) -> None:
    async with store.layer(reap_every=interval) as layer:
        assert not layer.reaper.running
        await expired(layer, "session")
        await anyio.sleep(LONG)
        assert not await is_gone(layer, "session")
        assert 0 == layer.reaper.stats.passes


async def test_f58_sessions_that_never_expire_are_never_reaped(store: Store) -> None:
    async with store.layer(reap_every=OFTEN, session_ttl=None) as layer:
        await layer.sessions.create("immortal")
        await passes(layer, 3)
        assert await layer.sessions.get("immortal") is not None


RETURNING = """
import anyio, asyncio, time
from mcpsession import SessionLayer

async def main():
    layer = SessionLayer.from_url("memory://", reap_every=0.01)
    await layer.__aenter__()
    while not layer.reaper.stats.passes:
        await asyncio.sleep(0.01)
    print(layer.reaper.running, flush=True)
    # And that is all: nobody leaves the layer, nobody stops the reaper.

asyncio.run(main())
"""


async def test_f58_a_process_whose_main_returns_ends_though_nobody_stopped_the_reaper() -> None:
    async with await anyio.open_process([sys.executable, "-c", RETURNING]) as process:
        assert process.stdout is not None
        with anyio.fail_after(20):
            assert b"True" in await process.stdout.receive()
        with anyio.fail_after(3):
            await process.wait()

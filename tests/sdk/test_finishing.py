"""What a client began is finished, whatever becomes of the client, its server's task, or the replica."""

from __future__ import annotations

import logging

import anyio
import pytest

from mcpsession.errors import LayerClosedError
from mcpsession.finishing import finish
from tests.sdk.gates import settle


async def test_what_it_makes_and_what_it_raises_reach_who_waits_and_leave_the_task_group_alone():
    async def make():
        return 7

    async def fail():
        raise ValueError("no")

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            assert 7 == await finish(tasks, make)
            with pytest.raises(ValueError, match="no"):
                await finish(tasks, fail)
            assert 7 == await finish(tasks, make)


@pytest.mark.parametrize("fails", [False, True])
async def test_it_goes_on_when_who_waits_is_cancelled_and_the_log_has_its_failure(caplog, fails):
    entered, release, done = anyio.Event(), anyio.Event(), []

    async def work():
        entered.set()
        await release.wait()
        if fails:
            raise ValueError("no")
        done.append(1)

    with anyio.fail_after(5), caplog.at_level(logging.WARNING, logger="mcpsession"):
        async with anyio.create_task_group() as tasks:
            async with anyio.create_task_group() as waiting:
                waiting.start_soon(finish, tasks, work)
                await entered.wait()
                waiting.cancel_scope.cancel()
            release.set()
    assert ([], True) == (done, "did not wait for" in caplog.text) if fails else ([1], "") == (done, caplog.text)


async def test_the_end_of_the_replica_lets_it_finish():
    entered, release, done = anyio.Event(), anyio.Event(), []

    async def work():
        entered.set()
        await release.wait()
        done.append(1)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as outside, anyio.create_task_group() as tasks:
            outside.start_soon(finish, tasks, work)
            await entered.wait()
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await settle()
                release.set()
    assert [1] == done


async def test_but_not_for_ever(monkeypatch):
    monkeypatch.setattr("mcpsession.finishing._GRACE", 0.05)
    entered, refused = anyio.Event(), anyio.Event()

    async def work():
        entered.set()
        await anyio.sleep_forever()

    async def wait(tasks):
        with pytest.raises(LayerClosedError):
            await finish(tasks, work)
        refused.set()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as outside:
            async with anyio.create_task_group() as tasks:
                outside.start_soon(wait, tasks)
                await entered.wait()
                tasks.cancel_scope.cancel()
            await refused.wait()

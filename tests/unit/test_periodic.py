"""The loops behind the background jobs: what ends a run does not end them, and what they say of it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import anyio
import pytest

from mcpsession.errors import StoreUnavailableError
from mcpsession.periodic import every, patiently

Loop = Callable[[Callable[[], Awaitable[object]]], Awaitable[object]]

LOOPS: dict[str, Loop] = {
    "every": lambda job: every(0.0, job, name="the job"),
    "patiently": lambda job: patiently(job, name="the job", first=0.0),
}


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> Loop:
    return LOOPS[request.param]


async def failing_once(loop: Loop, error: Exception) -> None:
    """Run the loop with a job that fails the first time, until it has run twice."""
    runs = 0

    async with anyio.create_task_group() as tasks:

        async def job() -> None:
            nonlocal runs
            runs += 1
            if runs == 1:
                raise error
            tasks.cancel_scope.cancel()

        with anyio.fail_after(5):
            await loop(job)


async def test_f98_that_the_store_is_away_is_said_in_a_line_without_a_traceback(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    """Drawn by rich, which the SDK takes where it is installed, a traceback holds the event loop up for a second."""
    await failing_once(loop, StoreUnavailableError("no connection"))

    (record,) = caplog.records
    assert (logging.WARNING, None) == (record.levelno, record.exc_info)
    assert "the job" in record.getMessage()
    assert "no connection" in record.getMessage()


async def test_whatever_else_a_job_raises_is_logged_with_its_traceback_and_it_runs_again(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    await failing_once(loop, ValueError("a bug"))

    (record,) = caplog.records
    assert logging.ERROR == record.levelno
    assert "the job" in record.getMessage()
    assert "a bug" in (caplog.text)

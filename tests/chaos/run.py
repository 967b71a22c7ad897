"""One run: a cluster on a pair of Postgres servers, a crowd of clients, faults for so long, then quiet and the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import anyio
import httpx2
from anyio.to_thread import run_sync

from examples.cluster import migrate, run_cluster
from tests.chaos.faults import Faults
from tests.chaos.judge import Verdict, judge_hearing
from tests.chaos.listeners import Listener, Publisher
from tests.chaos.raw_calls import RawCaller
from tests.chaos.records import Records
from tests.chaos.sdk_sessions import SDKCaller
from tests.chaos.stage import Stage
from tests.standby import PostgresPair

APP = "tests.chaos.server:app"
# Shorter than the default, so that some calls outlast it and a run sees many drains.
ENV = {"MCPSESSION_DRAIN_GRACE": "5"}

SDK_CALLERS = 40
RAW_CALLERS = 8
LISTENERS = 6

# Seconds that everything has to come to its end when the faults are over, and then that everyone has to leave.
QUIET = 30.0
LEAVE = 30.0
LOOK = 0.1


@dataclass
class Run:
    """What happened, for the judge and for the report."""

    seed: int
    seconds: float
    records: Records = field(default_factory=Records)
    sdk: list[SDKCaller] = field(default_factory=list)
    raw: list[RawCaller] = field(default_factory=list)
    listeners: list[Listener] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)
    began: float = 0.0
    quiet_after: float = 0.0
    """Seconds from the last fault until every call had ended."""
    left: bool = False
    """Whether everyone could leave in time."""


async def run(seed: int, seconds: float, say: Callable[[str], None]) -> Run:
    """Break things for `seconds`, in a way that `seed` decides."""
    this = Run(seed, seconds)
    async with AsyncExitStack() as stack:
        pair = PostgresPair()
        await run_sync(pair.__enter__)
        stack.callback(pair.__exit__, None, None, None)
        await migrate(pair.url)
        cluster = await stack.enter_async_context(run_cluster(APP, replicas=3, database_url=pair.url, env=ENV))
        limits = httpx2.Limits(max_connections=None)
        http = await stack.enter_async_context(
            httpx2.AsyncClient(base_url=cluster.url, timeout=60, limits=limits, trust_env=False)
        )
        stage = Stage(seed)
        this.records = stage.records
        this.sdk = [SDKCaller(str(number), http, stage) for number in range(SDK_CALLERS)]
        this.raw = [RawCaller(str(number), cluster, http, stage) for number in range(RAW_CALLERS)]
        this.listeners = [Listener(str(number), cluster, http, stage) for number in range(LISTENERS)]
        publisher = Publisher(http, stage)
        faults = Faults(
            cluster, pair, seed=seed, cuts=lambda: [caller.cut for caller in this.sdk], record=this.records.faults
        )
        this.began = time.monotonic()
        crowd = [publisher.run]
        for callers in (this.sdk, this.raw, this.listeners):
            crowd += [caller.run for caller in callers]
        say(f"three replicas, two Postgres servers and {len(crowd)} clients are up")
        with anyio.CancelScope() as together:
            async with anyio.create_task_group() as clients:
                for client in crowd:
                    clients.start_soon(client)
                await faults.run(seconds)
                say(f"{len(this.records.faults)} faults are over")
                await end(this, stage, publisher)
                together.deadline = anyio.current_time() + LEAVE
        this.left = not together.cancelled_caught
        this.logs = [replica.log for replica in cluster.replicas]
    return this


async def end(this: Run, stage: Stage, publisher: Publisher) -> None:
    """Have nobody begin anything new, and wait, so long, until all that was begun has ended and was heard."""
    over = time.monotonic()
    stage.stop.set()
    await until(lambda: publisher.done and all(call.ended is not None for call in this.records.calls))
    this.quiet_after = time.monotonic() - over
    await until(lambda: all_heard(this))
    stage.leave.set()


def all_heard(this: Run) -> bool:
    for caller in this.sdk:
        caller.look()
    verdict = Verdict()
    for hearing in this.records.hearings:
        judge_hearing(hearing, this.records.published, verdict)
    return not verdict.lost


async def until(condition: Callable[[], bool]) -> None:
    """Wait, but no longer than quiet should take."""
    with anyio.move_on_after(QUIET):
        while not condition():  # noqa: ASYNC110 (records announce nothing)
            await anyio.sleep(LOOK)

"""What is done to the cluster: three seeded sequences at once, on replicas, on Postgres and on clients' connections."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import asyncpg
from anyio.to_thread import run_sync

from examples.cluster import Cluster, ProcessFailedError, ReplicaProcess
from tests.chaos.records import Fault
from tests.standby import PostgresPair

# Weights. A blink is a stop too short for anyone to be declared dead.
REPLICA_FAULTS = {"kill": 4, "freeze": 2, "drain": 2, "blink": 1}
POSTGRES_FAULTS = {"deafen": 4, "cut backends": 2, "restart": 2}

# Seconds, each drawn from a range.
BETWEEN_REPLICA_FAULTS = (1.5, 5.0)
BETWEEN_POSTGRES_FAULTS = (3.0, 8.0)
BETWEEN_CUTS = (0.2, 1.0)
DOWN = (0.3, 5.0)
FROZEN = (4.0, 7.0)
BLINK = (0.3, 1.5)
POSTGRES_DOWN = (0.0, 3.0)
WITHOUT_STANDBY = (1.0, 4.0)
START_AGAIN = 0.5

# Of the run: the fail-over happens somewhere in between.
FAIL_OVER = (0.35, 0.6)
# How likely it is that a second replica is killed while one is down.
TWO_DOWN = 0.15

OURS = "datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE 'mcpsession%'"
TERMINATE = f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {OURS}"
DEAFEN = f"{TERMINATE} AND query ILIKE 'LISTEN %'"


class Faults:
    """Breaks things until its time is over, and then mends all of them."""

    def __init__(
        self,
        cluster: Cluster,
        pair: PostgresPair,
        *,
        seed: int,
        cuts: Callable[[], Sequence[Callable[[], None]]],
        record: list[Fault],
    ) -> None:
        self._cluster = cluster
        self._pair = pair
        self._seed = seed
        self._cuts = cuts
        """How to cut each client that is connected now."""
        self._record = record

    async def run(self, seconds: float) -> None:
        """Break things for so long; at return everything runs, and the pair is synchronous."""
        # Whatever has begun is brought to its end: the sequences end themselves, and are not cancelled.
        deadline = anyio.current_time() + seconds
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._replicas, deadline)
            tasks.start_soon(self._postgres, deadline, seconds)
            tasks.start_soon(self._clients, deadline)

    @asynccontextmanager
    async def _fault(self, kind: str, target: int | None = None) -> AsyncIterator[None]:
        fault = Fault(kind, target, time.monotonic())
        self._record.append(fault)
        yield
        fault.ended = time.monotonic()

    # Replicas

    async def _replicas(self, deadline: float) -> None:
        chance = random.Random(f"{self._seed} replicas")
        while await pause(chance, BETWEEN_REPLICA_FAULTS, deadline):
            kind = drawn(chance, REPLICA_FAULTS)
            target, second = chance.sample(list(self._cluster.replicas), 2)
            lasts, two = drawn_seconds(chance, kind), chance.random() < TWO_DOWN
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._break, target, kind, lasts)
                if two and kind in ("kill", "freeze"):
                    await anyio.sleep(lasts / 2)
                    tasks.start_soon(self._break, second, "kill", lasts)

    async def _break(self, replica: ReplicaProcess, kind: str, lasts: float) -> None:
        async with self._fault(kind, replica.index):
            match kind:
                case "kill":
                    await replica.kill()
                    await anyio.sleep(lasts)
                    await bring_up(replica)
                case "freeze" | "blink":
                    replica.pause()
                    await anyio.sleep(lasts)
                    replica.resume()
                case "drain":
                    await replica.terminate()
                    await bring_up(replica)

    # Postgres

    async def _postgres(self, deadline: float, seconds: float) -> None:
        chance = random.Random(f"{self._seed} postgres")
        fail_over_at = deadline - seconds * (1 - chance.uniform(*FAIL_OVER))
        while await pause(chance, BETWEEN_POSTGRES_FAULTS, deadline):
            kind, down, alone = drawn(chance, POSTGRES_FAULTS), chance.uniform(*POSTGRES_DOWN), chance.random()
            if anyio.current_time() >= fail_over_at:
                fail_over_at = deadline + seconds
                async with self._fault("fail-over"):
                    await run_sync(self._pair.fail_over)
                await anyio.sleep(chance.uniform(*WITHOUT_STANDBY))
                await run_sync(self._pair.rebuild)
                continue
            async with self._fault(kind):
                match kind:
                    case "deafen":
                        await self._execute(DEAFEN)
                    case "cut backends":
                        await self._execute(TERMINATE)
                    case "restart":
                        await run_sync(self._pair.primary.stop)
                        await anyio.sleep(down if alone < 0.5 else 0)
                        await run_sync(self._pair.primary.start)

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self._pair.primary.url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    # Clients

    async def _clients(self, deadline: float) -> None:
        chance = random.Random(f"{self._seed} clients")
        while await pause(chance, BETWEEN_CUTS, deadline):
            if cuts := self._cuts():
                self._record.append(Fault("cut", None, time.monotonic(), time.monotonic()))
                chance.choice(cuts)()


async def bring_up(replica: ReplicaProcess) -> None:
    """Start it as an orchestrator does: a replica that meets an outage at its start ends, and is started again."""
    while True:
        replica.start()
        try:
            await replica.ready()
        except ProcessFailedError:
            if replica.alive:
                raise
            await anyio.sleep(START_AGAIN)
        else:
            return


async def pause(chance: random.Random, between: tuple[float, float], deadline: float) -> bool:
    """Wait a while; whether there is time for one more."""
    await anyio.sleep(chance.uniform(*between))
    return anyio.current_time() < deadline


def drawn(chance: random.Random, weights: dict[str, int]) -> str:
    return chance.choices(list(weights), list(weights.values()))[0]


def drawn_seconds(chance: random.Random, kind: str) -> float:
    return chance.uniform(*{"kill": DOWN, "freeze": FROZEN, "blink": BLINK, "drain": DOWN}[kind])

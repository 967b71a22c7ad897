"""The replicas of the growth benchmark, what they are told, and the jobs that the load's process does with them."""

import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace

import anyio
import httpx2

from benchmarks.database import Database
from benchmarks.growth_client import Job, Turn
from benchmarks.growth_report import Row
from benchmarks.sides import LoadFailedError, RunningSide, Side, running

# Seconds for what a replica is told: it may create a hundred thousand sessions.
PATIENCE = 120.0

Say = Callable[[str], None]
Measured = Mapping[str, float]


@dataclass(frozen=True)
class GrowthLoad:
    """How much is measured."""

    rounds: int
    seconds: float
    """Of each turn."""
    warmup: float
    axes: Sequence[str]
    sessions: Sequence[int]
    """In the store."""
    sizes: Sequence[int]
    """Characters of a message."""
    backlogs: Sequence[int]
    """Events."""
    at_once: Sequence[int]
    """Sessions in a closed loop."""
    times: int
    """That an operation on the store is done in each round."""


class Group:
    """Replicas of one namespace, the CPU time of which counts together."""

    def __init__(self, replicas: Sequence[RunningSide], postgres: int | None, http: httpx2.AsyncClient) -> None:
        self.replicas = replicas
        self.urls = [replica.process.url for replica in replicas]
        self._postgres = postgres
        self._http = http

    async def tell(self, what: str, *, replica: int = 0, **arguments: float | str) -> Mapping[str, float]:
        """Have a replica do something, and return what it says.

        Raises:
            LoadFailedError: it could not.
        """
        response = await self._http.post(f"{self.urls[replica]}/{what}", json=arguments)
        if response.is_error:
            raise self._failed(f"{what}: {response.text}")
        said: Mapping[str, float] = response.json()
        return said

    async def run(self, job: Job) -> Turn:
        """Do a job in a new process.

        Raises:
            LoadFailedError: an answer was missing or wrong, or it hung.
        """
        watched = {} if self._postgres is None else {"Postgres": self._postgres}
        job = replace(job, urls=job.urls or self.urls, watched=watched)
        command = [sys.executable, "-m", "benchmarks.growth_client", f"--parent={os.getpid()}"]
        done = await anyio.run_process(command, input=json.dumps(asdict(job)).encode(), check=False)
        if done.returncode != 0:
            raise self._failed(done.stderr.decode())
        return Turn(**json.loads(done.stdout))

    def _failed(self, said: str) -> LoadFailedError:
        log = "\n".join(replica.process.log[-900:] for replica in self.replicas)
        return LoadFailedError(self.replicas[0].side.title, said, log)


@dataclass(frozen=True)
class GroupOf:
    """A group that is to be started."""

    name: str
    database: Database
    replicas: int = 1
    settings: Mapping[str, str] = field(default_factory=dict)

    def sides(self) -> list[Side]:
        given = {f"MCPSESSION_{name.upper()}": value for name, value in self.settings.items()}
        env = {"MCPSESSION_URL": self.database.url, "MCPSESSION_NAMESPACE": self.name, **given}
        return [
            Side(
                f"{self.name}-{number}",
                f"replica {number} of {self.name}",
                arguments=["benchmarks.growth_server:app"],
                env={**env, "MCPSESSION_LABEL": f"{self.name} {number}"},
            )
            for number in range(self.replicas)
        ]


@asynccontextmanager
async def groups_running(groups: Sequence[GroupOf], postgres: int | None) -> AsyncIterator[list[Group]]:
    """Start all replicas, and end them at the end of the block; `postgres` is the server's process."""
    async with (
        running([side for group in groups for side in group.sides()]) as sides,
        httpx2.AsyncClient(timeout=PATIENCE, trust_env=False) as http,
    ):
        waiting = iter(sides)
        yield [Group([next(waiting) for _ in range(group.replicas)], postgres, http) for group in groups]


@dataclass(frozen=True)
class Grown:
    """One size of what grows, and how it is measured once."""

    label: str
    size: int
    measure: Callable[[], Awaitable[Measured]]


async def take_turns(sizes: Sequence[Grown], rounds: int, say: Say) -> list[Row]:
    """Measure each size so often, one after the other within each round."""
    measured: list[list[Measured]] = [[] for _ in sizes]
    for number in range(rounds):
        # The order turns round: a machine that gets slower is fair to all.
        for place in range(len(sizes)) if number % 2 == 0 else reversed(range(len(sizes))):
            say(f"{sizes[place].label}, round {number + 1} of {rounds}")
            measured[place].append(await sizes[place].measure())
    return [Row(one.label, one.size, rows) for one, rows in zip(sizes, measured, strict=True)]


def of_calls(turn: Turn) -> dict[str, float]:
    """What a turn of calls says of one call."""
    return {
        "rate": turn.rate,
        "p50": turn.p50,
        "p99": turn.p99,
        "slowest": turn.slowest,
        "statements": turn.statements / turn.done,
        "load": turn.load_cpu / turn.done,
        **costs(turn, turn.done),
    }


def costs(turn: Turn, units: float) -> dict[str, float]:
    """CPU seconds for each of so many units: of the replicas together, of Postgres, and of both."""
    cpu = {name: seconds / units for name, seconds in turn.cpu.items()}
    return {**cpu, "cpu": sum(cpu.values())}

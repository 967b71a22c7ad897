"""The servers that are compared, each a process of its own, all up for the whole run."""

import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from benchmarks.database import Database
from benchmarks.load import Sample
from examples.cluster import ServerProcess, reserved_ports


@dataclass(frozen=True)
class Side:
    """One server and how it is started."""

    key: str
    title: str
    module: str = "examples.replica"
    arguments: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    watched: Mapping[str, int] = field(default_factory=dict)
    """Other processes that work for it, by name."""


@dataclass(frozen=True)
class Load:
    """What every side gets."""

    sessions: int
    seconds: float
    warmup: float
    tool: str = "echo"


class LoadFailedError(Exception):
    """A run of the load ended with an error: numbers that lose an answer do not count."""

    def __init__(self, title: str, said: str, log: str) -> None:
        super().__init__(f"the load on {title} failed:\n{said.strip()}\nThe server's log ends:\n{log[-3000:]}")


class RunningSide:
    """A side whose process is up."""

    def __init__(self, side: Side, process: ServerProcess) -> None:
        self.side = side
        self.process = process

    async def run(self, load: Load) -> Sample:
        """Put one load on it, from a new process, and return what that measured.

        Raises:
            LoadFailedError: a call failed or had the wrong answer, or the run hung.
        """
        watched = {"server": self.process.pid, **self.side.watched}
        command = [
            *(sys.executable, "-m", "benchmarks.load", f"--url={self.process.url}/mcp", f"--parent={os.getpid()}"),
            f"--tool={load.tool}",
            *(f"--sessions={load.sessions}", f"--seconds={load.seconds}", f"--warmup={load.warmup}"),
            *(f"--watch={name}={pid}" for name, pid in watched.items()),
        ]
        done = await anyio.run_process(command, check=False)
        if done.returncode != 0:
            raise LoadFailedError(self.side.title, done.stderr.decode(), self.process.log)
        return Sample(**json.loads(done.stdout))


def stock(key: str = "stock", title: str = "stock SDK, in memory") -> Side:
    return Side(key, title, arguments=["benchmarks.server:stock_app"])


def ours(database: Database) -> Side:
    watched = {} if database.pid is None else {"Postgres": database.pid}
    env = {"MCPSESSION_URL": database.url, "MCPSESSION_NAMESPACE": "bench"}
    return Side("ours", "mcpsession, Postgres", arguments=["benchmarks.server:app"], env=env, watched=watched)


def ceiling() -> Side:
    return Side("ceiling", "load generator's ceiling", module="benchmarks.canned")


@asynccontextmanager
async def running(sides: Sequence[Side]) -> AsyncIterator[list[RunningSide]]:
    """Start every side, and end them all at the end of the block.

    Raises:
        ProcessFailedError: one did not get ready.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="mcpsession-bench-")))
        ports = stack.enter_context(reserved_ports(len(sides)))
        started = []
        for side, port in zip(sides, ports, strict=True):
            process = ServerProcess(
                side.title,
                module=side.module,
                arguments=side.arguments,
                port=port,
                log_file=folder / f"{side.key}.log",
                env=side.env,
            )
            stack.callback(process.end)
            process.start()
            started.append(RunningSide(side, process))
        for one in started:
            await one.process.ready()
        yield started

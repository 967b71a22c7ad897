"""The servers that are compared, each a process of its own, all up for as long as they take turns."""

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
    python: str = sys.executable
    path: str = "/mcp"


@dataclass(frozen=True)
class Runtime:
    """What serves HTTP, the same for every side that is compared."""

    http: str = "h11"
    loop: str = "asyncio"
    python: str = sys.executable

    def arguments(self, app: str) -> list[str]:
        return [app, f"--http={self.http}", f"--loop={self.loop}"]


@dataclass(frozen=True)
class Load:
    """What every side gets: a closed loop, or with a rate an open one."""

    sessions: int
    seconds: float
    warmup: float
    tool: str = "echo"
    rate: float | None = None
    seed: int = 1


class LoadFailedError(Exception):
    """A run of the load ended with an error: numbers that lose an answer do not count."""

    def __init__(self, title: str, said: str, log: str) -> None:
        super().__init__(f"the load on {title} failed:\n{said.strip()}\nThe server's log ends:\n{log[-3000:]}")


class SideProcess(ServerProcess):
    """A server in the interpreter of its side."""

    def __init__(self, side: Side, port: int, folder: Path) -> None:
        super().__init__(
            side.title,
            module=side.module,
            arguments=side.arguments,
            port=port,
            log_file=folder / f"{side.key}.log",
            env=side.env,
        )
        self._command[0] = side.python


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
            *(sys.executable, "-m", "benchmarks.load", f"--url={self.process.url}{self.side.path}"),
            *(f"--parent={os.getpid()}", f"--tool={load.tool}"),
            *(f"--sessions={load.sessions}", f"--seconds={load.seconds}", f"--warmup={load.warmup}"),
            *([] if load.rate is None else [f"--rate={load.rate}", f"--seed={load.seed}"]),
            *(f"--watch={name}={pid}" for name, pid in watched.items()),
        ]
        done = await anyio.run_process(command, check=False)
        if done.returncode != 0:
            raise LoadFailedError(self.side.title, done.stderr.decode(), self.process.log)
        return Sample(**json.loads(done.stdout))


def stock(runtime: Runtime = Runtime(), *, key: str = "stock", title: str = "stock SDK, in memory") -> Side:
    return _side(runtime, key, title, "benchmarks.server:stock_app")


def ours(database: Database, runtime: Runtime = Runtime(), *, durability: str = "group") -> Side:
    """Ours; each durability in a namespace of its own, so that the replicas do not count as one cluster."""
    key = "ours" if durability == "group" else durability
    title = "mcpsession, Postgres" if durability == "group" else f"mcpsession, {durability}"
    env = {
        "MCPSESSION_URL": database.url,
        "MCPSESSION_NAMESPACE": f"bench-{key}-{runtime.http}",
        "MCPSESSION_DURABILITY": durability,
    }
    return _side(runtime, key, title, "benchmarks.server:app", env=env, watched=_postgres(database))


def mcp_persist(database: Database, runtime: Runtime, *, batched: bool = False) -> Side:
    key, title = ("mcp-persist-batched", "mcp-persist, batched") if batched else ("mcp-persist", "mcp-persist")
    factory = "batched_app" if batched else "app"
    env = {"BENCH_POSTGRES": database.url}
    # Its endpoint is a mount: without the slash each call would be redirected first.
    return _side(
        runtime,
        key,
        title,
        f"benchmarks.peer_mcp_persist:{factory}",
        env=env,
        watched=_postgres(database),
        path="/mcp/",
    )


def fastmcp(database: Database, runtime: Runtime) -> Side:
    env = {"BENCH_POSTGRES": database.url, "FASTMCP_LOG_LEVEL": "WARNING", "FASTMCP_CHECK_FOR_UPDATES": "off"}
    return _side(runtime, "fastmcp", "FastMCP", "benchmarks.peer_fastmcp:app", env=env, watched=_postgres(database))


def ceiling() -> Side:
    return Side("ceiling", "the load's ceiling", module="benchmarks.canned")


def _side(
    runtime: Runtime,
    key: str,
    title: str,
    app: str,
    *,
    env: Mapping[str, str] | None = None,
    watched: Mapping[str, int] | None = None,
    path: str = "/mcp",
) -> Side:
    return Side(
        key,
        title,
        module="benchmarks.serve",
        arguments=runtime.arguments(app),
        env=env or {},
        watched=watched or {},
        python=runtime.python,
        path=path,
    )


def _postgres(database: Database) -> dict[str, int]:
    return {} if database.pid is None else {"Postgres": database.pid}


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
            process = SideProcess(side, port, folder)
            stack.callback(process.end)
            process.start()
            started.append(RunningSide(side, process))
        for one in started:
            await one.process.ready()
        yield started

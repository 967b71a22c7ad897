"""Several replicas as several processes, one Postgres and a round-robin front, for as long as a `with` block lasts."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from mcpsession.postgres.embedded import embedded_postgres

ROOT = Path(__file__).resolve().parent.parent

# Seconds. A process has this long to accept connections, and this long to end after SIGTERM: more than a drain's grace.
READY_WITHIN = 60.0
ENDED_WITHIN = 40.0

# Seconds between two looks at something that no event announces.
LOOK = 0.01

LOG_TAIL_LINES = 30


class ProcessFailedError(RuntimeError):
    """A process of the cluster ended, or did not get ready; the message carries the end of its log."""

    def __init__(self, name: str, what: str, log: str) -> None:
        tail = "\n".join(log.splitlines()[-LOG_TAIL_LINES:])
        super().__init__(f"{name} {what}; the end of its log:\n{tail}")


class ServerProcess:
    """One server process, on a port of 127.0.0.1 that stays its own, with a log file."""

    def __init__(
        self, name: str, *, module: str, arguments: Sequence[str], port: int, log_file: Path, env: Mapping[str, str]
    ) -> None:
        self.name = name
        self.port = port
        self._command = [sys.executable, "-m", module, *arguments, f"--port={port}", f"--parent={os.getpid()}"]
        self._log_file = log_file
        self._env = {**os.environ, **env}
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.url} {'alive' if self.alive else 'ended'}>"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The id of the process, also after its end."""
        return self._started().pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """All that the process wrote so far, over all its restarts."""
        return self._log_file.read_text(errors="replace")

    def start(self) -> None:
        """Start the process, which is not ready yet; call this from the main thread, whose end is the process's end."""
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=self._env,
                # Out of the terminal's reach: Ctrl-C is for the parent, which then ends its processes in order.
                start_new_session=True,
            )

    async def ready(self) -> None:
        """Wait until the process accepts connections.

        Raises:
            ProcessFailedError: it ended instead, or took longer than a minute.
        """
        with anyio.move_on_after(READY_WITHIN):
            while True:
                if not self.alive:
                    code = self._started().returncode
                    raise ProcessFailedError(self.name, f"ended with exit code {code} before it was ready", self.log)
                try:
                    stream = await anyio.connect_tcp("127.0.0.1", self.port)
                except OSError:
                    await anyio.sleep(LOOK)
                else:
                    await stream.aclose()
                    return
        raise ProcessFailedError(self.name, f"was not ready within {READY_WITHIN:.0f} s", self.log)

    async def restart(self) -> None:
        """End the process if it is alive, and start it again on the same port."""
        if self.alive:
            await self.terminate()
        self.start()
        await self.ready()

    async def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        self.end()

    async def terminate(self) -> int:
        """Send SIGTERM, wait for the end and return the exit code (minus the signal's number if a signal ended it)."""
        process = self._started()
        process.terminate()
        with anyio.move_on_after(ENDED_WITHIN):
            while (code := process.poll()) is None:  # noqa: ASYNC110 (no event tells of a child's end everywhere)
                await anyio.sleep(LOOK)
            return code
        raise ProcessFailedError(self.name, f"did not end within {ENDED_WITHIN:.0f} s of SIGTERM", self.log)

    def pause(self) -> None:
        """Freeze the process where it stands; its sockets stay open."""
        self._started().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen process go on."""
        self._started().send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Kill the process and wait, without a pause in which a cancellation could come between."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._process


class ReplicaProcess(ServerProcess):
    """One replica of the cluster; `index` is what `x-replica` names."""

    def __init__(self, index: int, *, app: str, port: int, log_file: Path, env: Mapping[str, str]) -> None:
        label = {"MCPSESSION_REPLICA_LABEL": str(index), "MCPSESSION_LABEL": str(index)}
        super().__init__(
            f"replica {index}",
            module="examples.replica",
            arguments=[app],
            port=port,
            log_file=log_file,
            env={**env, **label},
        )
        self.index = index


@dataclass(frozen=True)
class Cluster:
    """What `run_cluster` yields."""

    front: ServerProcess
    replicas: Sequence[ReplicaProcess]
    database_url: str

    @property
    def url(self) -> str:
        """The front's base URL, without a slash at its end."""
        return self.front.url

    def log(self, index: int) -> str:
        """All that a replica wrote to stdout and stderr."""
        return self.replicas[index].log


@asynccontextmanager
async def run_cluster(
    app: str, *, replicas: int = 3, database_url: str | None = None, env: Mapping[str, str] | None = None
) -> AsyncIterator[Cluster]:
    """Run `replicas` processes of `app` (`MODULE:FACTORY`) behind a front, ready when the block is entered.

    Without `database_url` they share a private Postgres, started and migrated here; a database that is named must be
    migrated already. At the end of the block every process is killed: nobody is left who would miss a goodbye, and
    `terminate()` is there for those who want to watch one.

    Raises:
        ProcessFailedError: a process did not get ready, or the migration failed.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="mcpsession-cluster-")))
        if database_url is None:
            url = await stack.enter_async_context(embedded_postgres())
            await migrate(url)
        else:
            url = database_url
        ports = stack.enter_context(reserved_ports(replicas + 1))
        members = [
            ReplicaProcess(
                index,
                app=app,
                port=ports[index],
                log_file=folder / f"replica-{index}.log",
                env={**(env or {}), "MCPSESSION_URL": url},
            )
            for index in range(replicas)
        ]
        front = ServerProcess(
            "the front",
            module="examples.front",
            arguments=[f"127.0.0.1:{member.port}" for member in members],
            port=ports[-1],
            log_file=folder / "front.log",
            env={},
        )
        for process in (front, *members):
            stack.callback(process.end)
            process.start()
        for process in (front, *members):
            await process.ready()
        yield Cluster(front, members, url)


async def migrate(url: str) -> None:
    """Bring a database's schema up to date with the command that an operator would use."""
    command = [sys.executable, "-m", "mcpsession", "migrate", "--url", url]
    done = await anyio.run_process(command, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        raise ProcessFailedError("mcpsession migrate", f"failed with exit code {done.returncode}", done.stdout.decode())


@contextmanager
def reserved_ports(count: int) -> Iterator[list[int]]:
    """Free ports of 127.0.0.1 that, on Linux, nobody else is given until the end of the block.

    A bound socket that does not listen refuses connections like a dead server, keeps the kernel from handing its port
    out again, and does not hinder a server that binds the same port (SO_REUSEADDR on both sides, as asyncio sets it).
    """
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for held in sockets:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind(("127.0.0.1", 0))
        ports: list[int] = [held.getsockname()[1] for held in sockets]
        if sys.platform != "linux":
            stack.close()
        yield ports

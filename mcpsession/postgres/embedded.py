"""A private real Postgres, without Docker and without a server on the machine: for demos, tests and one developer.

Costs: about a second for a new directory, a tenth of one for an old one; some 60 MB of disk. Any user of this machine
can connect (127.0.0.1, no password), so it is not for production.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Self

import anyio
from anyio import to_thread

from mcpsession.postgres.embedded_home import Home, open_home, temporary_home
from mcpsession.postgres.embedded_launch import (
    MAJOR,
    Account,
    EmbeddedPostgresError,
    account_for,
    launch,
    reachable_binaries,
    reaches,
    wheel,
)
from mcpsession.postgres.embedded_probe import answers, children, free_port, says_ready

NO_SETTINGS: Final[Mapping[str, str]] = MappingProxyType({})
START_DEADLINE: Final = 60.0
STOP_DEADLINE: Final = 10.0
# Built in, so that the machine's locales and libraries do not change how text sorts.
INITDB: Final = (
    *("--username=postgres", "--auth=trust", "--no-sync", "--no-instructions", "--encoding=UTF8"),
    *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
)


@contextlib.asynccontextmanager
async def embedded_postgres(
    directory: Path | None = None, *, settings: Mapping[str, str] = NO_SETTINGS
) -> AsyncIterator[str]:
    """Run a private Postgres 18 and yield its URL; stop it at the end.

    `directory` is used again if it was initialised before; None means a temporary one. A second process that asks for
    the same directory does not join (the server would end under it with the first process): it gets an error that
    tells the URL.

    Raises:
        EmbeddedPostgresError: it is not installed, cannot start here, or the directory is in use.
    """
    server = EmbeddedPostgres(directory, settings=settings)
    try:
        await to_thread.run_sync(server.start)
        yield server.url
    finally:
        # Every step of close() has a deadline of its own.
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(server.close)


class EmbeddedPostgres:
    """One private server, for those who stop and start it themselves; `with` starts it and closes it.

    The server ends when this process ends, however that happens. Methods block; none is for two threads at once.
    `settings` may be changed between stop and start.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        settings: Mapping[str, str] = NO_SETTINGS,
        standby_of: str | None = None,
    ) -> None:
        self.settings = dict(settings)
        self._directory = directory
        self._standby_of = standby_of
        self._homes: list[Home] = []
        self._account: Account | None = None
        self._binaries: Path | None = None
        self._port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._alive: int | None = None

    def __repr__(self) -> str:
        return f"<EmbeddedPostgres {self.url if self._port else 'not started'}{' running' if self.running else ''}>"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The URL of the database `postgres`; the same after a restart."""
        if self._port is None:
            raise EmbeddedPostgresError("the embedded Postgres was not started yet")
        return f"postgresql://postgres@127.0.0.1:{self._port}/postgres"

    @property
    def pid(self) -> int:
        """The process id of the postmaster."""
        if self._process is None or not self.running:
            raise EmbeddedPostgresError("the embedded Postgres is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def directory(self) -> Path:
        """The directory that holds `pgdata` and `log`."""
        if not self._homes:
            raise EmbeddedPostgresError("the embedded Postgres was not started yet")
        return self._homes[0].path

    def start(self) -> None:
        """Return when the server accepts connections; make its data first if there are none. Raises as above."""
        if self.running:
            return
        try:
            self._start()
        except OSError as error:
            raise EmbeddedPostgresError(
                f"{self._directory or tempfile.gettempdir()} cannot be used for an embedded Postgres: {error}"
            ) from error

    def _start(self) -> None:
        if not self._homes:
            wheel()
            self._homes.append(open_home(self._directory) if self._directory else temporary_home())
        data = self.directory / "pgdata"
        self._account = account_for(data)
        if self._binaries is None:
            self._binaries = reachable_binaries(self._account, self._scratch)
        if not (data / "PG_VERSION").exists():
            self._make(data)
        if (found := (data / "PG_VERSION").read_text().strip()) != MAJOR:
            raise EmbeddedPostgresError(f"{data} was made by Postgres {found}, this is {MAJOR}; use another directory")
        # The lock says that no server runs on these data, so this file is a dead one's, and its number may by now be
        # some other process's, for which Postgres would refuse to start.
        (data / "postmaster.pid").unlink(missing_ok=True)
        self._launch(data)
        self._homes[0].announce(self.url)

    def stop(self) -> None:
        """End every connection, write everything down and stop; data and port stay for `start`."""
        if self._process is not None and self.running:
            self._process.send_signal(signal.SIGINT)
            self._wait_until_gone(STOP_DEADLINE)
        # What still runs did not obey: a backend stuck in the kernel, or a standby that does not confirm.
        self.kill()

    def kill(self) -> None:
        """Kill every process of the server at once; the next start recovers from the log."""
        if self._process is None:
            return
        if self.running:
            # Stopped first, so that it starts no process that we would not see.
            self._process.send_signal(signal.SIGSTOP)
            for child in children(self._process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            self._process.kill()
        self._process.wait(STOP_DEADLINE)
        self._wait_until_gone(STOP_DEADLINE)
        if self._alive is not None:
            os.close(self._alive)
        self._alive = self._process = None

    def restart(self) -> None:
        """Stop, if it runs, and start on the same port and data."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop for good; a temporary directory is removed."""
        self.stop()
        for home in reversed(self._homes):
            home.close()
        self._homes.clear()
        self._binaries = None

    def _scratch(self) -> Path:
        """Make a temporary directory that is removed at the end."""
        self._homes.append(temporary_home())
        return self._homes[-1].path

    @contextlib.contextmanager
    def _path_for_server(self, data: Path) -> Iterator[tuple[str, list[int]]]:
        """Yield a path under which the server can open `data`, and the descriptors that it must inherit for that."""
        if reaches(self._account, data):
            yield str(data), []
            return
        # A folder above is closed to the server's user. Through a descriptor that we opened, the kernel does not look
        # at the folders above, and no mode needs to be loosened. Every process of the server inherits it.
        descriptor = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield f"/proc/self/fd/{descriptor}", [descriptor]
        finally:
            os.close(descriptor)

    def _make(self, data: Path) -> None:
        """Make the data beside their place, so that a half-made directory is never taken for a whole one."""
        unfinished = data.with_name("pgdata.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        if self._account:
            os.chown(unfinished, self._account.uid, self._account.gid)
        with self._path_for_server(unfinished) as (path, keep):
            command = ["initdb", *INITDB, f"--pgdata={path}"]
            if self._standby_of:
                command = ["pg_basebackup", "--write-recovery-conf", f"--dbname={self._standby_of}", f"--pgdata={path}"]
                command += ["--checkpoint=fast", "--no-sync"]
            process = self._run(command, keep, signal.SIGKILL)
            if process.wait(START_DEADLINE) != 0:
                raise EmbeddedPostgresError(f"{command[0]} failed: {self._log_tail()}")
        unfinished.rename(data)

    def _launch(self, data: Path) -> None:
        deadline = time.monotonic() + START_DEADLINE
        moved = self._port is None
        with self._path_for_server(data) as (path, keep):
            while True:
                port = free_port() if moved else self._port
                if self._try_port(port or 0, path, keep, data, deadline):
                    self._port = port
                    return
                tail = self._log_tail()
                self.kill()
                # Between choosing a port and binding it, somebody else may have taken it.
                if "Address already in use" not in tail or time.monotonic() > deadline:
                    raise EmbeddedPostgresError(f"Postgres did not start: {tail}")

    def _try_port(self, port: int, path: str, keep: list[int], data: Path, deadline: float) -> bool:
        """Start the server; return whether it answers before the deadline, and before it exits."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            # No socket in the file system: their paths are limited to 107 bytes.
            "unix_socket_directories": "",
            "timezone": "UTC",
            "log_timezone": "UTC",
        } | self.settings
        command = ["postgres", "-D", path]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        # Every process of the server inherits the writing end: the reading end reports when the last one is gone.
        self._alive, writing_end = os.pipe()
        try:
            # An immediate shutdown: the other kinds may wait for a standby, and nobody is left to lose patience.
            self._process = self._run(command, [*keep, writing_end], signal.SIGQUIT)
        finally:
            os.close(writing_end)
        while self.running and time.monotonic() < deadline:
            if says_ready(data / "postmaster.pid", self._process.pid) and answers(port):
                return True
            time.sleep(0.01)
        return False

    def _run(self, command: list[str], keep: list[int], death_signal: signal.Signals) -> subprocess.Popen[bytes]:
        assert self._binaries is not None
        with (self.directory / "log").open("wb") as log:
            return launch(
                [str(self._binaries / "bin" / command[0]), *command[1:]],
                account=self._account,
                death_signal=death_signal,
                keep=[*keep, *(home.lock for home in self._homes)],
                output=log,
            )

    def _wait_until_gone(self, deadline: float) -> None:
        if self._alive is not None:
            select.select([self._alive], [], [], deadline)

    def _log_tail(self) -> str:
        lines = (self.directory / "log").read_text(errors="replace").strip().splitlines()
        return " | ".join(lines[-5:]) or "it wrote no reason"

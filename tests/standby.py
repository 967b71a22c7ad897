"""A Postgres of two servers under a test's control: a primary that confirms no commit before its standby has it too."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import asyncpg

from mcpsession.postgres.embedded import EmbeddedPostgres
from mcpsession.postgres.embedded_probe import children

SETTINGS: Mapping[str, str] = {
    # What a crash of the machine would lose is a test's database; killed processes lose nothing that they wrote.
    "fsync": "off",
    "max_connections": "300",
    # A standby that lost its primary looks again at once, and finds what it missed.
    "wal_retrieve_retry_interval": "200ms",
    "wal_keep_size": "256MB",
    # Each server of a pair also has to run on a machine that does other things.
    "shared_buffers": "64MB",
}
STREAMING_WITHIN = 30.0
LOOK = 0.02


class PairServer(EmbeddedPostgres):
    """One of the two; its port stays its own, whatever its part is."""

    def freeze(self) -> None:
        """Stop every process of the server where it stands; its connections stay open and say nothing."""
        # The postmaster first, so that it starts none that we would not see.
        for process in (self.pid, *children(self.pid)):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGSTOP)

    def thaw(self) -> None:
        for process in (*children(self.pid), self.pid):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)

    def stop_immediately(self) -> None:
        """Stop without a checkpoint or a word to anyone; the next start recovers from the log."""
        os.kill(self.pid, signal.SIGQUIT)
        assert self._process is not None
        self._process.wait(30)
        self.kill()

    def close(self) -> None:
        # Nobody will read these data again, and one that is frozen obeys no other signal.
        self.kill()
        super().close()

    def follow(self, primary: str) -> None:
        """Throw the data away and start as the standby of `primary`, on the port as before."""
        self.kill()
        shutil.rmtree(self.directory / "pgdata")
        self._standby_of = primary
        self.start()


class PostgresPair:
    """A primary and its synchronous standby; `with` starts them and ends them, and they end with this process.

    Methods block: from a test whose other tasks must go on, call them in a thread. `url` stays the same whoever is the
    primary.
    """

    def __init__(self, settings: Mapping[str, str] = SETTINGS) -> None:
        self._settings = dict(settings)
        self._servers: list[PairServer] = []
        self._ports: tuple[int, ...] = ()
        self.primary: PairServer
        """Who takes writes."""
        self.standby: PairServer | None = None
        """Who follows; None from a fail-over until `rebuild`."""
        self.lost: PairServer | None = None
        """The former primary, from a fail-over until `rebuild`."""
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.primary = stack.enter_context(PairServer(settings=self._settings))
            self.standby = stack.enter_context(PairServer(settings=self._settings, standby_of=self.primary.url))
            self._ports = (_port(self.primary), _port(self.standby))
            self._begin_to_wait()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        """Both hosts, in an order that never changes; which of them takes writes is the driver's to find out."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in self._ports)
        return f"postgresql://postgres@{hosts}/{database}?target_session_attrs=read-write"

    @property
    def is_synchronous(self) -> bool:
        """Whether a commit now waits for a standby that is there."""
        query = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming'"
        return bool(ask(self.primary.url, query))

    def stand_alone(self) -> None:
        """From now on commits wait for no standby: without this they hang while it is away, as they should."""
        self._wait_for("")

    def until_synchronous(self) -> None:
        until(lambda: self.is_synchronous, "the standby streams")

    def fail_over(self, lose: Callable[[PairServer], None] = PairServer.kill) -> float:
        """Lose the primary (`lose` is called with it), promote the standby; return how many seconds that took.

        The new primary stands alone until `rebuild`. A primary that was only frozen is killed there.
        """
        if self.standby is None:
            raise RuntimeError("there is no standby: rebuild() first")
        began = time.monotonic()
        lose(self.primary)
        self.lost, self.primary, self.standby = self.primary, self.standby, None
        if not ask(self.primary.url, "SELECT pg_promote()"):
            raise RuntimeError("the standby was not promoted")
        return time.monotonic() - began

    def rebuild(self) -> None:
        """Make a new standby of the server that was lost; at return the pair is synchronous again."""
        if self.lost is None:
            raise RuntimeError("nothing was lost")
        self.lost.follow(self.primary.url)
        self.standby, self.lost = self.lost, None
        self._begin_to_wait()

    def _begin_to_wait(self) -> None:
        # Only now: the setting is copied with the data, and a standby that has it would, promoted, wait for nobody.
        self._wait_for("*")
        self.until_synchronous()

    def _wait_for(self, names: str) -> None:
        ask(self.primary.url, f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        ask(self.primary.url, "SELECT pg_reload_conf()")


def ask(url: str, query: str) -> Any:
    """The answer to a query; blocks."""

    async def run() -> Any:
        connection = await asyncpg.connect(url, timeout=30)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    # In a thread of its own: the one that asks may have a loop that runs.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, run()).result()


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + STREAMING_WITHIN
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"in vain waited until {what}")
        time.sleep(LOOK)


def _port(server: EmbeddedPostgres) -> int:
    port = urlsplit(server.url).port
    assert port is not None
    return port

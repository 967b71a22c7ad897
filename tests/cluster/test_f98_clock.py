"""The clock of Postgres is stepped by an hour, and back: nobody is taken for dead, and no session for old."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import anyio
import httpx2
import pytest

from examples.cluster import Cluster
from mcpsession.postgres.embedded import EmbeddedPostgres
from mcpsession.postgres.migrate import migrate
from tests.cluster.conftest import Connect, Files, fetch
from tests.cluster.promises import Watch, promised, watching
from tests.cluster.under_load import loaded

HOUR = 3600
# Where distributions put it, under /usr.
LIBRARIES = ("lib/*/faketime/libfaketime.so.1", "lib*/faketime/libfaketime.so.1")


class SteppedPostgres(EmbeddedPostgres):
    """A server that takes the time from a file, which says how far it is off."""

    def __init__(self, library: Path) -> None:
        super().__init__(settings={"fsync": "off", "max_connections": "100"})
        self._library = library

    def step(self, seconds: int) -> None:
        """Set the clock so far ahead of the true time."""
        # At once: a server that reads half a file would take it for another time.
        new = self._offset.with_name("offset.new")
        new.write_text(f"{seconds:+d}\n")
        new.chmod(0o644)
        new.rename(self._offset)

    @property
    def _offset(self) -> Path:
        # The server's own directory is one that the user whom it runs as can reach.
        return self.directory / "offset"

    def _run(self, command: list[str], keep: Sequence[int], death_signal: signal.Signals) -> subprocess.Popen[bytes]:
        if command[0] != "postgres":
            return super()._run(command, list(keep), death_signal)
        assert self._binaries is not None
        self.step(0)
        faked = {
            "LD_PRELOAD": self._library,
            "FAKETIME_TIMESTAMP_FILE": self._offset,
            "FAKETIME_NO_CACHE": 1,
            # Only the clock on the wall: intervals are as long as ever.
            "FAKETIME_DONT_FAKE_MONOTONIC": 1,
        }
        settings = [f"{name}={value}" for name, value in faked.items()]
        program = str(self._binaries / "bin" / "postgres")
        # An absolute path stays what it is, so this runs env, which becomes Postgres.
        return super()._run(["/usr/bin/env", *settings, program, *command[1:]], list(keep), death_signal)


@pytest.fixture(scope="module")
def server() -> Iterator[SteppedPostgres]:
    found = [library for pattern in LIBRARIES for library in Path("/usr").glob(pattern)]
    if not found:
        pytest.skip("there is no libfaketime; to run this: apt-get install faketime")
    with SteppedPostgres(found[0]) as server:
        migrate(server.url)
        yield server


@pytest.fixture(scope="module")
def cluster_database(server: SteppedPostgres) -> str:
    return server.url


async def until_off_by(url: str, seconds: int) -> None:
    [row] = await fetch(url, "SELECT extract(epoch FROM now())::float8 AS now")
    assert seconds == pytest.approx(row["now"] - time.time(), abs=30)


async def test_f98_a_clock_stepped_forward_by_an_hour_is_no_event_to_anyone_who_is_active(
    cluster: Cluster, http: httpx2.AsyncClient, files: Files, server: SteppedPostgres
) -> None:
    async with (
        promised(cluster, http, files) as promises,
        watching(cluster) as watch,
        loaded(cluster, http, ticks={0.2: 25}) as load,
    ):
        server.step(HOUR)
        await until_off_by(server.url, HOUR)
        promises.go_on()
        # Longer than `dead_after`, and than any lease.
        await watch_for(3.5, watch)
        # A finished stream is kept for ten minutes, by that very clock.
        await promises.kept(over=False)
        await load.proven()
    assert [["ok"]] * 3 == watch.words


async def test_f98_a_clock_stepped_back_by_an_hour_is_no_event_to_anyone(
    cluster: Cluster, http: httpx2.AsyncClient, connect: Connect, files: Files, server: SteppedPostgres
) -> None:
    """All that was written before then has times that are yet to come."""
    server.step(HOUR)
    await until_off_by(server.url, HOUR)
    roamer = await connect(replica=0)
    async with (
        promised(cluster, http, files) as promises,
        watching(cluster) as watch,
        loaded(cluster, http, ticks={0.2: 25}) as load,
        roamer.listening(replica=0) as first,
    ):
        await first.until(lambda: first.ids)
        # Two take-overs from a holder that lived; a third one within 10 s would be a fight.
        async with roamer.listening(replica=1) as second:
            await second.until(lambda: second.ids)
            async with roamer.listening(replica=2) as third:
                await third.until(lambda: third.ids)
                server.step(0)
                await until_off_by(server.url, 0)
                async with roamer.listening(replica=0) as fourth:
                    await fourth.open()
                assert 200 == fourth.status
        promises.go_on()
        await watch_for(3.5, watch)
        await promises.kept()
        await load.proven()
    assert [["ok"]] * 3 == watch.words


async def watch_for(seconds: float, watch: Watch) -> None:
    """Nothing is waited for here: what must not happen would happen meanwhile."""
    await anyio.sleep(seconds)
    assert [["ok"]] * len(watch.words) == watch.words

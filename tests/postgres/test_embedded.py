"""The private Postgres: it is a real one, and it keeps what it was told to keep."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
from anyio import to_thread

from mcpsession.postgres import embedded_launch
from mcpsession.postgres.embedded import EmbeddedPostgres, embedded_postgres
from mcpsession.postgres.embedded_launch import EmbeddedPostgresError
from tests.conftest import TEST_SETTINGS, execute
from tests.postgres.embedded_processes import gone, parent, processes_of, wait_until


async def ask(url: str, question: str) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


# ---- It is a Postgres ---------------------------------------------------------------------------------------------


async def test_it_is_postgres_18_and_its_url_works() -> None:
    async with embedded_postgres(settings=TEST_SETTINGS) as url:
        assert url.startswith("postgresql://postgres@127.0.0.1:")
        assert await ask(url, "SHOW server_version_num") >= "180000"
        assert "off" == await ask(url, "SHOW fsync")
        assert "UTF8" == await ask(url, "SHOW server_encoding")


def test_it_does_not_run_as_root(own_postgres: EmbeddedPostgres) -> None:
    """Postgres refuses to; if we are root, it is somebody else."""
    seen = set()
    for process in processes_of(own_postgres.pid):
        # A worker of Postgres's own may end between the listing and the look.
        with suppress(psutil.NoSuchProcess):
            assert 0 != process.uids().real
            assert 0 not in os.getgrouplist(process.username(), process.gids().real)
            seen.add(process.pid)
    assert own_postgres.pid in seen


async def test_restarts_and_kills_keep_url_and_data(own_postgres: EmbeddedPostgres) -> None:
    before = own_postgres.url
    await ask(own_postgres.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    serving = processes_of(own_postgres.pid)

    await to_thread.run_sync(own_postgres.kill)
    # Their files and sockets are closed by now; the kernel may still count the process for an instant.
    wait_until(lambda: all(gone(process) for process in serving), "they are gone")
    with pytest.raises(OSError, match="Connect"):
        await asyncpg.connect(own_postgres.url)
    await to_thread.run_sync(own_postgres.start)
    await to_thread.run_sync(own_postgres.restart)

    assert before == own_postgres.url
    assert 42 == await ask(own_postgres.url, "SELECT answer FROM kept")


async def test_a_stop_does_not_wait_for_clients(own_postgres: EmbeddedPostgres) -> None:
    connection = await asyncpg.connect(own_postgres.url)
    await connection.execute("BEGIN")
    await to_thread.run_sync(own_postgres.stop)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await connection.execute("SELECT 1")
    connection.terminate()


async def test_several_run_side_by_side() -> None:
    with EmbeddedPostgres() as one, EmbeddedPostgres() as other:
        assert one.url != other.url
        await ask(one.url, "CREATE TABLE only_here ()")
        assert await ask(other.url, "SELECT to_regclass('only_here') IS NULL")


async def test_a_standby_follows_and_can_be_promoted(own_postgres: EmbeddedPostgres) -> None:
    with EmbeddedPostgres(standby_of=own_postgres.url, settings=TEST_SETTINGS) as standby:
        assert await ask(standby.url, "SELECT pg_is_in_recovery()")
        await to_thread.run_sync(own_postgres.kill)
        assert await ask(standby.url, "SELECT pg_promote()")
        assert not await ask(standby.url, "SELECT pg_is_in_recovery()")


def test_it_outlives_the_thread_that_started_it() -> None:
    """The kernel sends the death signal when the thread that forked ends, not only when the process does."""
    server = EmbeddedPostgres()
    try:
        thread = threading.Thread(target=server.start)
        thread.start()
        thread.join()
        wait_until(lambda: not Path(f"/proc/self/task/{thread.native_id}").exists(), "the kernel has ended the thread")
        # A server that got the signal by now accepts no connection.
        execute(server.url, "SELECT 1")
        assert server.running
    finally:
        server.close()


# ---- Directories --------------------------------------------------------------------------------------------------


async def test_a_temporary_directory_is_removed() -> None:
    with EmbeddedPostgres() as server:
        directory = server.directory
        assert directory.exists()
    assert not directory.exists()


async def test_a_named_directory_is_used_again(tmp_path: Path) -> None:
    async with embedded_postgres(tmp_path / "db") as url:
        await ask(url, "CREATE TABLE kept ()")
    async with embedded_postgres(tmp_path / "db") as url:
        assert await ask(url, "SELECT to_regclass('kept') IS NOT NULL")


async def test_folders_above_keep_their_modes_and_their_path_may_be_long(tmp_path: Path) -> None:
    """As root the server is another user, who cannot pass a folder like this; sockets' paths end at 107 bytes."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    directory = closed / ("long" * 40) / "db"
    async with embedded_postgres(directory) as url:
        await ask(url, "CREATE TABLE kept ()")
    async with embedded_postgres(directory) as url:
        # A backend opens files under the path it was given, also those of a later start.
        assert await ask(url, "SELECT to_regclass('kept') IS NOT NULL")
    assert 0o700 == stat.S_IMODE(closed.stat().st_mode)


def test_a_second_server_on_a_directory_gets_the_first_ones_url(tmp_path: Path) -> None:
    with parent("wait", tmp_path / "db") as (process, said):
        second = EmbeddedPostgres(tmp_path / "db")
        with pytest.raises(EmbeddedPostgresError) as refused:
            second.start()
        assert (
            f"{tmp_path / 'db'} is in use by process {process.pid}, which runs an embedded Postgres there; "
            f"give this process that server's URL instead: {said['url']}" == str(refused.value)
        )


def test_a_half_made_directory_is_made_anew(tmp_path: Path) -> None:
    """What an initdb leaves that was killed."""
    (tmp_path / "db" / "pgdata.new").mkdir(parents=True)
    (tmp_path / "db" / "pgdata.new" / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(tmp_path / "db") as server:
        execute(server.url, "SELECT 1")


def test_data_of_another_version_are_refused(tmp_path: Path) -> None:
    (tmp_path / "db" / "pgdata").mkdir(parents=True)
    (tmp_path / "db" / "pgdata" / "PG_VERSION").write_text("16\n")
    with pytest.raises(EmbeddedPostgresError, match=r"was made by Postgres 16, this is 18; use another directory"):
        EmbeddedPostgres(tmp_path / "db").__enter__()


def test_a_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        EmbeddedPostgresError, match=r"file/db cannot be used for an embedded Postgres: .*Not a directory"
    ):
        EmbeddedPostgres(tmp_path / "file" / "db").__enter__()


def test_a_stale_lock_file_of_postgres_does_not_stop_a_start(tmp_path: Path) -> None:
    """In a container the same small process ids come again, and Postgres takes any such process for itself."""
    with EmbeddedPostgres(tmp_path / "db") as server:
        server.kill()
        lock = tmp_path / "db" / "pgdata" / "postmaster.pid"
        bystander = subprocess.Popen(["sleep", "60"], user=lock.stat().st_uid if os.geteuid() == 0 else None)
        try:
            lines = lock.read_text().splitlines(keepends=True)
            lock.write_text(f"{bystander.pid}\n" + "".join(lines[1:]))
            server.start()
        finally:
            bystander.kill()
            bystander.wait()


# ---- What it needs ------------------------------------------------------------------------------------------------


def test_a_missing_wheel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_launch, "find_spec", lambda name: None)
    with pytest.raises(EmbeddedPostgresError, match=r"run: pip install 'mcpsession\[embedded\]'"):
        EmbeddedPostgres().start()


def test_a_setting_that_postgres_refuses_is_told_in_its_words() -> None:
    with pytest.raises(EmbeddedPostgresError, match=r'did not start: .*unrecognized .* "nonsense"'):
        EmbeddedPostgres(settings={"nonsense": "1"}).__enter__()


def test_binaries_in_a_closed_home_are_copied(tmp_path: Path) -> None:
    """As root with a virtual environment below /root, which the server's user cannot enter."""
    installed = embedded_launch.wheel().parent
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for folder in (installed, installed.with_name(f"{installed.name}.libs")):
        shutil.copytree(folder, closed / folder.name, ignore=shutil.ignore_patterns("pginstall"))
    with parent_with_path(closed) as said:
        assert str(closed) in said["wheel"]
        assert "18" == said["version"]


@contextmanager
def parent_with_path(first: Path) -> Iterator[dict[str, str]]:
    script = (
        "import json; from mcpsession.postgres.embedded import EmbeddedPostgres, wheel\n"
        "with EmbeddedPostgres() as server:\n"
        "    version = (server.directory / 'pgdata' / 'PG_VERSION').read_text().strip()\n"
        "    print(json.dumps({'wheel': str(wheel()), 'version': version}))"
    )
    path = os.pathsep.join([str(first), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path.rstrip(os.pathsep)}
    yield json.loads(subprocess.check_output([sys.executable, "-c", script], env=environment, text=True))

"""The private Postgres never outlives its parent, however that one ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from mcpsession.postgres.embedded import EmbeddedPostgres
from mcpsession.postgres.migrate import migrate
from tests.conftest import execute
from tests.postgres.embedded_processes import PARENT, gone, parent, processes_of, wait_until


@pytest.mark.parametrize("way", ["normal", "exception", "no close"])
def test_no_process_is_left_when_the_parent_leaves_by(way: str) -> None:
    with parent(way) as (process, said):
        serving = processes_of(said["pid"])
        assert len(serving) > 3
        process.communicate("go on\n", timeout=15)
        wait_until(lambda: all(gone(one) for one in serving), "the server's processes are gone")


def test_no_process_is_left_after_an_exception_in_async_code(tmp_path: Path) -> None:
    done = subprocess.run([*PARENT, "async exception", str(tmp_path)], capture_output=True, text=True)
    assert "RuntimeError: on purpose" in done.stderr
    assert not (tmp_path / "pgdata" / "postmaster.pid").exists()
    # Had a process of it been left, it would hold the lock.
    EmbeddedPostgres(tmp_path).__enter__().close()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_and_no_directory_is_left_when_the_parent_is_killed_by(how: signal.Signals) -> None:
    with parent("wait") as (process, said):
        # A client that is connected, as most are, must not keep the server up.
        host, port = said["url"].removeprefix("postgresql://postgres@").removesuffix("/postgres").split(":")
        with socket.create_connection((host, int(port))):
            serving = processes_of(said["pid"])
            assert len(serving) > 3
            process.send_signal(how)
            process.wait(15)
            wait_until(lambda: all(gone(one) for one in serving), "the server's processes are gone")
    with EmbeddedPostgres():
        # The next one clears up.
        assert not Path(said["directory"]).exists()


def test_a_directory_can_be_used_at_once_after_its_owner_was_killed(tmp_path: Path) -> None:
    with parent("wait", tmp_path / "db") as (process, said):
        execute(said["url"], "CREATE TABLE kept ()")
        process.kill()
        process.wait(15)
        # Its server is dying now: this waits for that.
        with EmbeddedPostgres(tmp_path / "db") as server:
            execute(server.url, "SELECT FROM kept")


def test_ctrl_c_in_the_terminal_is_for_the_parent_alone(own_postgres: EmbeddedPostgres) -> None:
    """The terminal signals the whole group, and a server that stops first takes the drain's last writes with it."""
    assert os.getpgid(own_postgres.pid) != os.getpgid(0)


def test_migrating_a_private_server_needs_nothing_else(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "db") as server:
        migrate(server.url)

"""Ways to Postgres that are worse than a direct one: a pooler's, and that of a role which may lose its login."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conftest import execute
from tests.postgres.ears import ListenerRole, free_port


@pytest.fixture
def listener_role(database_url: str) -> Iterator[ListenerRole]:
    """A role that may do what the database's owner may, and that a test can lock out."""
    role = ListenerRole(database_url)
    execute(database_url, f"CREATE ROLE {role.name} LOGIN PASSWORD 'secret' IN ROLE {urlsplit(database_url).username}")
    yield role
    execute(database_url, f"DROP ROLE {role.name}")


@pytest.fixture
def pooler_url(database_url: str, tmp_path: Path) -> Iterator[str]:
    """A PgBouncer in transaction mode, with fewer server connections than clients."""
    program = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
    if program is None:
        pytest.skip("there is no pgbouncer; to run this: apt-get install pgbouncer")
    target, port = urlsplit(database_url), free_port()
    if target.hostname is None:
        pytest.skip("pgbouncer is tried with a TCP server only")
    password = f" password={target.password}" if target.password else ""
    (tmp_path / "users").write_text(f'"{target.username}" "{target.password or ""}"\n')
    (tmp_path / "ini").write_text(
        f"[databases]\n* = host={target.hostname} port={target.port or 5432} user={target.username}{password}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        f"auth_file = {tmp_path}/users\npool_mode = transaction\ndefault_pool_size = 3\n"
    )
    as_user: dict[str, object] = {}
    if getpass.getuser() == "root":
        # It refuses to run as root.
        for directory in (tmp_path, *tmp_path.parents[:-2]):
            os.chmod(directory, 0o755)
        as_user = {"user": "nobody"}
    bouncer = subprocess.Popen([program, "-q", str(tmp_path / "ini")], stderr=subprocess.DEVNULL, **as_user)  # type: ignore[call-overload]
    try:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and bouncer.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        else:
            pytest.fail("pgbouncer did not start")
        yield f"postgresql://{target.username}@127.0.0.1:{port}{target.path}"
    finally:
        bouncer.terminate()
        bouncer.wait(5)

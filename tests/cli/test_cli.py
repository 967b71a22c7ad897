"""What the command says, on stdout when it went well, on stderr with a remedy and without a traceback when not."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys

import pytest

from mcpsession.postgres.migrate import HEAD
from tests.conftest import execute, with_database
from tests.postgres.citus import INSTALL


def mcpsession(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MCPSESSION_")}
    command = [sys.executable, "-m", "mcpsession", *arguments]
    return subprocess.run(command, env=inherited | environment, capture_output=True, text=True, timeout=60)


def test_migrate_tells_from_where_to_where(empty_database_url: str) -> None:
    first, second = (mcpsession("migrate", "--url", empty_database_url) for _ in range(2))
    assert (0, "") == (first.returncode, first.stderr)
    assert first.stdout.endswith(f" went from revision none to {HEAD}\n")
    assert (0, "") == (second.returncode, second.stderr)
    assert second.stdout.endswith(f" is at revision {HEAD} already\n")


def test_the_environment_gives_the_default_url(empty_database_url: str) -> None:
    assert 0 == mcpsession("migrate", MCPSESSION_URL=empty_database_url).returncode
    nowhere = mcpsession("migrate", "--url", empty_database_url, MCPSESSION_URL="postgresql://u@127.0.0.1:1/d")
    assert f"is at revision {HEAD} already" in nowhere.stdout


def test_the_password_is_never_shown(empty_database_url: str) -> None:
    with_password = re.sub(r"://([^:@/]+)(:[^@/]*)?@", r"://\1:s3cr3t@", empty_database_url)
    done = mcpsession("migrate", "--url", with_password)
    assert "s3cr3t" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("url", "code", "message"),
    [
        ("", 2, "no database is given: use --url postgresql://user:password@host:port/database, or set MCPSESSION_URL"),
        ("mysql://u:s3cr3t@h/d", 2, "url='mysql://u:***@h/d' is not allowed: it must be postgresql://"),
        ("memory://", 2, "memory:// and embedded:// need no migration: their tables are made when the layer starts"),
        ("postgresql://u:s3cr3t@[h/d", 2, "it cannot be parsed; escape special characters as %XX"),
        (
            "postgresql://u:s3cr3t@127.0.0.1:1/d",
            1,
            "no connection to Postgres at 127.0.0.1:1 (Connect call failed ('127.0.0.1', 1)); "
            "check the host and port of the URL, and that Postgres runs there and accepts connections",
        ),
    ],
    ids=["missing", "wrong scheme", "memory", "malformed", "unreachable"],
)
def test_a_url_that_cannot_work_is_explained(url: str, code: int, message: str) -> None:
    done = mcpsession("migrate", *(["--url", url] if url else []))
    assert (code, "") == (done.returncode, done.stdout)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "s3cr3t" not in done.stderr


def test_a_database_that_does_not_exist_is_named(server_url: str) -> None:
    done = mcpsession("migrate", "--url", with_database(server_url, "mcpsession_test_missing"))
    assert 1 == done.returncode
    assert 'database "mcpsession_test_missing" does not exist' in done.stderr
    assert "Traceback" not in done.stderr


def test_what_was_distributed_is_told_as_it_is_done(database_url: str) -> None:
    execute(database_url, INSTALL)
    done = mcpsession("migrate", "--distributed", "--url", database_url)
    assert (0, "") == (done.returncode, done.stderr)
    lines = done.stdout.splitlines()
    assert f" is at revision {HEAD} already" in lines[0]
    assert lines[1].startswith("mcpsession: sessions is distributed by id (")
    assert re.fullmatch(r"mcpsession: Citus plans all \d+ statements on these tables", lines[-1])


def test_without_citus_nothing_is_distributed_and_the_remedy_is_told(database_url: str) -> None:
    done = mcpsession("migrate", "--distributed", "--url", database_url)
    assert 1 == done.returncode
    assert "cannot be distributed: the database does not have the extension citus; install it on" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_older_revision_is_not_distributed(database_url: str) -> None:
    done = mcpsession("migrate", "--distributed", "--revision", "0003", "--url", database_url)
    assert (2, "") == (done.returncode, done.stdout)
    assert "--distributed is for the newest revision: leave --revision out" in done.stderr


def test_an_unknown_revision_is_a_usage_error(database_url: str) -> None:
    done = mcpsession("migrate", "--url", database_url, "--revision", "nonsense")
    assert 2 == done.returncode
    assert "revision='nonsense' is not allowed" in done.stderr
    assert "Traceback" not in done.stderr


def test_version_names_the_release_and_its_schema() -> None:
    done = mcpsession("version")
    assert f"mcpsession {importlib.metadata.version('mcpsession')} (schema {HEAD})\n" == done.stdout


def test_without_a_verb_the_verbs_are_listed() -> None:
    bare = mcpsession()
    assert 2 == bare.returncode
    assert re.search(r"migrate +make or update the schema\n +version +print the release", bare.stdout)
    assert bare.stdout == mcpsession("--help").stdout

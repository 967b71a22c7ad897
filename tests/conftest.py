"""The database of the tests: one real Postgres a run, one database a test, cloned from a migrated template."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Generator, Iterator
from urllib.parse import urlsplit

import asyncpg
import pytest

from mcpsession.postgres.embedded import EmbeddedPostgres
from mcpsession.postgres.migrate import migrate

# What a crash of the machine would lose is a test run's database: not worth waiting for the disk.
TEST_SETTINGS = {"fsync": "off", "max_connections": "300"}
# Unique on a server that several runs share.
PREFIX = f"mcpsession_test_{os.getpid()}"
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """The run's server: MCPSESSION_TEST_URL, else a private one. Tests that stop a server take own_postgres."""
    if url := os.environ.get("MCPSESSION_TEST_URL"):
        yield url
        return
    with EmbeddedPostgres(settings=TEST_SETTINGS) as server:
        yield server.url


@pytest.fixture(scope="session")
def migrated_template(server_url: str) -> Iterator[str]:
    """The name of a migrated database, to be cloned."""
    name = f"{PREFIX}_template"
    execute(server_url, f"CREATE DATABASE {name}")
    migrate(with_database(server_url, name))
    yield name
    execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A migrated database of the test's own, or MCPSESSION_TEST_DATABASE for those that may share one."""
    if shared := os.environ.get("MCPSESSION_TEST_DATABASE"):
        yield shared
        return
    template = request.getfixturevalue("migrated_template")
    yield from _new_database(request.getfixturevalue("server_url"), f"TEMPLATE {template}")


@pytest.fixture
def empty_database_url(server_url: str) -> Iterator[str]:
    """A database of the test's own without our schema."""
    yield from _new_database(server_url, "TEMPLATE template0")


@pytest.fixture
def own_postgres() -> Iterator[EmbeddedPostgres]:
    """A migrated server of the test's own, which it may stop, kill and restart."""
    with EmbeddedPostgres(settings=TEST_SETTINGS) as server:
        migrate(server.url)
        yield server


def with_database(url: str, name: str) -> str:
    """Return the URL of another database of the same server."""
    return urlsplit(url)._replace(path=f"/{name}").geturl()


def execute(url: str, statement: str) -> None:
    """Run one statement, from code that is not async."""

    async def run() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())


def _new_database(server_url: str, options: str) -> Iterator[str]:
    name = f"{PREFIX}_{next(_numbers)}"
    execute(server_url, f"CREATE DATABASE {name} {options}")
    yield with_database(server_url, name)
    # By force: a test that failed may have left connections.
    execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        _fail_on_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped:
        _fail_on_skip(report)
    return report


def _fail_on_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """In CI nothing may be missing, so there a skipped test is a failed one that says why it was skipped."""
    if os.environ.get("MCPSESSION_FAIL_ON_SKIP") == "1":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason} (a skip is a failure here: MCPSESSION_FAIL_ON_SKIP=1)"

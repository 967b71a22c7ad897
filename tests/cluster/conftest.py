"""One cluster a module: three replicas, a front, and a database of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import httpx2
import pytest

from examples.cluster import Cluster, ReplicaProcess, run_cluster
from tests.cluster.client import DEADLINE, LATEST, Client
from tests.conftest import _new_database

Connect = Callable[..., Awaitable[Client]]

APP = "tests.cluster.server:app"
LOOK = 0.01


class Files:
    """The files that a test and its tools meet at."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self._name = name
        (root / name).mkdir()

    def __call__(self, name: str) -> str:
        """The name of a file, as a tool wants it."""
        return f"{self._name}/{name}"

    def touch(self, *names: str) -> None:
        for name in names:
            (self.root / self(name)).touch()

    def lines(self, name: str) -> list[str]:
        """What tools wrote into a file, which need not exist."""
        path = self.root / self(name)
        return path.read_text().splitlines() if path.exists() else []

    async def wait_for(self, name: str, lines: int = 1) -> list[str]:
        """Wait until that many lines are in the file."""
        await until(lambda: len(self.lines(name)) >= lines)
        return self.lines(name)


async def until(condition: Callable[[], object], within: float = DEADLINE) -> None:
    """Wait for something that nothing announces."""
    with anyio.fail_after(within):
        while not condition():  # noqa: ASYNC110 (files and processes announce nothing)
            await anyio.sleep(LOOK)


async def until_rows(url: str, query: str, *arguments: Any, within: float = DEADLINE) -> list[Any]:
    """Repeat a query until it finds something."""
    connection = await asyncpg.connect(url)
    try:
        with anyio.fail_after(within):
            while not (rows := await connection.fetch(query, *arguments)):  # noqa: ASYNC110 (nor do rows)
                await anyio.sleep(LOOK)
        return list(rows)
    finally:
        await connection.close()


async def fetch(url: str, query: str, *arguments: Any) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(query, *arguments))
    finally:
        await connection.close()


async def heal(cluster: Cluster) -> None:
    """Start again whatever a test has killed or frozen."""
    down: list[ReplicaProcess] = []
    for replica in cluster.replicas:
        if replica.alive:
            replica.resume()
        else:
            replica.start()
            down.append(replica)
    for replica in down:
        await replica.ready()


@pytest.fixture(scope="module")
def files_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture
def files(files_root: Path, request: pytest.FixtureRequest) -> Files:
    return Files(files_root, f"{abs(hash(request.node.nodeid)):x}")


@pytest.fixture(scope="module")
def cluster_database(server_url: str, migrated_template: str) -> Iterator[str]:
    """A migrated database of the module's own."""
    yield from _new_database(server_url, f"TEMPLATE {migrated_template}")


@pytest.fixture(scope="module")
async def cluster(
    anyio_backend: str, request: pytest.FixtureRequest, cluster_database: str, files_root: Path
) -> AsyncIterator[Cluster]:
    """The module's cluster, of its APP with its ENV and number of REPLICAS.

    Where nothing is killed (a module that does so says FAULTS = True), no replica may log a traceback.
    """
    env = {"CLUSTER_FILES": str(files_root), **getattr(request.module, "ENV", {})}
    replicas = getattr(request.module, "REPLICAS", 3)
    async with run_cluster(
        getattr(request.module, "APP", APP), replicas=replicas, database_url=cluster_database, env=env
    ) as cluster:
        yield cluster
        logs = [replica.log for replica in cluster.replicas]
    if not getattr(request.module, "FAULTS", False):
        assert [] == [log for log in logs if "Traceback" in log]


def http_client(url: str) -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=None)
    return httpx2.AsyncClient(base_url=url, timeout=2 * DEADLINE, limits=limits, trust_env=False)


@pytest.fixture
async def http(cluster: Cluster) -> AsyncIterator[httpx2.AsyncClient]:
    async with http_client(cluster.url) as client:
        yield client


@pytest.fixture
def connect(http: httpx2.AsyncClient) -> Connect:
    """Begin a session and return its client."""

    async def begin(*, version: str = LATEST, replica: int | None = None, token: str | None = None) -> Client:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        client = Client(http, version=version, headers=headers)
        await client.initialize(replica=replica)
        return client

    return begin


@pytest.fixture
async def client(connect: Connect) -> Client:
    """A session that began on replica 0."""
    return await connect(replica=0)

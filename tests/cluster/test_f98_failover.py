"""The primary is lost, or demoted, and its synchronous standby takes over: what was acknowledged is there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import cycle

import anyio
import httpx2
import pytest
from anyio import to_thread

from examples.cluster import Cluster
from mcpsession.postgres.migrate import migrate
from tests.cluster.client import CAPABILITIES, LATEST, Client, Message
from tests.cluster.conftest import Files, fetch, http_client, until
from tests.cluster.promises import promised, watching
from tests.cluster.under_load import loaded
from tests.standby import PairServer, PostgresPair, ask

# Those that listen, and those that were used of late; one that lies idle in a pool is replaced when it is wanted.
IN_USE = """
SELECT query FROM pg_stat_activity
WHERE application_name LIKE 'mcpsession%' AND (query ILIKE 'LISTEN%' OR state_change > now() - interval '2 s')
"""


@pytest.fixture(scope="module")
def pair() -> Iterator[PostgresPair]:
    with PostgresPair() as pair:
        migrate(pair.primary.url)
        yield pair


@pytest.fixture(scope="module")
def cluster_database(pair: PostgresPair) -> str:
    return pair.url


@pytest.fixture
async def http(cluster: Cluster) -> AsyncIterator[httpx2.AsyncClient]:
    async with http_client(cluster.url) as client:
        # A call that was taken just before shows its first byte afterwards.
        client.timeout = 60
        yield client


class Crowd:
    """Clients that come all the while: each begins a session, and is asked something that it answers."""

    def __init__(self, cluster: Cluster, http: httpx2.AsyncClient) -> None:
        self._cluster = cluster
        self._http = http
        self._over = False
        self.clients: list[Client] = []
        """Those whose session was begun."""
        self.answers = 0
        """Those that were acknowledged, and reached whoever had asked."""

    async def come_on(self) -> None:
        hello = {"protocolVersion": LATEST, "capabilities": CAPABILITIES, "clientInfo": {"name": "new", "version": "1"}}
        for asked, answered in cycle([(0, 1), (1, 2), (2, 0)]):
            if self._over:
                return
            client = Client(self._http)
            async with client.requesting("initialize", hello, replica=asked) as stream:
                await stream.end(60)
            assert stream.status in (200, 503), stream
            if stream.status == 200:
                client.session_id = stream.headers["mcp-session-id"]
                self.clients.append(client)
                await self._answer(client, asked, answered)
            await anyio.sleep(0.05)

    async def _answer(self, client: Client, asked: int, answered: int) -> None:
        async with client.calling("elicit", {"question": "well?"}, replica=asked) as stream:
            await stream.until(lambda: stream.methods or stream.ended, within=60)
            if not stream.methods:
                # Not taken, or not begun: nothing was promised.
                assert stream.status in (400, 404, 503), stream
                return
            question: Message = stream.messages[0]
            while (response := await client.accept(question, "mine", replica=answered)).status_code != 202:
                assert response.status_code == 503, response.text
                await anyio.sleep(0.2)
            await stream.end(60)
            assert f"accept mine on {asked}" == stream.finals[0]["result"]["content"][0]["text"]
            self.answers += 1

    async def proven(self) -> None:
        """Every session that was begun is there, on every replica."""
        self._over = True
        assert self.clients
        assert self.answers
        for number, client in enumerate(self.clients):
            assert 200 == await client.status(replica=number % len(self._cluster.replicas))


@asynccontextmanager
async def crowded(cluster: Cluster, http: httpx2.AsyncClient) -> AsyncIterator[Crowd]:
    crowd = Crowd(cluster, http)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(crowd.come_on)
        await until(lambda: crowd.answers >= 3)
        try:
            yield crowd
        finally:
            crowd._over = True


async def test_f98_when_the_primary_is_killed_under_load_nothing_acknowledged_is_lost(
    cluster: Cluster, http: httpx2.AsyncClient, files: Files, pair: PostgresPair
) -> None:
    async with (
        promised(cluster, http, files) as promises,
        watching(cluster) as watch,
        loaded(cluster, http, ticks={0.2: 28}) as load,
        crowded(cluster, http) as crowd,
    ):
        await to_thread.run_sync(pair.fail_over)
        promises.go_on()
        await watch.until("ok", within=10)
        await promises.kept()
        await load.proven()
        await crowd.proven()
        await to_thread.run_sync(pair.rebuild)
    assert watch.slowest < 1


async def test_f98_a_demoted_primary_that_stays_up_is_left_by_every_connection(
    cluster: Cluster, http: httpx2.AsyncClient, files: Files, pair: PostgresPair
) -> None:
    """It answers pings, hears and reads: who does not write there would stay for ever, and hear no bell any more."""
    async with (
        promised(cluster, http, files) as promises,
        watching(cluster) as watch,
        loaded(cluster, http, ticks={0.2: 28}) as load,
        crowded(cluster, http) as crowd,
    ):
        await to_thread.run_sync(pair.fail_over, demote)
        promises.go_on()
        assert pair.lost is not None
        old = pair.lost.url
        left = await fetch(old, IN_USE)
        with anyio.move_on_after(15):
            while left := await fetch(old, IN_USE):  # noqa: ASYNC110 (Postgres announces nothing)
                await anyio.sleep(0.05)
        assert [] == left
        await watch.until("ok", within=10)
        await promises.kept()
        await load.proven()
        await crowd.proven()
    assert watch.slowest < 1


def demote(primary: PairServer) -> None:
    """Let it take no more writes, and stay up."""
    ask(primary.url, "ALTER SYSTEM SET default_transaction_read_only = on")
    ask(primary.url, "SELECT pg_reload_conf()")

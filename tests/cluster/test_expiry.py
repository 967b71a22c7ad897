"""A session lives as long as it is used, on whichever replica, and ends when it is not."""

from __future__ import annotations

import anyio

from examples.cluster import Cluster
from tests.cluster.client import Client
from tests.cluster.conftest import Files, fetch, until_rows

TTL = 2.0
ENV = {
    "MCPSESSION_SESSION_TTL": str(TTL),
    "MCPSESSION_TOUCH_FLUSH": "0.3",
    "MCPSESSION_TOUCH_STEP": "0.2",
    "MCPSESSION_KEEP_ALIVE": "0.5",
    "MCPSESSION_REAP_EVERY": "0.5",
}
EXPIRED = "SELECT 1 WHERE NOT EXISTS (SELECT FROM mcpsession.sessions WHERE id = $1 AND expires_at > now())"


async def test_a_session_busy_on_b_is_not_ended_by_a(client: Client) -> None:
    assert await client.status(replica=0) == 200
    over = anyio.current_time() + 2.5 * TTL
    while anyio.current_time() < over:
        assert await client.status(replica=1) == 200
        # A fifth of the ttl: busy, and not so busy that only that would keep it.
        await anyio.sleep(TTL / 5)
    assert await client.status(replica=0) == 200


async def test_an_idle_session_ends_and_is_404_everywhere(client: Client, cluster: Cluster) -> None:
    assert [await client.status(replica=replica) for replica in (0, 1, 2)] == [200, 200, 200]
    await until_rows(cluster.database_url, EXPIRED, client.session_id)
    assert [await client.status(replica=replica) for replica in (0, 1, 2)] == [404, 404, 404]


async def test_an_open_standalone_stream_keeps_a_session(client: Client) -> None:
    async with client.listening(replica=1) as stream:
        await stream.open()
        await anyio.sleep(2.5 * TTL)
        assert not stream.ended
    assert await client.status(replica=2) == 200


async def test_a_call_longer_than_the_ttl_keeps_its_session(client: Client, files: Files) -> None:
    async with client.calling("wait", {"gate": files("gate")}, replica=1) as stream:
        await stream.until(lambda: stream.status)
        await anyio.sleep(2.5 * TTL)
        files.touch("gate")
        await stream.end()
    assert "waited on 1" in str(stream.finals)
    assert await client.status(replica=2) == 200


async def test_what_expired_is_removed(client: Client, cluster: Cluster) -> None:
    await client.call("put", {"key": "k"}, replica=1)
    gone = "SELECT 1 WHERE NOT EXISTS (SELECT FROM mcpsession.sessions WHERE id = $1)"
    await until_rows(cluster.database_url, gone, client.session_id)
    left = "SELECT kind FROM mcpsession.streams WHERE session_id = $1 AND kind = 'standalone'"
    assert [] == await fetch(cluster.database_url, left, client.session_id)

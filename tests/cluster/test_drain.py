"""SIGTERM: a replica leaves without anyone losing anything."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator

import anyio
import pytest

from examples.cluster import Cluster
from tests.cluster.client import Client, text_of
from tests.cluster.conftest import Connect, Files, fetch, heal, http_client

FAULTS = True
ENV = {"MCPSESSION_DRAIN_GRACE": "2"}


@pytest.fixture(autouse=True)
async def healthy(cluster: Cluster) -> AsyncIterator[None]:
    yield
    await heal(cluster)


async def end_well(cluster: Cluster, replica: int) -> None:
    """Send SIGTERM, and see the replica end as it should: nothing but its log is left."""
    code = await cluster.replicas[replica].terminate()
    log = cluster.log(replica)
    # uvicorn raises the signal again once it has shut down.
    assert code in (0, -signal.SIGTERM), log
    assert log.count("drained") == log.count("draining: ") > 0
    assert "Traceback" not in log, log
    rows = await fetch(cluster.database_url, "SELECT label FROM mcpsession.replicas WHERE dead_at IS NULL ORDER BY 1")
    assert [row[0] for row in rows] == [str(other) for other in range(3) if other != replica]


async def until_draining(cluster: Cluster, replica: int) -> None:
    async with http_client(cluster.replicas[replica].url) as http:
        with anyio.fail_after(10):
            while (await http.get("/healthz")).status_code != 503:
                pass


async def test_a_short_call_finishes_unnoticed_and_the_replica_ends_well(
    cluster: Cluster, client: Client, files: Files
) -> None:
    async with (
        anyio.create_task_group() as tasks,
        client.calling("wait", {"gate": files("gate")}, replica=2) as stream,
    ):
        await files.wait_for("gate.runs")
        tasks.start_soon(end_well, cluster, 2)
        await until_draining(cluster, 2)
        files.touch("gate")
        await stream.end()
    assert ["waited on 2"] == [text_of(final) for final in stream.finals]
    assert await client.call("whoami", replica=0) == "0"


async def test_a_call_longer_than_the_grace_ends_with_an_error(cluster: Cluster, client: Client, files: Files) -> None:
    async with (
        anyio.create_task_group() as tasks,
        client.calling("hang", {"name": files("hang")}, id=7, replica=2) as stream,
    ):
        await files.wait_for("hang.started")
        tasks.start_soon(end_well, cluster, 2)
        await stream.end()
    assert [7] == [final["id"] for final in stream.finals]
    assert "shutting down" in stream.finals[0]["error"]["message"]


async def test_open_streams_are_told_to_reconnect_and_no_session_begins(
    cluster: Cluster, client: Client, connect: Connect, files: Files
) -> None:
    other = await connect(replica=2)
    async with (
        anyio.create_task_group() as tasks,
        other.calling("wait", {"gate": files("gate")}, replica=2) as call,
        client.listening(replica=2) as stream,
    ):
        await stream.open()
        await files.wait_for("gate.runs")
        tasks.start_soon(end_well, cluster, 2)
        await stream.end()
        assert stream.error is None
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "n", "version": "1"}}
        async with http_client(cluster.replicas[2].url) as http:
            refused = await Client(http).post({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})
        assert refused.status_code == 503
        assert "shutting down" in refused.json()["error"]["message"]
        files.touch("gate")
        await call.end()
    async with client.listening(replica=1) as again:
        await client.call("tell", {"text": "on"}, replica=0)
        await again.until(lambda: again.messages)


async def test_an_idle_replica_ends_at_once_and_is_no_longer_listed(cluster: Cluster, client: Client) -> None:
    with anyio.fail_after(5):
        await end_well(cluster, 2)
    assert await client.call("count", replica=0) == "1"

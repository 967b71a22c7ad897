"""SIGTERM: a replica leaves without anyone losing anything."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from tempfile import TemporaryFile

import anyio
import pytest

from examples.cluster import ROOT, Cluster, reserved_ports
from tests.cluster.client import Client, text_of
from tests.cluster.conftest import Connect, Files, fetch, heal, http_client, until, until_rows

FAULTS = True
GRACE = 2.0
# Touches are written when a replica ends, or hardly ever.
ENV = {"MCPSESSION_DRAIN_GRACE": f"{GRACE:g}", "MCPSESSION_TOUCH_FLUSH": "600"}

ACTIVE = "SELECT last_active_at FROM mcpsession.sessions WHERE id = $1"
ALIVE = "SELECT label FROM mcpsession.replicas WHERE dead_at IS NULL ORDER BY 1"


@pytest.fixture(autouse=True)
async def healthy(cluster: Cluster) -> AsyncIterator[None]:
    yield
    await heal(cluster)


async def end_well(cluster: Cluster, replica: int) -> None:
    """Send SIGTERM, and see the replica end as it should: nothing but its log is left."""
    code = await cluster.replicas[replica].terminate()
    log = cluster.log(replica)
    assert code == 0, log
    assert log.count("drained") == log.count("draining: ") > 0
    assert "Traceback" not in log, log
    rows = await fetch(cluster.database_url, ALIVE)
    assert [row[0] for row in rows] == [str(other) for other in range(3) if other != replica]


async def until_draining(cluster: Cluster, replica: int) -> None:
    async with http_client(cluster.replicas[replica].url) as http:
        with anyio.fail_after(10):
            while (await http.get("/healthz")).status_code != 503:
                pass


async def test_f99_a_replica_is_not_ready_while_its_calls_still_run_and_ends_with_0(
    cluster: Cluster, client: Client, files: Files
) -> None:
    async with (
        anyio.create_task_group() as tasks,
        client.calling("wait", {"gate": files("gate")}, replica=2) as stream,
    ):
        await files.wait_for("gate.runs")
        tasks.start_soon(end_well, cluster, 2)
        await until_draining(cluster, 2)
        assert [] == stream.finals
        assert not stream.ended
        # A balancer that has not seen it yet still sends what is served.
        assert await client.call("whoami", replica=2) == "2"
        files.touch("gate")
        await stream.end()
    assert ["waited on 2"] == [text_of(final) for final in stream.finals]
    assert await client.call("whoami", replica=0) == "0"


async def test_f99_a_client_with_an_open_stream_and_a_short_call_notices_nothing_but_a_reconnect(
    cluster: Cluster, client: Client, files: Files
) -> None:
    async with (
        anyio.create_task_group() as tasks,
        client.calling("wait", {"gate": files("gate")}, replica=2) as call,
        client.listening(replica=2) as stream,
    ):
        await client.call("tell", {"text": "before"}, replica=0)
        await stream.until(lambda: stream.messages)
        await files.wait_for("gate.runs")
        tasks.start_soon(end_well, cluster, 2)
        await stream.end()
        assert stream.error is None
        assert [1000] == [frame.retry for frame in stream.frames if frame.retry is not None]
        await client.call("tell", {"text": "between"}, replica=0)
        async with client.listening(stream.last_id, replica=1) as again:
            await again.until(lambda: again.messages)
            files.touch("gate")
            await call.end()
            await client.call("tell", {"text": "after"}, replica=0)
            await again.until(lambda: len(again.messages) >= 2)
    assert ["waited on 2"] == [text_of(final) for final in call.finals]
    told = [message["params"]["data"] for message in stream.messages + again.messages]
    assert ["before", "between", "after"] == told


async def test_f99_a_call_longer_than_the_grace_ends_with_an_error(
    cluster: Cluster, client: Client, files: Files
) -> None:
    async with (
        anyio.create_task_group() as tasks,
        client.calling("hang", {"name": files("hang")}, id=7, replica=2) as stream,
    ):
        await files.wait_for("hang.started")
        began = anyio.current_time()
        tasks.start_soon(end_well, cluster, 2)
        await stream.end()
        assert GRACE <= anyio.current_time() - began
    assert [(7, -32000)] == [(final["id"], final["error"]["code"]) for final in stream.finals]
    assert "shutting down" in stream.finals[0]["error"]["message"]
    assert "whether it had effects is unknown" in stream.finals[0]["error"]["message"]


async def test_f99_no_session_begins_on_a_replica_that_drains(cluster: Cluster, connect: Connect, files: Files) -> None:
    other = await connect(replica=2)
    async with (
        anyio.create_task_group() as tasks,
        other.calling("wait", {"gate": files("gate")}, replica=2) as call,
    ):
        await files.wait_for("gate.runs")
        tasks.start_soon(end_well, cluster, 2)
        await until_draining(cluster, 2)
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "n", "version": "1"}}
        async with http_client(cluster.replicas[2].url) as http:
            refused = await Client(http).post({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})
        assert refused.status_code == 503
        assert "shutting down" in refused.json()["error"]["message"]
        files.touch("gate")
        await call.end()


async def test_f99_an_idle_replica_ends_at_once_and_has_written_its_touches(cluster: Cluster, client: Client) -> None:
    before = await fetch(cluster.database_url, ACTIVE, client.session_id)
    assert await client.call("whoami", replica=2) == "2"
    assert before == await fetch(cluster.database_url, ACTIVE, client.session_id)
    with anyio.fail_after(5):
        await end_well(cluster, 2)
    after = await fetch(cluster.database_url, ACTIVE, client.session_id)
    assert before[0][0] < after[0][0]
    assert await client.call("count", replica=0) == "1"


async def test_f99_a_second_sigterm_goes_to_the_server_itself(cluster: Cluster, client: Client, files: Files) -> None:
    async with client.calling("hang", {"name": files("hang")}, id=7, replica=2) as stream:
        await files.wait_for("hang.started")
        os.kill(cluster.replicas[2].pid, signal.SIGTERM)
        await until_draining(cluster, 2)
        assert await cluster.replicas[2].terminate() == -signal.SIGTERM
        await stream.end()
    assert [7] == [final["id"] for final in stream.finals]


async def test_f99_a_supervisor_of_several_workers_ends_them_all_and_itself_with_0(cluster: Cluster) -> None:
    """`uvicorn --workers 2`: the supervisor sends each worker a SIGTERM, and waits."""
    with reserved_ports(1) as [port], TemporaryFile() as log:
        arguments = ["tests.cluster.server:app", "--factory", "--workers=2", f"--port={port}"]
        env = {**os.environ, **ENV, "MCPSESSION_URL": cluster.database_url, "MCPSESSION_LABEL": "worker"}
        # A group of its own: whatever goes wrong here, no worker is left behind.
        supervisor = subprocess.Popen(  # noqa: ASYNC220  # it takes a moment, once
            [sys.executable, "-m", "uvicorn", *arguments], stdout=log, stderr=log, env=env, cwd=ROOT,
            start_new_session=True,
        )  # fmt: skip
        try:
            two = f"SELECT 1 FROM ({ALIVE}) AS alive WHERE label = 'worker' HAVING count(*) = 2"
            await until_rows(cluster.database_url, two, within=60)
            async with http_client(f"http://127.0.0.1:{port}") as http:
                assert (await http.get("/healthz")).status_code == 200
            supervisor.terminate()
            await until(lambda: supervisor.poll() is not None, within=30)
            log.seek(0)
            text = log.read().decode()
            assert supervisor.returncode == 0, text
            assert text.count("drained") == 2, text
            assert "Traceback" not in text, text
            assert "worker" not in {row[0] for row in await fetch(cluster.database_url, ALIVE)}
        finally:
            with suppress(ProcessLookupError):
                os.killpg(supervisor.pid, signal.SIGKILL)
            supervisor.wait()

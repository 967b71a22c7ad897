"""Postgres cuts connections, or goes and comes back: nothing that was promised is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import httpx2
import pytest

from examples.cluster import Cluster, run_cluster
from mcpsession.postgres.embedded import EmbeddedPostgres
from tests.cluster.client import Client, Message, text_of
from tests.cluster.conftest import APP, Connect, Files, fetch, http_client

FAULTS = True
TOOLS = "notifications/tools/list_changed"

LISTENERS = "datname = current_database() AND pid <> pg_backend_pid() AND query ILIKE 'LISTEN %'"
OURS = "datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE 'mcpsession%'"


async def deafen(cluster: Cluster) -> int:
    """End the listening connection of every replica, and return how many there were."""
    # Only the other end of the connection counts: what was rung before is gone with it.
    rows = await fetch(
        cluster.database_url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {LISTENERS}"
    )
    return len(rows)


async def until_served(client: Client, replica: int) -> None:
    """A 503 is no loss: it says that the request was not taken."""
    with anyio.fail_after(20):
        while (status := await client.status(replica=replica)) != 200:
            assert status == 503
            await anyio.sleep(0.05)


async def resumed(client: Client, cursor: str, *, replica: int) -> list[Message]:
    """What a client hears that resumes, and comes back as long as it is told to: `retry`, and no answer."""
    with anyio.fail_after(20):
        while True:
            async with client.listening(cursor, replica=replica) as stream:
                await stream.end()
            assert stream.status == 200, stream
            if stream.finals:
                return stream.messages
            assert (stream.messages, stream.frames[-1].retry) == ([], 5000), stream


async def test_there_is_one_listener_a_replica(cluster: Cluster, client: Client) -> None:
    assert 3 == len(await fetch(cluster.database_url, f"SELECT pid FROM pg_stat_activity WHERE {LISTENERS}"))


async def test_a_delete_while_nobody_hears_is_404_everywhere_when_it_is_answered(
    cluster: Cluster, connect: Connect
) -> None:
    for _ in range(3):
        client = await connect(replica=0)
        assert [await client.status(replica=replica) for replica in (0, 1, 2)] == [200, 200, 200]
        await deafen(cluster)
        assert (await client.delete(replica=0)).status_code == 200
        assert [await client.status(replica=replica) for replica in (1, 2, 0)] == [404, 404, 404]


async def test_what_is_sent_while_nobody_hears_arrives(
    cluster: Cluster, client: Client, connect: Connect, files: Files
) -> None:
    other = await connect(replica=1)
    async with (
        client.calling("elicit", {"question": "well?"}, replica=0) as asking,
        client.calling("hang", {"name": files("hang")}, id=77, replica=2) as hanging,
        client.listening(replica=1) as mine,
        other.listening(replica=2) as others,
    ):
        question = await asking.ask("elicitation/create")
        await files.wait_for("hang.started")
        await mine.open()
        await others.open()

        assert await deafen(cluster) >= 1
        assert (await client.accept(question, "heard", replica=1)).status_code == 202
        assert (await client.cancel(77, replica=1)).status_code == 202
        await client.call("announce", replica=0)
        await client.call("tell", {"text": "told"}, replica=0)

        await asking.end()
        await hanging.end()
        await mine.until(lambda: {TOOLS, "notifications/message"} <= set(mine.methods))
        await others.until(lambda: TOOLS in others.methods)
    assert ["accept heard on 0"] == [text_of(final) for final in asking.finals]
    assert [-32800] == [final["error"]["code"] for final in hanging.finals]


async def test_a_resumed_stream_goes_on_while_nobody_hears(cluster: Cluster, client: Client, files: Files) -> None:
    files.touch("gate.1")
    async with client.calling("talk", {"steps": 3, "gate": files("gate")}, id=7, replica=0) as before:
        await before.until(lambda: before.steps == [1])
    async with client.listening(before.last_id, replica=1) as after:
        await after.open()
        await deafen(cluster)
        files.touch("gate.2", "gate.3", "gate.end")
        await after.end()
    assert [1, 2, 3] == before.steps + after.steps
    assert 1 == len(after.finals)


async def test_every_connection_cut_under_running_calls_loses_nothing(
    cluster: Cluster, client: Client, files: Files
) -> None:
    files.touch("gate.1")
    async with client.calling("talk", {"steps": 3, "gate": files("gate")}, id=7, replica=0) as stream:
        await stream.until(lambda: stream.steps == [1])
        await fetch(cluster.database_url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS}")
        files.touch("gate.2", "gate.3", "gate.end")
        await stream.end()
    assert [1, 2, 3] == stream.steps
    assert 1 == len(stream.finals)
    assert stream.messages == await resumed(client, stream.ids[0], replica=1)
    await until_served(client, 2)
    assert await client.call("count", replica=2) == "1"


# A Postgres of one's own


@pytest.fixture
async def own_cluster(own_postgres: EmbeddedPostgres, files: Files) -> AsyncIterator[Cluster]:
    env = {"CLUSTER_FILES": str(files.root)}
    async with run_cluster(APP, replicas=2, database_url=own_postgres.url, env=env) as cluster:
        yield cluster


@pytest.fixture
async def own_http(own_cluster: Cluster) -> AsyncIterator[httpx2.AsyncClient]:
    async with http_client(own_cluster.url) as client:
        yield client


@pytest.mark.parametrize("how", ["restart", "crash"])
async def test_calls_in_flight_survive_a_postgres_that_goes_and_comes_back(
    own_postgres: EmbeddedPostgres, own_cluster: Cluster, own_http: httpx2.AsyncClient, files: Files, how: str
) -> None:
    client = Client(own_http)
    await client.initialize(replica=0)
    assert await client.call("count", replica=0) == "1"
    ids = [row[0] for row in await fetch(own_postgres.url, "SELECT id FROM mcpsession.replicas ORDER BY 1")]
    files.touch("gate.1")
    async with (
        client.calling("talk", {"steps": 3, "gate": files("gate")}, id=7, replica=0) as talking,
        client.calling("elicit", {"question": "well?"}, replica=1) as asking,
        client.listening(replica=1) as standalone,
    ):
        await talking.until(lambda: talking.steps == [1])
        question = await asking.ask("elicitation/create")
        await standalone.open()

        if how == "restart":
            own_postgres.stop()
        else:
            own_postgres.kill()
        files.touch("gate.2")
        assert (await client.accept(question, "too early", replica=0)).status_code == 503
        own_postgres.start()

        await until_served(client, 0)
        await until_served(client, 1)
        files.touch("gate.3", "gate.end")
        await talking.end()
        assert (await client.accept(question, "in time", replica=0)).status_code == 202
        await asking.end()
        await client.call("announce", replica=0)
        await standalone.until(lambda: TOOLS in standalone.methods)

    assert [1, 2, 3] == talking.steps
    assert ["talked 3 on 0"] == [text_of(final) for final in talking.finals]
    assert ["accept in time on 1"] == [text_of(final) for final in asking.finals]
    assert await client.call("count", replica=1) == "2"
    async with client.listening(talking.ids[0], replica=1) as again:
        await again.end()
    assert again.messages == talking.messages
    # Nobody was taken for dead.
    assert ids == [row[0] for row in await fetch(own_postgres.url, "SELECT id FROM mcpsession.replicas ORDER BY 1")]


async def test_a_resume_while_postgres_is_away_is_told_to_come_back(
    own_postgres: EmbeddedPostgres, own_cluster: Cluster, own_http: httpx2.AsyncClient, files: Files
) -> None:
    """Clients give up after two 5xx; an empty stream with `retry` they take for a cut."""
    client = Client(own_http)
    await client.initialize(replica=0)
    async with client.calling("wait", {"gate": files("gate")}, id=7, replica=0) as cut:
        await cut.until(lambda: cut.ids)
    own_postgres.stop()
    async with client.listening(cut.last_id, replica=1) as away:
        await away.end()
    assert (away.status, away.finals) == (200, [])
    assert 5000 == away.frames[-1].retry
    files.touch("gate")
    own_postgres.start()
    await until_served(client, 1)
    async with client.listening(cut.last_id, replica=1) as back:
        await back.end()
    assert ["waited on 0"] == [text_of(final) for final in back.finals]


async def test_new_requests_while_postgres_is_away_get_503_or_an_answer_and_the_session_stays(
    own_postgres: EmbeddedPostgres, own_cluster: Cluster, own_http: httpx2.AsyncClient
) -> None:
    client = Client(own_http)
    await client.initialize(replica=0)
    own_postgres.stop()
    with anyio.fail_after(10):
        while (await client.post({"jsonrpc": "2.0", "id": "p", "method": "ping"}, replica=1)).status_code != 503:
            pass
    refused = await client.delete(replica=0)
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) > 0
    assert "The session store is away" in refused.json()["error"]["message"]
    own_postgres.start()
    await until_served(client, 0)
    await until_served(client, 1)
    assert await client.call("count", replica=1) == "1"

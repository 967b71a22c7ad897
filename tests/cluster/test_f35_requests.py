"""Requests under way on several real replicas: seen from all, stopped from any, gone with the replica that had them."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator

import anyio
import pytest

from examples.cluster import Cluster
from tests.cluster.client import DEADLINE, Client
from tests.cluster.conftest import Files, fetch, heal, until_rows

APP = "tests.cluster.requesting:app"
FAULTS = True
CANCELLED = -32800

DEAD = "SELECT id FROM mcpsession.replicas WHERE id = $1 AND dead_at IS NOT NULL"
TRACKED = "SELECT request_ids FROM mcpsession.streams WHERE session_id = $1 AND kind = 'tracked'"


@pytest.fixture(autouse=True)
async def healthy(cluster: Cluster) -> AsyncIterator[None]:
    yield
    await heal(cluster)


async def running(client: Client, replica: int) -> dict[str, str]:
    """What is under way for the session, but for the look itself."""
    found: dict[str, str] = json.loads(await client.call("running", replica=replica))
    return {key: method for key, method in found.items() if int(key) < 1000}


async def test_f35_a_cancel_on_one_replica_stops_the_tool_on_another_and_says_how_long_it_ran(
    client: Client, files: Files
) -> None:
    began = time.monotonic()
    async with client.calling("hang", {"name": files("hang")}, id=7, replica=0) as stream:
        await files.wait_for("hang.started")
        # Its priming frame: it is in the log.
        await stream.until(lambda: stream.ids)
        assert await running(client, 1) == {"7": "tools/call"}
        duration = await client.call("cancel", {"key": 7, "reason": "enough of it"}, replica=1)
        lasted = time.monotonic() - began
        await stream.end()
        assert await files.wait_for("hang.stopped") == ["0"]
    assert 0 < float(duration) < lasted
    (final,) = stream.finals
    assert (7, CANCELLED) == (final["id"], final["error"]["code"])
    assert "enough of it" in final["error"]["message"]
    # Its client has its answer a moment before the log has.
    with anyio.fail_after(DEADLINE):
        while await running(client, 1):  # noqa: ASYNC110 (a log announces nothing)
            await anyio.sleep(0.01)
    assert await client.call("cancel", {"key": 7, "reason": "again"}, replica=1) == ""
    assert await client.call("cancel", {"key": 8, "reason": "never was"}, replica=2) == ""
    assert await running(client, 2) == {}


async def test_f34_what_a_killed_replica_tracked_and_ran_is_gone_once_it_is_known_to_be_dead(
    cluster: Cluster, client: Client, files: Files
) -> None:
    dead = await client.call("track", {"key": "1"}, replica=2)
    await client.call("track", {"key": "2"}, replica=1)
    async with client.calling("hang", {"name": files("hang")}, id=7, replica=2) as stream:
        await stream.until(lambda: stream.ids)
        assert await running(client, 0) == {"1": "jobs/run", "2": "jobs/run", "7": "tools/call"}
        await cluster.replicas[2].kill()
        await until_rows(cluster.database_url, DEAD, dead)
        assert await running(client, 0) == {"2": "jobs/run"}
    # And its row goes with it, while the other's stays.
    await until_rows(
        cluster.database_url, f"SELECT 1 FROM ({TRACKED}) AS left_over HAVING count(*) = 1", client.session_id
    )
    assert [['"2"']] == [row[0] for row in await fetch(cluster.database_url, TRACKED, client.session_id)]
    # The id is free on the replica that comes after it.
    await heal(cluster)
    assert await client.call("track", {"key": "1"}, replica=2) != dead

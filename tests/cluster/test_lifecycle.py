"""A session's beginning, its state and its end, over three replicas."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from examples.cluster import Cluster, ProcessFailedError, ReplicaProcess, reserved_ports, run_cluster
from tests.cluster.client import Client, error_of, text_of
from tests.cluster.conftest import APP, Connect, Files, fetch, http_client, until

NOT_FOUND = "Session not found: it never existed, expired, or was ended. Start a new one with initialize."


async def test_a_session_is_served_by_every_replica(client: Client) -> None:
    assert [await client.call("whoami", replica=replica) for replica in (2, 1, 0, 1)] == ["2", "1", "0", "1"]


async def test_a_session_begun_anywhere_has_its_first_call_anywhere(connect: Connect) -> None:
    for begun in (0, 1, 2):
        client = await connect(replica=begun)
        assert await client.call("count", replica=(begun + 1) % 3) == "1"


@pytest.mark.parametrize("version", ["2025-03-26", "2025-06-18", "2025-11-25"])
async def test_every_version_of_the_handshake_era_is_served(connect: Connect, version: str) -> None:
    client = await connect(version=version, replica=0)
    assert await client.call("whoami", replica=1) == "1"


async def test_the_state_of_one_call_is_seen_by_the_next_on_another_replica(client: Client) -> None:
    counts = [await client.call("count", replica=turn % 3) for turn in range(9)]
    assert counts == [str(number) for number in range(1, 10)]


async def test_state_is_seen_by_the_next_request_elsewhere_a_thousand_times_out_of_a_thousand(
    connect: Connect,
) -> None:
    seen: list[list[str]] = []

    async def count(client: Client) -> None:
        seen.append([await client.call("count", replica=turn % 3) for turn in range(250)])

    async with anyio.create_task_group() as tasks:
        for client in [await connect(replica=number % 3) for number in range(4)]:
            tasks.start_soon(count, client)

    assert [[str(number) for number in range(1, 251)]] * 4 == seen


async def test_fifty_writers_of_fifty_keys_over_three_replicas_lose_none(client: Client, files: Files) -> None:
    wrote: list[str] = []

    async def put(number: int) -> None:
        arguments = {"key": f"key-{number:02}", "at": files("barrier")}
        wrote.append(await client.call("put", arguments, replica=number % 3))

    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(put, number)
        # All have read the state before anyone writes it.
        await files.wait_for("barrier.read", lines=50)
        files.touch("barrier.write")

    assert 50 == len(wrote)
    assert ",".join(f"key-{number:02}" for number in range(50)) == await client.call("keys", replica=0)


# The end


async def test_a_delete_is_known_everywhere_when_it_is_answered(client: Client) -> None:
    # In every replica's cache.
    assert [await client.status(replica=replica) for replica in (0, 1, 2)] == [200, 200, 200]

    assert (await client.delete(replica=0)).status_code == 200
    assert [await client.status(replica=replica) for replica in (1, 2, 0)] == [404, 404, 404]
    for replica in (0, 1, 2):
        assert (await client.delete(replica=replica)).status_code == 404


async def test_the_body_of_the_404_says_what_to_do(client: Client) -> None:
    await client.delete(replica=0)
    for response in (
        await client.delete(replica=1),
        await client.get(replica=1, headers={"accept": "text/event-stream"}),
        await client.notify("notifications/roots/list_changed", replica=2),
        await client.answer("f" * 18 + "-" + "0" * 24, {}, replica=2),
    ):
        assert response.status_code == 404
        assert error_of(response) == {"code": -32600, "message": NOT_FOUND}


async def test_two_deletes_at_once_end_the_session_once(client: Client) -> None:
    statuses: list[int] = []

    async def delete(replica: int) -> None:
        statuses.append((await client.delete(replica=replica)).status_code)

    async with anyio.create_task_group() as tasks:
        for replica in (0, 1, 2):
            tasks.start_soon(delete, replica)
    assert [200, 404, 404] == sorted(statuses)


async def test_a_delete_ends_calls_on_other_replicas_with_an_error(client: Client, files: Files) -> None:
    async with client.calling("hang", {"name": files("hang")}, id=7, replica=1) as stream:
        await files.wait_for("hang.started")
        assert (await client.delete(replica=0)).status_code == 200
        await stream.end()
    assert [(7, "Session ended")] == [(final["id"], final["error"]["message"]) for final in stream.finals]
    await files.wait_for("hang.stopped")


async def test_many_deletes_against_cached_sessions_leave_no_replica_behind(connect: Connect) -> None:
    for turn in range(15):
        client = await connect(replica=turn % 3)
        assert [await client.status(replica=replica) for replica in (0, 1, 2)] == [200, 200, 200]
        assert (await client.delete(replica=turn % 3)).status_code == 200
        assert [404, 404, 404] == [await client.status(replica=replica) for replica in (0, 1, 2)]


# The same request twice


async def test_a_duplicate_on_the_same_replica_is_refused_and_the_first_goes_on(client: Client, files: Files) -> None:
    async with client.calling("wait", {"gate": files("gate")}, id=7, replica=0) as first:
        await files.wait_for("gate.runs")
        async with client.calling("wait", {"gate": files("gate")}, id=7, replica=0) as second:
            await second.end()
        files.touch("gate")
        await first.end()
    assert ["waited on 0"] == [text_of(final) for final in first.finals]
    assert second.status == 400
    assert b"Duplicate request id" in second.body
    assert ["0"] == files.lines("gate.runs")


async def test_a_duplicate_on_two_replicas_at_once_gets_one_answer_and_one_refusal(
    client: Client, files: Files
) -> None:
    """Not exactly once: the second run may have begun before the log refuses it, and is cancelled then."""
    async with (
        client.calling("wait", {"gate": files("gate")}, id=7, replica=0) as one,
        client.calling("wait", {"gate": files("gate")}, id=7, replica=1) as two,
    ):
        await until(lambda: one.ended or two.ended)
        refused, running = (one, two) if one.ended else (two, one)
        files.touch("gate")
        await running.end()
    assert refused.status == 400
    assert b"Duplicate request id" in refused.body
    assert 1 == len(running.finals)
    assert text_of(running.finals[0]).startswith("waited on ")
    assert len(files.lines("gate.runs")) in (1, 2)


async def test_an_id_can_be_used_again_after_its_answer(client: Client) -> None:
    for replica in (0, 1, 0):
        async with client.calling("whoami", id="again", replica=replica) as stream:
            await stream.end()
        assert [str(replica)] == [text_of(final) for final in stream.finals]


async def test_the_number_7_and_the_text_7_are_two_requests_on_two_replicas(client: Client, files: Files) -> None:
    async with client.calling("wait", {"gate": files("gate")}, id=7, replica=0) as number:
        await files.wait_for("gate.runs")
        async with client.calling("whoami", id="7", replica=1) as text:
            await text.end()
        files.touch("gate")
        await number.end()
    assert ([7], ["7"]) == ([f["id"] for f in number.finals], [f["id"] for f in text.finals])


# Replicas


async def test_two_replicas_start_on_an_empty_database_at_once(database_url: str) -> None:
    async with run_cluster(APP, replicas=2, database_url=database_url) as cluster, http_client(cluster.url) as http:
        client = Client(http)
        await client.initialize(replica=0)
        assert [await client.call("whoami", replica=replica) for replica in (0, 1)] == ["0", "1"]
        labels = await fetch(database_url, "SELECT label FROM mcpsession.replicas WHERE dead_at IS NULL ORDER BY 1")
        assert ["0", "1"] == [row[0] for row in labels]


async def test_replicas_refuse_to_start_without_a_schema_and_name_the_command(
    empty_database_url: str, tmp_path: Path
) -> None:
    with reserved_ports(3) as ports:
        replicas = [
            ReplicaProcess(
                index, app=APP, port=port, log_file=tmp_path / str(index), env={"MCPSESSION_URL": empty_database_url}
            )
            for index, port in enumerate(ports)
        ]
        for replica in replicas:
            replica.start()
        try:
            for replica in replicas:
                with pytest.raises(ProcessFailedError, match="no mcpsession schema; run: mcpsession migrate --url"):
                    await replica.ready()
        finally:
            for replica in replicas:
                replica.end()


async def test_health_is_public_and_says_one_word(client: Client, cluster: Cluster) -> None:
    async with http_client(cluster.url) as http:
        for replica in (0, 1, 2):
            response = await http.get("/healthz", headers={"x-replica": str(replica)})
            assert (response.status_code, response.json()) == (200, {"status": "ok"})

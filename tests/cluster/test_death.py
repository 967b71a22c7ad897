"""Replicas that die, freeze or block: every call ends once, and the session goes on."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator

import anyio
import httpx2
import pytest

from examples.cluster import Cluster
from tests.cluster.client import Client, Stream, text_of
from tests.cluster.conftest import Connect, Files, fetch, heal, until_rows

FAULTS = True
# The cluster's front has a keep-alive of its own; the streams must be seen to end by themselves.
ENV = {"MCPSESSION_DEAD_AFTER": "3", "MCPSESSION_BEAT": "0.5"}
UNKNOWN = "whether the call had effects is unknown"

# The living incarnation of a replica.
ALIVE = "SELECT id FROM mcpsession.replicas WHERE label = $1 AND dead_at IS NULL"
EVENTS = "SELECT seq, message FROM mcpsession.events WHERE session_id = $1 AND stream_id = $2 ORDER BY seq"
DEAD = "SELECT id FROM mcpsession.replicas WHERE id = $1 AND dead_at IS NOT NULL"


@pytest.fixture(autouse=True)
async def healthy(cluster: Cluster) -> AsyncIterator[None]:
    yield
    await heal(cluster)


async def incarnation(cluster: Cluster, replica: int) -> str:
    """The id under which a replica lives."""
    rows = await until_rows(cluster.database_url, f"{ALIVE} ORDER BY started_at DESC", str(replica))
    return str(rows[0][0])


def unfolded(log: str) -> str:
    """A log without what the SDK's handler puts into it: the place in the code, and breaks of lines."""
    return " ".join(re.sub(r"\w+\.py:\d+", "", log).split())


def assert_unknown(final: dict[str, object], request_id: object) -> None:
    assert final["id"] == request_id
    assert UNKNOWN in str(final["error"])


async def running(client: Client, files: Files, replica: int) -> Stream:
    """A call that runs on a replica, with its client cut off after the first step."""
    files.touch("gate.1")
    async with client.calling("talk", {"steps": 3, "gate": files("gate")}, id=7, replica=replica) as stream:
        await stream.until(lambda: stream.steps == [1])
    return stream


async def test_a_call_of_a_killed_replica_ends_with_one_error_at_the_resume_elsewhere(
    cluster: Cluster, client: Client, files: Files
) -> None:
    before = await running(client, files, 2)
    await cluster.replicas[2].kill()
    killed = time.monotonic()

    async with client.listening(before.last_id, replica=0) as after:
        await after.end(10)
    # 3 s until it is declared dead, and what a look takes; a margin for a machine that does other things too.
    assert time.monotonic() - killed < 6
    assert 1 == len(after.messages)
    assert_unknown(after.messages[0], 7)

    assert await client.call("count", replica=0) == "1"
    assert await client.call("count", replica=1) == "2"


async def test_two_clients_that_resume_a_dead_replicas_call_see_the_same_single_final(
    cluster: Cluster, client: Client, files: Files
) -> None:
    before = await running(client, files, 2)
    await cluster.replicas[2].kill()
    ends: list[Stream] = []

    async def resume(replica: int) -> None:
        async with client.listening(before.last_id, replica=replica) as stream:
            await stream.end()
        # The older reader lets go for the newer one; its client comes back.
        if not stream.finals:
            async with client.listening(before.last_id, replica=replica) as stream:
                await stream.end()
        ends.append(stream)

    async with anyio.create_task_group() as tasks:
        for replica in (0, 1):
            tasks.start_soon(resume, replica)
    assert [1, 1] == [len(stream.finals) for stream in ends]
    assert ends[0].messages == ends[1].messages
    assert ends[0].ids[-1] == ends[1].ids[-1]

    query = "SELECT message FROM mcpsession.events WHERE session_id = $1 AND message LIKE '%\"id\":7,%'"
    finals = [row for row in await fetch(cluster.database_url, query, client.session_id) if "error" in row[0]]
    assert 1 == len(finals)


async def test_streams_of_a_dead_replica_are_finished_though_nobody_resumes(
    cluster: Cluster, client: Client, files: Files
) -> None:
    await running(client, files, 2)
    await cluster.replicas[2].kill()
    query = "SELECT 1 FROM mcpsession.streams WHERE session_id = $1 AND taken_over AND finished_at IS NOT NULL"
    await until_rows(cluster.database_url, query, client.session_id)


async def test_an_answer_for_a_dead_replica_is_400_and_the_session_goes_on(cluster: Cluster, client: Client) -> None:
    async with client.calling("elicit", {"question": "well?"}, id=7, replica=2) as stream:
        question = await stream.ask("elicitation/create")
        dead = await incarnation(cluster, 2)
        await cluster.replicas[2].kill()
        await stream.end()
    await until_rows(cluster.database_url, DEAD, dead)

    refused = await client.accept(question, "too late", replica=0)
    assert refused.status_code == 400
    assert refused.json()["error"]["message"].startswith("Nobody waits for this answer")
    assert await client.status(replica=1) == 200


async def test_a_question_of_a_dead_replica_is_not_asked_again_at_the_resume(cluster: Cluster, client: Client) -> None:
    async with client.calling("elicit", {"question": "well?"}, id=7, replica=2) as stream:
        await stream.ask("elicitation/create")
    await cluster.replicas[2].kill()
    async with client.listening(stream.ids[0], replica=0) as after:
        await after.end()
    assert after.methods in ([], ["elicitation/create"])
    assert_unknown(after.messages[-1], 7)


async def test_a_standalone_stream_of_a_killed_replica_is_taken_over_with_nothing_lost(
    cluster: Cluster, client: Client
) -> None:
    async with client.listening(replica=2) as old:
        await client.call("tell", {"text": "before"}, replica=0)
        await old.until(lambda: old.messages)
        await cluster.replicas[2].kill()
        await old.end()
    await client.call("tell", {"text": "between"}, replica=0)
    await client.call("announce", {"kind": "prompts"}, replica=1)
    async with client.listening(old.last_id, replica=1) as new:
        await new.until(lambda: len(new.messages) == 2)
    assert sorted(new.methods) == ["notifications/message", "notifications/prompts/list_changed"]
    assert "between" in str(new.messages)


async def test_f96_what_a_killed_replica_knew_of_a_session_goes_on_elsewhere(cluster: Cluster, client: Client) -> None:
    for key in ("a", "b", "c"):
        await client.call("put", {"key": key}, replica=2)
    await cluster.replicas[2].kill()
    assert await client.call("keys", replica=0) == "a,b,c"
    assert await client.call("keys", replica=1) == "a,b,c"


async def test_f97_a_killed_replica_is_recorded_dead_within_5_s_and_neither_holds_nor_writes_a_stream_any_more(
    cluster: Cluster, client: Client, files: Files
) -> None:
    await running(client, files, 2)
    async with client.listening(replica=2) as standalone:
        await standalone.until(lambda: standalone.frames)
        dead = await incarnation(cluster, 2)
        await cluster.replicas[2].kill()
        await until_rows(cluster.database_url, DEAD, dead, within=5)
        await standalone.end()

    unfinished = "SELECT id FROM mcpsession.streams WHERE producer = $1 AND finished_at IS NULL"
    with anyio.fail_after(5):
        while await fetch(cluster.database_url, unfinished, dead):  # noqa: ASYNC110 (rows announce nothing)
            await anyio.sleep(0.05)
    # To take over from one who is dead is no fight.
    for replica in (0, 1, 0):
        async with client.listening(replica=replica) as stream:
            await stream.until(lambda stream=stream: stream.ids)  # type: ignore[misc]
        assert stream.status == 200


async def test_f96_a_restarted_replica_serves_the_sessions_of_its_former_life(cluster: Cluster, client: Client) -> None:
    assert await client.call("count", replica=2) == "1"
    await cluster.replicas[2].kill()
    await cluster.replicas[2].restart()
    assert await client.call("count", replica=2) == "2"


async def test_a_delete_waits_no_longer_than_the_lease_for_a_killed_replica(cluster: Cluster, client: Client) -> None:
    assert await client.status(replica=2) == 200
    await cluster.replicas[2].kill()
    began = time.monotonic()
    assert (await client.delete(replica=0)).status_code == 200
    assert time.monotonic() - began < 4
    assert await client.status(replica=1) == 404


# Frozen, and back


async def test_a_replica_frozen_for_too_long_goes_on_as_someone_new(
    cluster: Cluster, client: Client, connect: Connect, files: Files
) -> None:
    other = await connect(replica=2)
    files.touch("gate.1", "other")
    async with (
        client.calling("talk", {"steps": 3, "gate": files("gate")}, id=7, replica=2) as old,
        other.listening(replica=2) as standalone,
    ):
        await old.until(lambda: old.steps == [1])
        await standalone.until(lambda: standalone.frames)
        frozen = await incarnation(cluster, 2)
        logged = len(cluster.log(2))
        cluster.replicas[2].pause()
        sent = old.body, standalone.body
        try:
            await until_rows(cluster.database_url, DEAD, frozen)
            async with client.listening(old.last_id, replica=0) as after:
                await after.end()
        finally:
            # What it would write now comes too late.
            files.touch("gate.2", "gate.3", "gate.end")
            cluster.replicas[2].resume()
        assert_unknown(after.finals[0], 7)
        stream = client.session_id, old.ids[0].split(".")[0]
        closed = await fetch(cluster.database_url, EVENTS, *stream)
        await old.end()
        await standalone.end()

    # Of its old sockets nothing comes any more but the end.
    assert sent == (old.body, standalone.body)
    assert ([1], []) == (old.steps, old.finals)

    renamed = await incarnation(cluster, 2)
    assert frozen != renamed
    log = unfolded(cluster.log(2)[logged:])
    assert f"replica {frozen} was declared dead while it lived; it goes on as {renamed}" in log
    assert f"cut everything of the old incarnation; serving on as {renamed}" in log
    # Whatever its handler still said: in the stream that others have closed there is nothing new.
    assert await client.call("whoami", replica=2) == "2"
    assert closed == await fetch(cluster.database_url, EVENTS, *stream)
    async with client.listening(old.ids[0], replica=1) as whole:
        await whole.end()
    assert [1] == whole.steps
    assert 1 == len(whole.finals)

    assert await client.call("count", replica=2) == "1"
    assert await client.call("count", replica=0) == "2"
    # It hears again, too: under its new name.
    async with client.calling("elicit", {"question": "well?"}, replica=2) as stream:
        question = await stream.ask("elicitation/create")
        assert (await client.accept(question, "yes", replica=0)).status_code == 202
        await stream.end()
    assert ["accept yes on 2"] == [text_of(final) for final in stream.finals]


async def test_a_session_deleted_while_a_replica_was_frozen_is_404_there_at_once(
    cluster: Cluster, client: Client
) -> None:
    assert await client.status(replica=2) == 200
    cluster.replicas[2].pause()
    try:
        assert (await client.delete(replica=0)).status_code == 200
    finally:
        cluster.replicas[2].resume()
    assert await client.status(replica=2) == 404


# Blocked


async def test_a_tool_that_blocks_the_event_loop_kills_nobody(
    cluster: Cluster, client: Client, connect: Connect, http: httpx2.AsyncClient
) -> None:
    before = [await incarnation(cluster, replica) for replica in (0, 1, 2)]
    other = await connect(replica=0)
    async with client.calling("block", {"seconds": 6}, id=7, replica=2) as stream:
        await client.status(replica=0)
        assert await other.call("whoami", replica=1) == "1"
        await stream.end(20)
    assert ["unblocked"] == [text_of(final) for final in stream.finals]
    assert before == [await incarnation(cluster, replica) for replica in (0, 1, 2)]
    assert await client.call("whoami", replica=2) == "2"
    dead = "SELECT id FROM mcpsession.replicas WHERE dead_at IS NOT NULL AND id = ANY($1)"
    assert [] == await fetch(cluster.database_url, dead, before)

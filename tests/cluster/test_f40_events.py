"""The application's event log between processes: one order for all, whatever is cut or killed. F40."""

from __future__ import annotations

import anyio
import httpx2
import pytest

from examples.cluster import Cluster
from tests.cluster.client import Client
from tests.cluster.conftest import Connect, Files, fetch, until

FAULTS = True
APP = "tests.cluster.eventlog:app"
ENV = {"MCPSESSION_MAX_EVENTS": "100000", "MCPSESSION_DEAD_AFTER": "2", "MCPSESSION_BEAT": "0.4"}

LISTENERS = "datname = current_database() AND application_name LIKE 'mcpsession%' AND query LIKE 'LISTEN%'"
TERMINATE = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {LISTENERS}"
EACH, WRITERS = 40, 8


def rows(lines: list[str]) -> list[tuple[int, int, int]]:
    """Number, writer, and the writer's own count."""
    return [(int(seq), int(writer), int(n)) for seq, writer, n in (line.split() for line in lines)]


async def test_f40_a_tail_in_a_third_process_sees_each_event_once_in_order_while_listeners_and_a_writer_are_killed(
    cluster: Cluster, connect: Connect, files: Files
) -> None:
    client: Client = await connect(replica=0)
    session = client.session_id
    killed = 0

    async def write(writer: int) -> None:
        # Odd ones write in the process that is killed.
        arguments = {"session_id": session, "writer": writer, "count": EACH, "name": files("acks")}
        if writer % 2 == 0:
            assert "written" == await client.call("write", arguments, replica=0)
            return
        with pytest.raises((httpx2.HTTPError, AssertionError)):
            await client.call("write", {**arguments, "count": 100_000}, replica=1)

    async def tail(told: list[str]) -> None:
        told.append(await client.call("tail", {"session_id": session, "name": files("tail")}, replica=2))

    told: list[str] = []
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tailing:
            tailing.start_soon(tail, told)
            await files.wait_for("tail")
            async with anyio.create_task_group() as writing:
                for writer in range(WRITERS):
                    writing.start_soon(write, writer)
                for _ in range(3):
                    killed += len(await fetch(cluster.database_url, TERMINATE))
                    await anyio.sleep(0.05)
                await until(lambda: len([row for row in rows(files.lines("acks")) if row[1] % 2]) >= EACH)
                await cluster.replicas[1].kill()
            last = int(await client.call("end", {"session_id": session}, replica=0))
    assert ["read"] == told
    assert killed >= 3

    seen = rows(files.lines("tail")[1:])
    assert [*range(1, last)] == [seq for seq, _, _ in seen]
    # What was acknowledged is there, under the number that was told.
    acknowledged = rows(files.lines("acks"))
    assert set() == set(acknowledged) - set(seen)
    for writer in range(WRITERS):
        mine = [n for _, by, n in seen if by == writer]
        assert [*range(len(mine))] == mine
        # What a killed writer has appended beyond that is what it could not say any more: one event.
        said = sum(1 for _, by, _ in acknowledged if by == writer)
        assert len(mine) - said in ((0, 1) if writer % 2 else (0,))
    assert [EACH] * 4 == [sum(1 for _, by, _ in seen if by == writer) for writer in range(0, WRITERS, 2)]

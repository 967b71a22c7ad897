"""Control messages between processes: applied once by all others, whoever is cut off, frozen, down or dies. F81."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from examples.cluster import Cluster
from tests.cluster.client import Client
from tests.cluster.conftest import Connect, fetch, heal, until, until_rows
from tests.cluster.control import applied

FAULTS = True
APP = "tests.cluster.control:app"
ENV = {"MCPSESSION_DEAD_AFTER": "2", "MCPSESSION_BEAT": "0.4"}

LISTENERS = "datname = current_database() AND application_name LIKE 'mcpsession%' AND query LIKE 'LISTEN%'"
TERMINATE = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {LISTENERS}"
DEAD = "SELECT id FROM mcpsession.replicas WHERE label = $1 AND dead_at IS NOT NULL"
ALIVE = "SELECT id FROM mcpsession.replicas WHERE label = $1 AND dead_at IS NULL"


@pytest.fixture(autouse=True)
async def healthy(cluster: Cluster) -> AsyncIterator[None]:
    yield
    await heal(cluster)


class Notes:
    """What the replicas wrote down in one test."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name

    def __call__(self, text: str) -> str:
        """A text of this test's own."""
        return f"{self._name}:{text}"

    def of(self, replica: int) -> list[str]:
        lines = applied(self._folder, replica)
        return [line.partition(":")[2] for line in lines if line.startswith(f"{self._name}:")]

    async def wait(self, replica: int, count: int) -> list[str]:
        """Wait until a replica has applied so many messages of this test."""
        await until(lambda: len(self.of(replica)) >= count)
        return self.of(replica)


@pytest.fixture
def notes(files_root: Path, request: pytest.FixtureRequest) -> Notes:
    return Notes(files_root, f"{abs(hash(request.node.nodeid)):x}")


async def all_stand(client: Client, version: int) -> None:
    """Wait until every replica has applied the log so far."""
    with anyio.fail_after(15):
        for replica in range(3):
            while int(await client.call("stand", replica=replica)) < version:  # noqa: ASYNC110 (nothing announces it)
                await anyio.sleep(0.02)


async def test_f81_a_message_is_applied_once_by_all_other_replicas(client: Client, notes: Notes) -> None:
    for n in range(3):
        version = await client.call("send", {"text": notes(f"{n}")}, replica=0)
    await all_stand(client, int(version))
    assert ([], ["0", "1", "2"], ["0", "1", "2"]) == tuple(notes.of(replica) for replica in range(3))


async def test_f81_a_reload_during_the_reconnect_of_all_listeners_is_applied_once(
    cluster: Cluster, client: Client, notes: Notes
) -> None:
    versions: list[int] = []

    async def send(replica: int) -> None:
        versions.append(int(await client.call("send", {"text": notes("of"), "times": 30}, replica=replica)))

    killed = 0
    async with anyio.create_task_group() as tasks:
        for replica in range(3):
            tasks.start_soon(send, replica)
        for _ in range(5):
            killed += len(await fetch(cluster.database_url, TERMINATE))
            await anyio.sleep(0.05)
    assert killed >= 3
    await all_stand(client, max(versions))

    for replica in range(3):
        for sender in range(3):
            heard = [note for note in notes.of(replica) if note.startswith(f"of-{sender}-")]
            assert heard == ([] if sender == replica else [f"of-{sender}-{n}" for n in range(30)])


async def test_f81_a_replica_that_was_down_has_applied_the_newest_when_it_accepts_connections(
    cluster: Cluster, client: Client, notes: Notes
) -> None:
    await cluster.replicas[2].kill()
    for text, key in (("old", ""), ("of a key", notes("key")), ("new", "")):
        version = await client.call("send", {"text": notes(text), "key": key}, replica=0)
    assert ["old", "of a key", "new"] == await notes.wait(1, 3)

    await cluster.replicas[2].restart()

    assert ["of a key", "new"] == notes.of(2)
    await client.call("send", {"text": notes("after")}, replica=1)
    assert ["of a key", "new", "after"] == await notes.wait(2, 3)
    assert int(await client.call("stand", replica=2)) > int(version)
    assert ["after"] == await notes.wait(0, 1)


async def test_f81_a_replica_that_is_restarted_in_good_order_applies_its_own_newest(
    cluster: Cluster, client: Client, notes: Notes
) -> None:
    await client.call("send", {"text": notes("mine")}, replica=2)
    await notes.wait(0, 1)
    assert [] == notes.of(2)
    await cluster.replicas[2].restart()
    assert ["mine"] == notes.of(2)


async def test_f81_a_replica_that_froze_for_so_long_that_it_was_declared_dead_applies_all_once(
    cluster: Cluster, client: Client, notes: Notes
) -> None:
    [[before]] = await until_rows(cluster.database_url, f"{ALIVE} ORDER BY started_at DESC LIMIT 1", "2")
    await client.call("send", {"text": notes("mine")}, replica=2)
    await client.call("send", {"text": notes("first")}, replica=0)
    await notes.wait(2, 1)
    cluster.replicas[2].pause()
    for n in range(3):
        await client.call("send", {"text": notes(f"{n}")}, replica=0)
    await until_rows(cluster.database_url, f"{DEAD} AND id = $2", "2", before)

    cluster.replicas[2].resume()

    assert ["first", "0", "1", "2"] == await notes.wait(2, 4)
    version = await client.call("send", {"text": notes("last")}, replica=1)
    await all_stand(client, int(version))
    assert ["first", "0", "1", "2", "last"] == notes.of(2)


async def test_f81_a_message_whose_sender_was_killed_before_the_bell_is_heard_with_the_beat(
    cluster: Cluster, connect: Connect, notes: Notes
) -> None:
    client = await connect(replica=0)

    async def ask() -> None:
        with pytest.raises((httpx2.HTTPError, AssertionError)):
            await client.call("send_and_die", {"text": notes("last words")}, replica=2)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await until(lambda: not cluster.replicas[2].alive)
        for replica in (0, 1):
            assert ["last words"] == await notes.wait(replica, 1)
        tasks.cancel_scope.cancel()
    await cluster.replicas[2].restart()
    # It is another replica now.
    assert ["last words"] == notes.of(2)


async def test_f81_messages_go_on_through_any_restart(cluster: Cluster, client: Client, notes: Notes) -> None:
    """Replicas come and go while others send; whoever stays has heard all, and whoever came the newest."""
    over = anyio.Event()
    sent: list[Any] = []

    async def keep_sending() -> None:
        while not over.is_set():
            sent.append(await client.call("send", {"text": notes(f"{len(sent)}")}, replica=0))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep_sending)
            for _ in range(2):
                await cluster.replicas[2].kill()
                await cluster.replicas[2].restart()
            over.set()
    await all_stand(client, int(sent[-1]))
    assert [f"{n}" for n in range(len(sent))] == notes.of(1)
    heard = [int(note) for note in notes.of(2)]
    assert heard == sorted(set(heard))
    assert len(sent) - 1 == heard[-1]

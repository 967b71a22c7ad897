"""Real processes and real sockets: clients that stop reading, and replicas that die at the worst moment."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import psutil

from examples.cluster import Cluster
from tests.cluster.client import Client, Frame, Stream, frame_of, text_of
from tests.cluster.conftest import (
    Connect,
    Files,
    client,
    cluster,
    cluster_database,
    connect,
    fetch,
    files,
    files_root,
    http,
    until_rows,
)

__all__ = ["client", "cluster", "cluster_database", "connect", "files", "files_root", "http"]

APP = "tests.attacks.server:app"
FAULTS = True
REPLICAS = 5
ENV = {"MCPSESSION_DEAD_AFTER": "2", "MCPSESSION_BEAT": "0.4"}
MESSAGES = 300
SIZE = 32 * 1024
TOOLS_CHANGED = "notifications/tools/list_changed"


ALL_FINISHED = """
SELECT 1 WHERE NOT EXISTS (SELECT FROM mcpsession.streams WHERE kind = 'request' AND finished_at IS NULL)
"""
# How many answers the streams have: each the same number.
ANSWERS = """
SELECT DISTINCT (
    SELECT count(*) FROM mcpsession.events e
    WHERE e.session_id = t.session_id AND e.stream_id = t.id AND e.message NOT LIKE '%"method"%')
FROM mcpsession.streams t WHERE t.kind = 'request'
"""


class HalfOpen:
    """A client behind a connection that takes no more: it reads when it is told to, through a small window."""

    def __init__(self, connection: anyio.abc.SocketStream) -> None:
        self._connection = connection
        self._received = b""

    async def until(self, text: bytes) -> None:
        """Read on until something has come."""
        with anyio.fail_after(15):
            while text not in self._received:
                self._received += await self._connection.receive(4096)

    async def rest(self) -> None:
        """Read what is still in the pipe, to its end: a cut, or the last chunk where the server could say that."""
        with anyio.fail_after(15):
            try:
                while not self._received.endswith(b"\r\n0\r\n\r\n"):
                    self._received += await self._connection.receive(65536)
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return

    @property
    def frames(self) -> list[Frame]:
        """The whole frames that have come; a chunk's frame of HTTP stands on lines of its own."""
        blocks = self._received.split(b"\r\n\r\n", 1)[1].decode().replace("\r\n", "\n").split("\n\n")[:-1]
        made = [frame_of([line for line in block.split("\n") if ":" in line]) for block in blocks]
        return [frame for frame in made if frame is not None]


@asynccontextmanager
async def half_open(
    cluster: Cluster, replica: int, method: str, client: Client, body: bytes = b""
) -> AsyncIterator[HalfOpen]:
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", cluster.replicas[replica].port))
    async with await anyio.abc.SocketStream.from_socket(raw) as connection:
        headers = client.headers() | {
            "host": f"127.0.0.1:{cluster.replicas[replica].port}",
            "content-length": str(len(body)),
        }
        lines = [f"{method} /mcp HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        await connection.send("\r\n".join(lines).encode() + body)
        yield HalfOpen(connection)


async def test_a_client_that_stops_reading_holds_no_handler_and_no_memory_and_resumes_everything_elsewhere(
    cluster: Cluster, client: Client, files: Files
) -> None:
    params = {
        "name": "flood",
        "arguments": {"messages": MESSAGES, "size": SIZE, "gate": files("gate")},
        "_meta": {"progressToken": "t"},
    }
    body = json.dumps({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}).encode()
    process = psutil.Process(cluster.replicas[0].pid)
    async with half_open(cluster, 0, "POST", client, body) as stuck:
        await stuck.until(b'"progress":0')
        last = stuck.frames[-1]
        before = process.memory_info().rss
        files.touch("gate")
        await files.wait_for("gate.flooded")
        # All of it is in the log by now, or in the journal's buffer; of the queue for the socket nothing is left.
        assert process.memory_info().rss - before < 4 * MESSAGES * SIZE
        async with client.listening(last.id, replica=1) as resumed:
            await resumed.end()
        assert list(range(1, MESSAGES)) == resumed.steps
        assert "flooded" == text_of(resumed.finals[0])
        assert len(set(resumed.ids)) == len(resumed.ids)
        # What it would have read is the beginning of the same, without the answer.
        await stuck.rest()
        messages = [frame.message for frame in stuck.frames if frame.message]
        assert len(messages) < MESSAGES
        assert messages[1:] == resumed.messages[: len(messages) - 1]


async def test_the_standalone_stream_of_a_half_open_connection_goes_on_elsewhere(
    cluster: Cluster, client: Client
) -> None:
    async with half_open(cluster, 0, "GET", client) as stuck:
        await client.call("tell", {"text": "first"}, replica=1)
        await stuck.until(b"first")
        last = stuck.frames[-1]
        texts = [f"{number} " + "x" * SIZE for number in range(40)]
        for text in texts:
            await client.call("tell", {"text": text}, replica=2)
        async with client.listening(last.id, replica=1) as taken:
            await client.call("tell", {"text": "last"}, replica=2)
            await taken.until(lambda: taken.messages and taken.messages[-1]["params"]["data"] == "last")
        assert [*texts, "last"] == [message["params"]["data"] for message in taken.messages]


async def test_news_whose_publisher_dies_between_commit_and_bell_is_heard(client: Client) -> None:
    async with client.listening(replica=1) as stream, client.calling("publish_and_die", replica=4) as call:
        await call.end()
        assert [] == call.finals
        await stream.until(lambda: TOOLS_CHANGED in stream.methods, within=10)


async def test_a_call_whose_replica_dies_right_after_any_of_its_writes_ends_and_its_session_goes_on(
    cluster: Cluster, connect: Connect, files: Files
) -> None:
    """Three replicas at once, each killed after another write; their clients resume on a fourth one."""
    operator = await connect(replica=0)
    ended: dict[str, Stream] = {}
    worked: dict[str, bool] = {}

    async def attack(replica: int, statement: str) -> None:
        victim = await connect(replica=0)
        await operator.call("die_after", {"session_id": victim.session_id, "statement": statement}, replica=replica)
        async with victim.calling("work", {"gate": files(statement)}, id=7, replica=replica) as call:
            await call.until(lambda: call.steps or call.ended)
            files.touch(statement)
            await call.end()
        ended[statement] = call
        if call.ids and not call.finals:
            async with victim.listening(call.last_id, replica=0) as ended[statement]:
                await ended[statement].end()
        worked[statement] = "worked" in await victim.call("keys", replica=0)
        # The number is free again, however it ended.
        async with victim.calling("whoami", id=7, replica=0) as again:
            await again.end()
        assert "0" == text_of(again.finals[0])

    async with anyio.create_task_group() as tasks:
        for replica, statement in enumerate(("INTO mcpsession.streams", "SET state", "final"), 1):
            tasks.start_soon(attack, replica, statement)
    # The stream was entered, and its client heard nothing of it.
    assert ([], False) == (ended["INTO mcpsession.streams"].ids, worked["INTO mcpsession.streams"])
    # What it did is there, what it would have answered nobody knows.
    [final] = ended["SET state"].finals
    assert ("unknown", True) == (final["error"]["data"]["outcome"], worked["SET state"])
    # Its answer is in the log, whether it was on the wire or not.
    assert (["worked"], True) == ([text_of(final) for final in ended["final"].finals], worked["final"])
    await until_rows(cluster.database_url, ALL_FINISHED)
    assert [(1,)] == [tuple(row) for row in await fetch(cluster.database_url, ANSWERS)]

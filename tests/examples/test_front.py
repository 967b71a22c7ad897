"""The front and the cluster of `examples`, with apps of our own: no MCP and no Postgres here."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import anyio.lowlevel
import httpx2
import psutil
import pytest

from examples.cluster import ROOT, Cluster, ProcessFailedError, run_cluster

APP = "tests.examples.app:make_app"

# Never connected to: these apps have no layer.
NO_DATABASE = "postgresql://nobody@127.0.0.1:1/nowhere"

STREAMS = 300


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def cluster(anyio_backend: str) -> AsyncIterator[Cluster]:
    async with run_cluster(APP, database_url=NO_DATABASE) as cluster:
        yield cluster


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[httpx2.AsyncClient]:
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=cluster.url, timeout=20, limits=limits, trust_env=False) as client:
        yield client


def served_by(response: httpx2.Response) -> int:
    return int(response.headers["x-replica"])


async def until_count(client: httpx2.AsyncClient, expected: int, *, replica: int) -> None:
    with anyio.fail_after(10):
        while (await client.get("/count", headers={"x-replica": str(replica)})).json() != expected:
            pass


def is_running(pid: int) -> bool:
    try:
        # A zombie has ended; whoever adopted it has not looked yet.
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


# The front


async def test_each_request_of_one_connection_goes_to_the_next_replica(cluster: Cluster) -> None:
    one_connection = httpx2.Limits(max_connections=1)
    async with httpx2.AsyncClient(base_url=cluster.url, limits=one_connection, trust_env=False) as client:
        served = [served_by(await client.get("/echo/")) for _ in range(6)]

    first = served[0]
    assert [(first + turn) % 3 for turn in range(6)] == served


async def test_the_named_replica_is_the_one_that_served(client: httpx2.AsyncClient) -> None:
    for _ in range(3):
        response = await client.get("/echo/")
        assert response.headers["x-from-replica"] == response.headers["x-replica"]


async def test_a_request_can_be_pinned_to_a_replica(client: httpx2.AsyncClient) -> None:
    assert [served_by(await client.get("/echo/", headers={"x-replica": n})) for n in ("2", "2", "0")] == [2, 2, 0]


@pytest.mark.parametrize("pin", ["3", "-1", "one", ""])
async def test_a_pin_to_no_replica_is_refused_with_the_allowed_numbers(client: httpx2.AsyncClient, pin: str) -> None:
    response = await client.get("/echo/", headers={"x-replica": pin})
    assert (response.status_code, response.text) == (400, "x-replica must be a number from 0 to 2\n")


async def test_method_target_body_and_end_to_end_headers_arrive_unchanged(client: httpx2.AsyncClient) -> None:
    request = httpx2.Request(
        "POST",
        client.base_url.join("/echo/a%2Fb%20c?x=1&x=%2B"),
        headers=[
            ("Host", "mcp.example:8080"),
            ("Origin", "https://evil.example"),
            ("Mcp-Session-Id", "abc"),
            ("X-Twice", "1"),
            ("X-Twice", "2"),
            ("Connection", "keep-alive, X-Hop"),
            ("X-Hop", "stays here"),
        ],
        content=b"body",
    )

    seen = (await client.send(request)).json()

    assert (seen["method"], seen["target"]) == ("POST", "/echo/a%2Fb%20c?x=1&x=%2B")
    assert hashlib.sha256(b"body").hexdigest() == seen["sha256"]
    expected = {("host", "mcp.example:8080"), ("origin", "https://evil.example"), ("mcp-session-id", "abc")}
    headers = [tuple(header) for header in seen["headers"]]
    assert expected <= set(headers)
    assert [header for header in headers if header[0] == "x-twice"] == [("x-twice", "1"), ("x-twice", "2")]
    assert not {"connection", "x-hop", "x-forwarded-for", "user-agent"} & {name for name, _ in headers}


async def test_a_long_body_is_streamed_through_whole(client: httpx2.AsyncClient) -> None:
    chunks = [bytes([n]) * 65_536 for n in range(64)]

    async def body() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    seen = (await client.post("/echo/", content=body())).json()
    assert hashlib.sha256(b"".join(chunks)).hexdigest() == seen["sha256"]


async def test_an_event_arrives_before_its_stream_ends(client: httpx2.AsyncClient) -> None:
    async with client.stream("GET", "/stream") as response:
        chunks = response.aiter_raw()
        with anyio.fail_after(10):
            assert await anext(chunks) == b"data: one\n\n"
            # Had the front waited for more, this line would not be reached: the second event needs the release.
            await client.post("/release", headers={"x-replica": response.headers["x-replica"]})
            assert [chunk async for chunk in chunks] == [b"data: two\n\n"]


async def test_a_disconnect_in_the_middle_of_a_stream_reaches_the_replica(client: httpx2.AsyncClient) -> None:
    async with client.stream("GET", "/stream", headers={"x-replica": "1"}) as response:
        chunks = response.aiter_raw()
        await anext(chunks)
        await until_count(client, 1, replica=1)
    await until_count(client, 0, replica=1)


async def test_a_disconnect_before_the_response_begins_reaches_the_replica(client: httpx2.AsyncClient) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: client.get("/silence", headers={"x-replica": "1"}))
        await until_count(client, 1, replica=1)
        tasks.cancel_scope.cancel()
    await until_count(client, 0, replica=1)


async def test_hundreds_of_streams_stay_open_together(client: httpx2.AsyncClient) -> None:
    streams: list[AsyncIterator[bytes]] = []
    async with AsyncExitStack() as stack:
        with anyio.fail_after(30):
            for _ in range(STREAMS):
                response = await stack.enter_async_context(client.stream("GET", "/stream"))
                # Kept, because a stream that nobody iterates over any more is closed.
                streams.append(response.aiter_raw())
                assert await anext(streams[-1]) == b"data: one\n\n"
            counts = [(await client.get("/count", headers={"x-replica": str(n)})).json() for n in range(3)]
            assert sum(counts) == STREAMS
    for replica in range(3):
        await until_count(client, 0, replica=replica)


async def test_a_dead_replica_is_skipped_and_served_again_after_its_restart(
    cluster: Cluster, client: httpx2.AsyncClient
) -> None:
    await cluster.replicas[1].kill()
    try:
        responses = [await client.post("/echo/", content=b"body") for _ in range(6)]
        pinned = await client.post("/echo/", content=b"body", headers={"x-replica": "1"})
    finally:
        await cluster.replicas[1].restart()

    assert {200} == {response.status_code for response in responses}
    assert {0, 2} == {served_by(response) for response in responses}
    assert (pinned.status_code, pinned.text) == (502, "no replica accepts connections\n")
    assert {0, 1, 2} == {served_by(await client.get("/echo/")) for _ in range(3)}


async def test_a_stream_whose_replica_dies_is_cut_and_not_ended(cluster: Cluster, client: httpx2.AsyncClient) -> None:
    async with client.stream("GET", "/stream", headers={"x-replica": "2"}) as response:
        chunks = response.aiter_raw()
        await anext(chunks)
        await cluster.replicas[2].kill()
        with anyio.fail_after(10), pytest.raises(httpx2.RemoteProtocolError):
            await anext(chunks)
    await cluster.replicas[2].restart()


# The cluster


async def test_a_paused_replica_answers_when_it_is_resumed(cluster: Cluster, client: httpx2.AsyncClient) -> None:
    replica = cluster.replicas[0]
    answers: list[int] = []

    async def ask() -> None:
        answers.append(served_by(await client.get("/echo/", headers={"x-replica": "0"})))

    replica.pause()
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            # All others are served meanwhile.
            assert served_by(await client.get("/echo/", headers={"x-replica": "1"})) == 1
            assert answers == []
            replica.resume()
    finally:
        replica.resume()
    assert answers == [0]


async def test_a_replica_told_to_end_does_and_its_port_stays_its_own(cluster: Cluster) -> None:
    replica = cluster.replicas[0]
    port, pid = replica.port, replica.pid

    assert await replica.terminate() == -15
    assert not replica.alive
    await replica.restart()

    assert replica.alive
    assert port == replica.port
    assert pid != replica.pid


async def test_a_replica_that_fails_at_start_says_why() -> None:
    with pytest.raises(
        ProcessFailedError, match=r"(?s)replica 0 ended with exit code .* log:.*RuntimeError: the reason"
    ):
        async with run_cluster("tests.examples.app:make_nothing", replicas=1, database_url=NO_DATABASE):
            pass


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux's kernel ends a process with its parent")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_nobody_is_left_however_the_parent_ends(how: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.examples.parent", APP, NO_DATABASE]
    # SIGKILL leaves the folder of the logs behind, and SIGTERM does in a parent that does not handle it.
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    async with await anyio.open_process(command, cwd=ROOT, env=env, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        with anyio.fail_after(60):
            children = [int(pid) for pid in (await parent.stdout.receive()).split()]
            parent.send_signal(how)
            await parent.wait()
            while any(is_running(pid) for pid in children):
                await anyio.lowlevel.checkpoint()
    assert len(children) == 3


async def test_nothing_is_left_when_the_block_fails() -> None:
    pids: list[int] = []

    async def fail() -> None:
        async with run_cluster(APP, replicas=2, database_url=NO_DATABASE) as cluster:
            pids.extend(process.pid for process in (cluster.front, *cluster.replicas))
            cluster.replicas[0].pause()
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert len(pids) == 3
    assert not any(is_running(pid) for pid in pids)

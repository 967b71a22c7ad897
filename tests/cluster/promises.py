"""What clients hold when Postgres breaks, the proof that they have it afterwards, and who looked meanwhile.

Nothing in here breaks anything: a test does that inside of `promised`, and then calls `kept`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import anyio
import httpx2

from examples.cluster import Cluster
from tests.cluster.client import CAPABILITIES, DEADLINE, LATEST, Client, Message, Stream, text_of
from tests.cluster.conftest import Files, fetch, http_client

TOOLS = "notifications/tools/list_changed"
LOOK = 0.05
# Seconds within which a request is answered while nothing is known of Postgres: a cached session's request waits
# `dead_after` (3 s) for a beat; the rest is for a machine that does other things too.
REFUSED_WITHIN = 6.0

REPLICAS = "SELECT id, label, dead_at IS NOT NULL AS dead FROM mcpsession.replicas ORDER BY started_at, id"


@dataclass
class Promises:
    """Two clients with everything that can be open, spread over the replicas."""

    cluster: Cluster
    files: Files
    client: Client
    replicas: list[tuple[object, ...]]
    done: Stream = field(default_factory=Stream)
    """A call that was answered."""
    talks: list[Stream] = field(default_factory=list)
    """A call on each replica, that has said its first word of three."""
    question: Message = field(default_factory=dict)
    asking: Stream = field(default_factory=Stream)
    """An elicitation, asked on replica 1."""
    hanging: Stream = field(default_factory=Stream)
    """A call on the last replica, that only a cancellation ends."""
    standalone: Stream = field(default_factory=Stream)
    """Held by replica 1."""

    @property
    def count(self) -> int:
        return len(self.cluster.replicas)

    def go_on(self) -> None:
        """Let the calls say their second word."""
        self.files.touch("gate.2")

    async def served(self, within: float = 20.0) -> None:
        """Wait until every replica serves the session again; till then it may say 503, and nothing else."""
        for replica in range(self.count):
            with anyio.fail_after(within):
                while (status := await self.client.status(replica=replica)) != 200:
                    assert status == 503
                    await anyio.sleep(LOOK)

    async def kept(self, *, over: bool = True) -> None:
        """Everything goes on where it was, over other replicas than before; nobody was taken for dead.

        `over`: so can be read what was over before.
        """
        await self.served()
        self.files.touch("gate.2", "gate.3", "gate.end")
        for replica, talk in enumerate(self.talks):
            await talk.end()
            assert ([1, 2, 3], [f"talked 3 on {replica}"]) == (talk.steps, [text_of(one) for one in talk.finals]), talk
            assert [0, 1, 2, 3, 4] == numbers(talk)

        assert (await self.client.accept(self.question, "still", replica=0)).status_code == 202
        await self.asking.end()
        assert ["accept still on 1"] == [text_of(final) for final in self.asking.finals]

        assert (await self.client.cancel(77, replica=0)).status_code == 202
        await self.hanging.end()
        assert [-32800] == [final["error"]["code"] for final in self.hanging.finals]
        await self.files.wait_for("hang.stopped")

        before = self.standalone.methods.count(TOOLS)
        await self.client.call("announce", replica=0)
        await self.client.call("tell", {"text": "second"}, replica=0)
        await self.standalone.until(lambda: said(self.standalone) == ["first", "second"])
        await self.standalone.until(lambda: self.standalone.methods.count(TOOLS) > before)
        assert not self.standalone.ended
        # Its own messages count on without a hole.
        assert [1, 2] == sorted(set(numbers(self.standalone)) - {0})

        # What was committed before is there, and the log has what was sent.
        assert await self.client.call("count", replica=self.count - 1) == "2"
        for call in (*([self.done] if over else []), *self.talks):
            async with self.client.listening(call.ids[0], replica=0) as again:
                await again.end()
            assert again.messages == call.messages
        assert self.replicas == await members(self.cluster)


async def members(cluster: Cluster) -> list[tuple[object, ...]]:
    return [tuple(row) for row in await fetch(cluster.database_url, REPLICAS)]


def numbers(stream: Stream) -> list[int]:
    """The numbers of the frames, as their ids say them."""
    return [int(id.split(".")[1]) for id in stream.ids]


def said(stream: Stream) -> list[str]:
    """The texts of the log messages."""
    return [one["params"]["data"] for one in stream.messages if one.get("method") == "notifications/message"]


@asynccontextmanager
async def promised(cluster: Cluster, http: httpx2.AsyncClient, files: Files) -> AsyncIterator[Promises]:
    """All is open and has begun."""
    client = Client(http)
    await client.initialize(replica=0)
    files.touch("gate.1")
    async with AsyncExitStack() as stack:
        promises = Promises(cluster, files, client, await members(cluster))
        promises.done = await stack.enter_async_context(client.calling("count", replica=0))
        await promises.done.end()
        assert ["1"] == [text_of(final) for final in promises.done.finals]
        for replica in range(promises.count):
            arguments = {"steps": 3, "gate": files("gate")}
            calling = client.calling("talk", arguments, id=replica + 1, replica=replica)
            promises.talks.append(await stack.enter_async_context(calling))
        promises.asking = await stack.enter_async_context(client.calling("elicit", {"question": "well?"}, replica=1))
        hanging = client.calling("hang", {"name": files("hang")}, id=77, replica=promises.count - 1)
        promises.hanging = await stack.enter_async_context(hanging)
        promises.standalone = await stack.enter_async_context(client.listening(replica=1))

        for talk in promises.talks:
            await talk.until(lambda talk=talk: talk.steps == [1])  # type: ignore[misc]
        promises.question = await promises.asking.ask("elicitation/create")
        await promises.hanging.open()
        await files.wait_for("hang.started")
        await client.call("tell", {"text": "first"}, replica=0)
        await promises.standalone.until(lambda: said(promises.standalone) == ["first"])
        yield promises


# Who looks meanwhile


class Watch:
    """What the replicas' health said, asked of each replica itself."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.words: list[list[str]] = [[] for _ in cluster.replicas]
        """Of each replica, without repetitions."""
        self.slowest = 0.0
        """Seconds until an answer: a loop that stands still for longer would show here."""

    @property
    def now(self) -> list[str]:
        return [words[-1] if words else "" for words in self.words]

    async def until(self, word: str, within: float) -> None:
        """Wait until every replica says so."""
        with anyio.move_on_after(within):
            while set(self.now) != {word}:  # noqa: ASYNC110 (health announces nothing)
                await anyio.sleep(LOOK)
            return
        raise AssertionError(f"not all were {word!r} within {within:g} s: {self.words}")

    async def look_on(self, replica: int) -> None:
        async with http_client(self._cluster.replicas[replica].url) as http:
            while True:
                began = time.monotonic()
                response = await http.get("/healthz")
                self.slowest = max(self.slowest, time.monotonic() - began)
                word = response.json()["status"]
                assert response.status_code == (200 if word in ("ok", "degraded") else 503)
                if self.now[replica] != word:
                    self.words[replica].append(word)
                await anyio.sleep(LOOK)


@asynccontextmanager
async def watching(cluster: Cluster) -> AsyncIterator[Watch]:
    """Look at every replica's health, many times a second, while inside."""
    watch = Watch(cluster)
    async with anyio.create_task_group() as tasks:
        for replica in range(len(cluster.replicas)):
            tasks.start_soon(watch.look_on, replica)
        yield watch
        tasks.cancel_scope.cancel()


@dataclass
class Knocks:
    """What was answered to requests that came while Postgres was away."""

    statuses: list[int] = field(default_factory=list)
    slowest: float = 0.0

    async def send(self, client: Client, message: Message, *, replica: int) -> None:
        began = time.monotonic()
        response = await client.post(message, replica=replica)
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.statuses.append(response.status_code)
        assert response.status_code in (200, 503), response.text
        if response.status_code == 503:
            assert int(response.headers["retry-after"]) > 0
            assert "The session store is away" in response.json()["error"]["message"]


async def knock(promises: Promises, seconds: float) -> Knocks:
    """Send requests of the session, and new clients' first ones, to every replica for so long; each ends well or with
    a 503 that says when to come back. The caller judges how long that may take."""
    knocks, ids = Knocks(), iter(range(100_000, 200_000))
    stranger = Client(promises.client._http)
    hello = {"protocolVersion": LATEST, "capabilities": CAPABILITIES, "clientInfo": {"name": "new", "version": "1"}}
    end = time.monotonic() + seconds

    async def on(client: Client, method: str, params: Message, replica: int) -> None:
        while time.monotonic() < end:
            message: Message = {"jsonrpc": "2.0", "id": next(ids), "method": method, "params": params}
            await knocks.send(client, message, replica=replica)
            await anyio.sleep(0.2)

    async with anyio.create_task_group() as tasks:
        for replica in range(promises.count):
            tasks.start_soon(on, promises.client, "ping", {}, replica)
            tasks.start_soon(on, stranger, "initialize", hello, replica)
    return knocks


async def told_to_come_back(promises: Promises, *, replica: int, within: float = DEADLINE) -> None:
    """A GET is not refused while Postgres is away: clients give up after two 5xx."""
    async with promises.client.listening(promises.done.ids[0], replica=replica) as stream:
        await stream.end(within)
    assert (200, [], 5000) == (stream.status, stream.finals, stream.frames[-1].retry), stream

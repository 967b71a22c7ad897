"""Streams that come, go, stand still and change replicas while several publish: each hears all, in order."""

from __future__ import annotations

from functools import partial
from random import Random

import anyio
import pytest

from mcpsession import news_contracts
from mcpsession.model import News
from tests.sdk.newsroom import TOOLS, subscribe, updated
from tests.sdk.replicas import Client, replica

OWN, END = "notifications/tests/own", "notifications/tests/end"
PUBLISHERS, CLIENTS, EACH = 3, 5, 50


class Listener:
    """A client that hangs up, stands still, and comes back with the last id that it has, to any replica."""

    def __init__(self, client, random):
        self.client = client
        self.sent = []
        """What was published for it, by publisher and number."""
        self.told = []
        """What it was told, connection after connection."""
        self._random = random

    @property
    def ended(self):
        return PUBLISHERS == len({message["params"]["from"] for message in self.told if message["method"] == END})

    async def run(self, replicas):
        last_id, random = None, self._random
        while not self.ended:
            before = len(self.told)
            async with self.client.get(random.choice(replicas), last_id) as stream:
                with anyio.move_on_after(random.uniform(0.02, 0.3)):
                    while await stream.frame() is not None:
                        if random.random() < 0.1:
                            stream.stop_reading()
                            await anyio.sleep(random.uniform(0, 0.05))
                            stream.read_on()
                stream.disconnect()
                await stream.ended()
                # Whatever has come, looked at or not: the cursor says that it has.
                last_id = stream.last_id or last_id
                self.told += [frame.message for frame in stream.frames if frame.message]
            if len(self.told) == before:
                # Refused, because it came too often.
                await anyio.sleep(0.05)

    def numbers(self, publisher):
        """What it was told of one publisher's, the first time that it was."""
        own = [message["params"] for message in self.told if message["method"] == OWN]
        return list(dict.fromkeys(one["n"] for one in own if one["from"] == publisher))


async def publish_all(at, publisher, random, listeners):
    publish = at.layer.broadcaster.publish
    for number in range(EACH):
        chosen = random.choice([None, None, *listeners])
        for one in listeners if chosen is None else [chosen]:
            one.sent.append((publisher, number))
        session_id = None if chosen is None else chosen.client.session_id
        await publish(News(OWN, {"from": publisher, "n": number}), session_id=session_id)
        if random.random() < 0.3:
            await publish(updated("test://1"))
        await anyio.sleep(random.uniform(0, 0.02))
    # Of all changes one may be enough, but never an older one than the last.
    await publish(News(TOOLS.method, {"_meta": {"from": publisher, "n": EACH}}))
    await publish(News(END, {"from": publisher}))


@pytest.mark.parametrize("seed", range(3))
async def test_streams_that_come_and_go_hear_all_that_is_for_them_in_each_publishers_order(
    database_url, monkeypatch, seed
):
    monkeypatch.setattr(news_contracts, "PAGE_MAILS", 3)
    random = Random(seed)
    settings = {"outbound_frames": 4}
    async with replica(database_url, **settings) as here, replica(database_url, **settings) as there:
        replicas = [here, there]
        with anyio.fail_after(60):
            listeners = [
                Listener(await Client().initialize(random.choice(replicas)), Random(f"{seed} {number}"))
                for number in range(CLIENTS)
            ]
            for one in listeners[::2]:
                await subscribe(one.client, random.choice(replicas), "test://1")
            async with anyio.create_task_group() as tasks:
                for one in listeners:
                    tasks.start_soon(one.run, replicas)
                for publisher in range(PUBLISHERS):
                    own = Random(f"{seed} publisher {publisher}")
                    tasks.start_soon(partial(publish_all, random.choice(replicas), publisher, own, listeners))
    for place, one in enumerate(listeners):
        for publisher in range(PUBLISHERS):
            expected = [number for who, number in one.sent if who == publisher]
            assert expected == one.numbers(publisher), f"seed {seed}, client {place}, publisher {publisher}"
        changed = [message for message in one.told if message["method"] == TOOLS.method]
        assert EACH == changed[-1]["params"]["_meta"]["n"]
        updates = [message for message in one.told if message["method"] == "notifications/resources/updated"]
        assert bool(updates) == (place % 2 == 0)

"""Replicas that come, go, are cut off and send at random: what each has applied is what it should have. F81."""

from __future__ import annotations

from random import Random
from typing import Any

import anyio
import pytest

from mcpsession import control
from tests.control.replicas import ControlPlace, Replica

METHODS = ("reload", "level")
KEYS = ("", "a", "b")


class World:
    """All that was sent, and each running replica with what it should have applied."""

    def __init__(self, place: ControlPlace, random: Random) -> None:
        self.place = place
        self.random = random
        self.sent: list[tuple[str, str, Replica]] = []
        self.forgotten: dict[tuple[str, str], int] = {}
        self.running: dict[Replica, list[Any]] = {}

    def current(self) -> list[int]:
        """The versions that a replica applies that starts now."""
        newest = {(method, key): version for version, (method, key, _) in enumerate(self.sent, 1)}
        return sorted(version for name, version in newest.items() if version > self.forgotten.get(name, 0))

    async def start(self) -> None:
        replica = self.place.new(*METHODS)
        await replica.layer.__aenter__()
        self.running[replica] = self.current()

    async def end(self) -> None:
        # Only whoever was entered last: what runs can only end in the order of its scopes.
        replica = list(self.running)[-1]
        await self.check(replica)
        del self.running[replica]
        await replica.layer.__aexit__(None, None, None)

    async def send(self) -> None:
        sender = self.random.choice(list(self.running))
        method, key = self.random.choice(METHODS), self.random.choice(KEYS)
        version = len(self.sent) + 1
        self.sent.append((method, key, sender))
        assert version == await sender.send(version, method, key=key)
        for replica, expected in self.running.items():
            if replica is not sender:
                expected.append(version)

    async def forget(self) -> None:
        name = self.random.choice(METHODS), self.random.choice(KEYS)
        was_current = any(self.sent[version - 1][:2] == name for version in self.current())
        assert was_current == await next(iter(self.running)).control.forget(*name)
        self.forgotten[name] = len(self.sent)

    async def cut_off(self) -> None:
        gate = self.random.choice(list(self.running)).mailbox.before["news"]
        gate.open()
        if self.random.random() < 0.5:
            gate.close()

    async def check(self, replica: Replica) -> None:
        replica.mailbox.before["news"].open()
        await replica.reach(len(self.sent))
        assert self.running[replica] == replica.numbers


@pytest.mark.parametrize("seed", range(6))
async def test_f81_every_replica_has_applied_what_it_should_have(
    place: ControlPlace, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(seed)
    monkeypatch.setattr(control, "_PAGE", random.choice([1, 2, 100]))
    world = World(place, random)
    with anyio.fail_after(60):
        await world.start()
        for _ in range(60):
            verb = random.choices(
                [world.send, world.forget, world.cut_off, world.start, world.end], weights=[10, 1, 4, 2, 1]
            )[0]
            if (verb == world.start and len(world.running) == 4) or (verb == world.end and len(world.running) == 1):
                continue
            await verb()
        while world.running:
            await world.end()

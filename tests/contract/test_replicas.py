"""ReplicaRegistry: a death is recorded once, and only of one whose counter stands still."""

from __future__ import annotations

import anyio
import anyio.to_thread

from mcpsession.contracts import Backend, ReplicaRegistry
from mcpsession.model import Mail, Pulse, Replica
from tests.contract.conftest import Join
from tests.contract.given import given, until


async def test_a_beat_counts_and_shows_the_others_counters(registry: ReplicaRegistry) -> None:
    await registry.join(Replica("a", label="pod-1"))
    await registry.join(Replica("b"))
    first = await registry.beat("a", "")
    assert (True, {"b"}) == (first.alive, set(first.others))

    for _ in range(3):
        await registry.beat("b", "")

    second = await registry.beat("a", "")
    assert 3 == second.others["b"] - first.others["b"]
    assert "b" not in (await registry.beat("b", "")).others


async def test_one_who_stands_still_is_declared_dead_once(registry: ReplicaRegistry, join: Join) -> None:
    await join("a", "b")
    await registry.beat("b", "")
    beats = (await registry.beat("a", "")).others["b"]
    declared: list[bool] = []

    async def declare() -> None:
        declared.append(await registry.declare_dead("b", beats))

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(declare)

    assert [False, False, False, True] == sorted(declared)
    assert {} == dict((await registry.beat("a", "")).others)


async def test_one_who_has_beaten_meanwhile_is_not_declared_dead(registry: ReplicaRegistry, join: Join) -> None:
    await join("a", "b")
    beats = (await registry.beat("a", "")).others["b"]
    await registry.beat("b", "")

    assert not await registry.declare_dead("b", beats)

    assert (await registry.beat("b", "")).alive
    assert "b" in (await registry.beat("a", "")).others


async def test_the_unknown_cannot_be_declared_dead(registry: ReplicaRegistry) -> None:
    assert not await registry.declare_dead("unknown", 0)


async def test_the_dead_learn_it_from_their_next_beat_and_stay_dead(registry: ReplicaRegistry, join: Join) -> None:
    await join("a", "b")
    beats = (await registry.beat("a", "")).others["b"]
    assert await registry.declare_dead("b", beats)

    assert [False, False] == [(await registry.beat("b", "")).alive for _ in range(2)]

    assert {} == dict((await registry.beat("a", "")).others)


async def test_the_unknown_are_not_alive(registry: ReplicaRegistry) -> None:
    assert not (await registry.beat("unknown", "")).alive


async def test_one_who_leaves_is_recorded_dead(backend: Backend, registry: ReplicaRegistry, join: Join) -> None:
    await join("a", "b")

    await registry.leave("b")
    await registry.leave("b")
    await registry.leave("unknown")

    assert {} == dict((await registry.beat("a", "")).others)
    assert not (await registry.beat("b", "")).alive
    assert not await backend.mailbox.send(Mail("answer", "a", "b"))
    assert not await registry.declare_dead("b", 0)


async def test_a_beat_tells_of_unread_mail(backend: Backend, registry: ReplicaRegistry, join: Join) -> None:
    await join("a", "b")
    await backend.mailbox.send(Mail("answer", "a", "b"))

    assert [False, True] == [(await registry.beat(replica, "")).mail for replica in ("a", "b")]

    await backend.mailbox.delete([mail.id for mail in await backend.mailbox.inbox("b")])
    assert not (await registry.beat("b", "")).mail


async def test_a_beat_tells_of_unread_broadcasts(backend: Backend, registry: ReplicaRegistry, join: Join) -> None:
    await join("a")
    position = await backend.mailbox.position()
    assert not (await registry.beat("a", position)).news

    await backend.mailbox.broadcast([Mail("changed", "b", session_id="session")])

    assert (await registry.beat("a", position)).news
    news = await backend.mailbox.news(position)
    assert news is not None
    assert not (await registry.beat("a", news.position)).news


async def test_mail_to_one_is_no_broadcast(backend: Backend, registry: ReplicaRegistry, join: Join) -> None:
    await join("a")
    position = await backend.mailbox.position()
    await backend.mailbox.send(Mail("answer", "b", "a"))

    pulse = await registry.beat("a", position)

    assert (True, False) == (pulse.mail, pulse.news)


async def test_a_position_that_cannot_be_used_is_worth_a_look(registry: ReplicaRegistry, join: Join) -> None:
    await join("a")

    assert (await registry.beat("a", "garbage")).news
    assert not (await registry.beat("a", "")).news


@given(mail_ttl=1.0)
async def test_a_position_that_grows_old_in_silence_is_worth_a_look(
    backend: Backend, registry: ReplicaRegistry, join: Join
) -> None:
    """Otherwise a quiet hour would make it too old, and all would be taken for changed."""
    await join("a")
    position = await backend.mailbox.position()

    async def is_old() -> bool:
        return (await registry.beat("a", position)).news

    await until(is_old)
    assert await backend.mailbox.news(position) is not None


async def test_a_heart_beats_in_a_thread_of_its_own(backend: Backend) -> None:
    async def beat() -> Pulse:
        async with backend.registry() as registry:
            await registry.join(Replica("a"))
            await registry.beat("a", "")
            pulse = await registry.beat("a", "")
            await registry.leave("a")
            return pulse

    assert Pulse(alive=True, mail=False, news=False, others={}) == await anyio.to_thread.run_sync(anyio.run, beat)


async def test_several_registries_know_the_same_replicas(backend: Backend) -> None:
    async with backend.registry() as one, backend.registry() as other:
        await one.join(Replica("a"))
        await other.join(Replica("b"))

        assert {"b"} == set((await one.beat("a", "")).others)
        assert {"a": 1} == dict((await other.beat("b", "")).others)


async def test_namespaces_never_see_each_others_replicas(
    registry: ReplicaRegistry, neighbour: Backend, join: Join
) -> None:
    await join("a", "b")

    async with neighbour.registry() as theirs:
        await theirs.join(Replica("b"))
        assert {} == dict((await theirs.beat("b", "")).others)
        assert not await theirs.declare_dead("a", 0)
        assert not (await theirs.beat("a", "")).alive
        await theirs.leave("a")
        await theirs.leave("b")

    assert {"b"} == set((await registry.beat("a", "")).others)

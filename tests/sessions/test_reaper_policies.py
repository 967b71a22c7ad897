"""What the reaper ends, by policy, and what it makes of what the dead left. F62, F63."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from mcpsession.model import Reaped, Replica
from mcpsession.policies import Expired, Idle, Matching, Orphaned
from tests.sessions import reaping
from tests.sessions.reaping import Store, dead_replica, expired, is_gone, speak, until

store = reaping.store
postgres_store = reaping.postgres_store

# ---- F62: policies --------------------------------------------------------------------------------------------------


async def test_f62_expired_and_orphaned_are_there_by_default(store: Store) -> None:
    layer = store.layer()
    assert {Expired, Orphaned} == {type(policy) for policy in layer.reaper.policies}
    assert isinstance(layer.reaper.policies, tuple)


async def test_f62_policies_come_and_go(store: Store) -> None:
    layer = store.layer()
    idle = Idle(after=60.0)
    layer.reaper.add_policy(idle)
    assert idle in layer.reaper.policies
    layer.reaper.remove_policy(idle)
    assert {Expired, Orphaned} == {type(policy) for policy in layer.reaper.policies}


async def test_f62_without_the_expired_policy_dead_sessions_stay_dead_and_there(store: Store) -> None:
    async with store.layer() as layer:
        [by_default] = [policy for policy in layer.reaper.policies if isinstance(policy, Expired)]
        layer.reaper.remove_policy(by_default)
        await expired(layer, "session")

        await layer.reaper.run_once()

        assert not await is_gone(layer, "session")
        assert await layer.sessions.get("session") is None
        layer.reaper.add_policy(by_default)
        assert 1 == (await layer.reaper.run_once()).sessions


async def test_f62_idle_ends_what_was_not_active_for_so_long_whatever_its_ttl(store: Store) -> None:
    async with store.layer() as layer:
        layer.reaper.add_policy(Idle(after=0.3))
        await layer.sessions.create("immortal", ttl=None)
        await layer.sessions.create("patient", ttl=3600.0)
        await layer.sessions.create("busy", ttl=None)
        assert Reaped() == await layer.reaper.run_once()
        await anyio.sleep(0.35)
        assert await layer.sessions.touch("busy")

        await layer.reaper.run_once()

        assert ["busy"] == [session.id for session in await layer.sessions.list()]
        assert await is_gone(layer, "immortal")
        assert await is_gone(layer, "patient")


async def test_f62_an_idle_session_ends_on_every_replica(store: Store) -> None:
    async with store.layer() as layer, store.layer() as other:
        await layer.sessions.create("session", ttl=None)
        assert await other.sessions.get("session") is not None
        layer.reaper.add_policy(Idle(after=0.01))
        await anyio.sleep(0.02)
        await layer.reaper.run_once()
        assert await other.sessions.get("session") is None
        # It is free again, and what is made there now is active.
        await other.sessions.create("session")


async def test_f62_idle_takes_all_batches(store: Store) -> None:
    async with store.layer(reap_batch=10) as layer:
        layer.reaper.add_policy(Idle(after=0.05))
        await layer.sessions.create_many([layer.sessions.new_session(ttl=None) for _ in range(35)])
        await anyio.sleep(0.1)
        await layer.reaper.run_once()
        assert 0 == await layer.sessions.count()


@pytest.mark.parametrize("after", [0.0, -1.0, float("nan")])
def test_f62_an_idle_time_that_cannot_be_is_refused(after: float) -> None:
    with pytest.raises(ValueError, match="after"):
        Idle(after=after)


async def test_f62_a_predicate_ends_those_that_it_holds_for(store: Store) -> None:
    async with store.layer() as layer:
        seen: list[tuple[str, object, object]] = []

        def is_trial(session: Any) -> bool:
            seen.append((session.id, session.metadata, session.state))
            return bool(session.metadata.get("plan") == "trial")

        layer.reaper.add_policy(Matching(is_trial))
        await layer.sessions.create("a", metadata={"plan": "trial"}, state={"k": 1}, ttl=None)
        await layer.sessions.create("b", metadata={"plan": "paid"})
        await layer.sessions.create("c", metadata={"plan": "trial"})

        await layer.reaper.run_once()

        assert ["b"] == [session.id for session in await layer.sessions.list()]
        assert [
            ("a", {"plan": "trial"}, {"k": 1}),
            ("b", {"plan": "paid"}, {}),
            ("c", {"plan": "trial"}, {}),
        ] == sorted(seen)
        assert await is_gone(layer, "a")


async def test_f62_a_predicate_that_raises_ends_nothing_and_the_other_policies_go_on(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    async with store.layer(reap_every=0.02) as layer:
        layer.reaper.pause()

        def fail(session: Any) -> bool:
            raise ValueError("injected")

        layer.reaper.add_policy(Matching(fail))
        await layer.sessions.create("session")
        await expired(layer, "dead")
        layer.reaper.resume()
        await until(lambda: is_gone(layer, "dead"))

        async def was_logged() -> bool:
            return "injected" in caplog.text

        await until(was_logged)
        assert await layer.sessions.get("session") is not None


async def test_f62_mail_and_finished_streams_are_reaped_whatever_the_policies(store: Store) -> None:
    async with store.layer() as layer:
        for policy in layer.reaper.policies:
            layer.reaper.remove_policy(policy)
        assert () == layer.reaper.policies
        await layer.reaper.run_once()


# ---- F63: what the dead left ----------------------------------------------------------------------------------------


async def test_f63_the_open_streams_of_a_dead_replica_are_finished_with_an_error(store: Store) -> None:
    backend = store.backend()
    async with store.layer(backend) as layer:
        await layer.sessions.create("session")
        async with backend.registry() as registry:
            await registry.join(Replica("dying"))
            await speak(backend, "session", producer="dying")
            await layer.reaper.run_once()
            before = await backend.log.read("session", "stream", 0, 10)
            assert before is not None
            assert not before.finished

            await registry.leave("dying")
            await layer.reaper.run_once()

        after = await backend.log.read("session", "stream", 0, 10)
        assert after is not None
        assert (True, True) == (after.finished, after.taken_over)
        final = json.loads(after.events[-1].message)
        assert ("stream", {"outcome": "unknown"}) == (final["id"], final["error"]["data"])
        assert await layer.sessions.get("session") is not None


async def test_f63_a_replica_whose_heart_stopped_is_declared_dead_and_its_streams_are_finished(store: Store) -> None:
    backend = store.backend()
    async with store.layer(backend) as layer, backend.registry() as registry:
        await layer.sessions.create("session")
        await registry.join(Replica("silent"))
        await speak(backend, "session", producer="silent")

        async def is_finished() -> bool:
            state = await backend.log.read("session", "stream", 0, 10)
            return state is not None and state.finished

        # Nobody reaps: its death alone is enough.
        await until(is_finished)


async def test_f63_without_the_policy_no_sweep_finishes_them(store: Store) -> None:
    backend = store.backend()
    async with store.layer(backend) as layer:
        [by_default] = [policy for policy in layer.reaper.policies if isinstance(policy, Orphaned)]
        layer.reaper.remove_policy(by_default)
        await layer.sessions.create("session")
        dead = await dead_replica(backend)
        await speak(backend, "session", producer=dead)

        await layer.reaper.run_once()

        state = await backend.log.read("session", "stream", 0, 10)
        assert state is not None
        assert not state.finished
        layer.reaper.add_policy(by_default)
        await layer.reaper.run_once()
        state = await backend.log.read("session", "stream", 0, 10)
        assert state is not None
        assert state.finished

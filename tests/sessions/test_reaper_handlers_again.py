"""Expiry handlers run once without faults, and at least once with them, whatever they do to their own session. F59."""

from __future__ import annotations

import anyio
import pytest

from mcpsession import SessionLayer
from mcpsession.records import Session
from tests.sdk.gates import settle
from tests.sessions import reaping
from tests.sessions.reaping import OFTEN, Store, Told, dead_replica, expired, is_gone, speak

store = reaping.store
postgres_store = reaping.postgres_store


# ---- F59: at least once, whoever dies -------------------------------------------------------------------------------


async def test_f59_what_a_dead_replica_had_claimed_is_told_by_another(store: Store) -> None:
    backend = store.backend()
    async with store.layer(backend) as layer:
        told = Told(layer)
        await expired(layer, "session", metadata={"k": 1})
        dead = await dead_replica(backend)
        [claimed] = await backend.reaping.claim(10, by=dead)
        assert "session" == claimed.id

        assert 1 == (await layer.reaper.run_once()).sessions

        assert [("session", "expired")] == told.reasons
        assert {"k": 1} == told.sessions[0].metadata


async def test_f59_what_was_ended_and_not_yet_told_is_told_with_its_reason(store: Store) -> None:
    """The replica died between the record of the end and its handlers."""
    backend = store.backend()
    async with store.layer(backend) as layer:
        told = Told(layer)
        dead = await dead_replica(backend)
        for session_id, reason in (("a", "deleted"), ("b", "terminated"), ("c", "idle")):
            await layer.sessions.create(session_id)
            ended = await backend.sessions.end([session_id], reason, sender=dead, claim=True)
            assert [session_id] == [session.id for session in ended.sessions]

        await layer.reaper.run_once()

        assert [("a", "deleted"), ("b", "terminated"), ("c", "idle")] == sorted(told.reasons)


async def test_f59_a_claim_whose_handlers_never_ended_here_is_told_again_here(store: Store) -> None:
    backend = store.backend()
    async with store.layer(backend) as layer:
        told = Told(layer)
        await expired(layer, "session")
        removing = backend.reaping.before["remove"]
        removing.close()
        with anyio.move_on_after(0.2):
            await layer.reaper.run_once()
        removing.open()
        assert 1 == len(told.sessions)

        assert 1 == (await layer.reaper.run_once()).sessions

        assert 2 == len(told.sessions)
        assert await is_gone(layer, "session")


async def test_f59_what_a_replica_had_not_finished_when_it_left_is_told_by_another(store: Store) -> None:
    async with store.layer() as other:
        told = Told(other)
        async with store.layer() as layer:
            begun = anyio.Event()

            @layer.on_expired
            async def wait_for_ever(session: Session) -> None:
                begun.set()
                await anyio.sleep_forever()

            await expired(layer, "session")
            await layer.reaper.set_interval(OFTEN)
            with anyio.fail_after(5):
                await begun.wait()
            assert 0 == (await other.reaper.run_once()).sessions

        assert 1 == (await other.reaper.run_once()).sessions
        assert [("session", "expired")] == told.reasons


async def test_f59_a_delete_whose_caller_is_cancelled_is_told_to_its_end_and_once(store: Store) -> None:
    async with store.layer() as layer:
        begun, go_on = anyio.Event(), anyio.Event()
        calls: list[str] = []

        @layer.on_expired
        async def take_time(session: Session) -> None:
            calls.append("begun")
            begun.set()
            await go_on.wait()
            calls.append("ended")

        await layer.sessions.create("session")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(layer.sessions.delete, "session")
            with anyio.fail_after(5):
                await begun.wait()
            tasks.cancel_scope.cancel()
        await layer.reaper.run_once()
        assert ["begun"] == calls

        go_on.set()
        with anyio.fail_after(5):
            while not await is_gone(layer, "session"):
                await settle()
        await layer.reaper.run_once()
        assert ["begun", "ended"] == calls


async def test_f59_what_is_claimed_goes_although_the_clock_went_back(postgres_store: Store) -> None:
    """After a fail-over to a standby that is behind, the end's time may lie ahead."""
    backend = postgres_store.backend()
    async with postgres_store.layer(backend) as layer:
        told = Told(layer)
        await layer.sessions.create("session")
        dead = await dead_replica(backend)
        await backend.sessions.end(["session"], "deleted", sender=dead, claim=True)
        await postgres_store.fetch("UPDATE mcpsession.sessions SET expires_at = now() + interval '1 hour'")

        with anyio.fail_after(5):
            await layer.reaper.run_once()

        assert [("session", "deleted")] == told.reasons
        assert await is_gone(layer, "session")


# ---- F59: once, whoever else is at work in this replica -------------------------------------------------------------


async def test_f59_passes_beside_each_other_tell_once(store: Store) -> None:
    """The second looks for what to claim while the first does not know yet what it got."""
    backend = store.backend()
    async with store.layer(backend) as layer:
        told = Told(layer)
        ids = [f"session-{n:03}" for n in range(150)]
        await expired(layer, *ids)
        claiming = backend.reaping.after["claim"]
        claiming.close()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(layer.reaper.run_once)
            with anyio.fail_after(5):
                await claiming.reached.wait()
            tasks.start_soon(layer.reaper.run_once)
            await settle()
            claiming.open()
        assert ids == sorted(told.ids)


async def test_f59_a_pass_leaves_alone_what_a_delete_is_telling_of(store: Store) -> None:
    async with store.layer() as layer:
        calls: list[str] = []
        begun, go_on = anyio.Event(), anyio.Event()

        @layer.on_expired
        async def wait(session: Session) -> None:
            calls.append(session.id)
            begun.set()
            await go_on.wait()

        await layer.sessions.create("session")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(layer.sessions.delete, "session")
            with anyio.fail_after(5):
                await begun.wait()
                assert 0 == (await layer.reaper.run_once()).sessions
            go_on.set()
        assert ["session"] == calls
        assert 0 == (await layer.reaper.run_once()).sessions


# ---- F59: a handler and its own session -----------------------------------------------------------------------------


async def _delete(layer: SessionLayer, session_id: str) -> None:
    assert not await layer.sessions.delete(session_id)


async def _terminate(layer: SessionLayer, session_id: str) -> None:
    assert not await layer.sessions.terminate(session_id)


async def _register(layer: SessionLayer, session_id: str) -> None:
    await layer.sessions.register(session_id, metadata={"new": True})


OWN = {"deletes": _delete, "terminates": _terminate, "re-creates": _register}


@pytest.mark.parametrize("end", ["expires", "is deleted", "is terminated"])
@pytest.mark.parametrize("what", OWN)
async def test_f59_a_handler_that_ends_or_replaces_its_own_session_does_not_block(
    store: Store, what: str, end: str
) -> None:
    async with store.layer() as layer:
        calls: list[str] = []
        refused: list[Exception] = []

        @layer.on_expired
        async def handle(session: Session) -> None:
            calls.append(session.id)
            try:
                await OWN[what](layer, session.id)
            except Exception as error:
                refused.append(error)

        with anyio.fail_after(5):
            if end == "expires":
                await expired(layer, "session")
                await layer.reaper.run_once()
            else:
                await layer.sessions.create("session")
                ending = layer.sessions.delete if end == "is deleted" else layer.sessions.terminate
                await ending("session")
            await layer.reaper.run_once()

        assert ["session"] == calls
        session = await layer.sessions.get("session")
        if what != "re-creates":
            assert ([], None) == (refused, session)
        elif end == "is terminated":
            # A tombstone is for good.
            assert ["SessionExistsError"] == [type(error).__name__ for error in refused]
        else:
            # What its handler made is there after the old one was removed.
            assert [] == refused
            assert session is not None
            assert {"new": True} == session.metadata


async def test_f59_a_session_that_was_made_by_its_predecessors_handler_keeps_what_it_has(store: Store) -> None:
    backend = store.backend()
    async with store.layer(backend) as layer:

        @layer.on_expired
        async def replace(session: Session) -> None:
            if session.metadata.get("new"):
                return
            await layer.sessions.register("session", metadata={"new": True}, state={"k": 1})
            await speak(backend, "session", stream_id="new")

        await layer.sessions.create("session", ttl=0.2)
        await speak(backend, "session", stream_id="old")
        await reaping.all_dead(layer, "session")
        await layer.reaper.run_once()

        assert {"k": 1} == await layer.sessions.state("session")
        assert await backend.log.read("session", "old", 0, 10) is None
        new = await backend.log.read("session", "new", 0, 10)
        assert new is not None
        assert ["said"] == [event.message for event in new.events]
        standalone = await backend.log.read("session", "s", 0, 10)
        assert standalone is not None
        assert ["said"] == [event.message for event in standalone.events]

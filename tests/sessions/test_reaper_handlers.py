"""Expiry handlers: who is told what, and what happens if they fail. F59, F60."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mcpsession import SessionLayer
from mcpsession.model import fingerprint
from mcpsession.policies import Idle, Matching
from mcpsession.records import Session
from tests.sessions import reaping
from tests.sessions.reaping import Store, Told, expired, is_gone, until

store = reaping.store

TIMEOUT = 0.1


# ---- Who is told ----------------------------------------------------------------------------------------------------


async def test_f59_handlers_sync_and_async_are_told_one_after_the_other(store: Store) -> None:
    async with store.layer() as layer:
        told: list[tuple[str, str]] = []

        @layer.on_expired
        def first(session: Session) -> None:
            told.append(("sync", session.id))

        @layer.on_expired
        async def second(session: Session) -> None:
            await anyio.lowlevel.checkpoint()
            told.append(("async", session.id))

        layer.on_expired(lambda session: told.append(("lambda", session.id)))
        await expired(layer, "session")

        assert 1 == (await layer.reaper.run_once()).sessions

        assert [("sync", "session"), ("async", "session"), ("lambda", "session")] == told
        assert await is_gone(layer, "session")


async def test_f59_what_a_handler_returns_is_awaited(store: Store) -> None:
    async with store.layer() as layer:
        told: list[str] = []

        async def remember(session: Session) -> None:
            told.append(session.id)

        layer.on_expired(lambda session: remember(session))
        await expired(layer, "session")
        await layer.reaper.run_once()
        assert ["session"] == told


async def test_f59_a_sync_handler_may_block_without_stopping_the_event_loop(store: Store) -> None:
    async with store.layer() as layer:
        go_on = threading.Event()
        threads: list[threading.Thread] = []

        @layer.on_expired
        def block(session: Session) -> None:
            threads.append(threading.current_thread())
            assert go_on.wait(5)

        await expired(layer, "session")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(layer.reaper.run_once)
            await until(lambda: _so(bool(threads)))
            # Here the loop runs, and the store answers.
            assert await layer.sessions.get("session") is None
            go_on.set()
        assert threading.main_thread() not in threads
        assert await is_gone(layer, "session")


async def test_f59_a_session_is_claimed_while_its_handlers_run_and_dead_for_everyone(store: Store) -> None:
    async with store.layer() as layer, store.layer() as other:
        reached, go_on = anyio.Event(), anyio.Event()

        @layer.on_expired
        async def wait(session: Session) -> None:
            reached.set()
            await go_on.wait()

        told = Told(other)
        await expired(layer, "session")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(layer.reaper.run_once)
            with anyio.fail_after(5):
                await reached.wait()
            assert 0 == (await other.reaper.run_once()).sessions
            assert not await other.sessions.touch("session")
            assert await other.sessions.retrieve("session") is None
            go_on.set()
        assert [] == told.sessions
        assert await is_gone(other, "session")


async def test_f59_three_replicas_tell_of_each_session_once(store: Store) -> None:
    async with store.layer() as a, store.layer() as b, store.layer() as c:
        told = [Told(layer) for layer in (a, b, c)]
        ids = [f"session-{n:03}" for n in range(300)]
        await a.sessions.create_many([a.sessions.new_session(session_id, ttl=0.01) for session_id in ids])
        await reaping.all_dead(a, *ids)

        async with anyio.create_task_group() as tasks:
            for layer in (a, b, c):
                tasks.start_soon(layer.reaper.run_once)

        assert ids == sorted(session_id for one in told for session_id in one.ids)
        assert [] == await a.sessions.list()


# ---- F60: what they are told ----------------------------------------------------------------------------------------


async def test_f60_a_handler_gets_the_whole_record_before_it_is_removed(store: Store) -> None:
    async with store.layer() as layer:
        told = Told(layer)
        still_there: list[bool] = []

        @layer.on_expired
        async def look(session: Session) -> None:
            still_there.append(not await is_gone(layer, session.id))

        await layer.sessions.create(
            "session", ttl=0.3, owner="me", metadata={"k": [1]}, state={"cart": 3}, transport="stdio"
        )
        claim = await layer.sessions.initialization.claim("session")
        await layer.sessions.initialization.complete(
            "session", claim, protocol_version="2025-11-25", client_info={"name": "c"}
        )
        await layer.sessions.initialization.mark_initialized("session")
        whole = await layer.sessions.get("session")
        await reaping.all_dead(layer, "session")

        await layer.reaper.run_once()

        [session] = told.sessions
        assert whole is not None
        for field in ("id", "owner", "namespace", "incarnation", "transport", "metadata", "state", "version", "ttl"):
            assert getattr(whole, field) == getattr(session, field), field
        for field in ("protocol_version", "client_info", "initialized", "created_at", "expires_at"):
            assert getattr(whole, field) == getattr(session, field), field
        assert ("expired", "expired") == (session.status, session.end_reason)
        assert session.last_active_at is not None
        assert [True] == still_there


REASONS: dict[str, Callable[[SessionLayer], Awaitable[object]]] = {
    "deleted": lambda layer: layer.sessions.delete("session"),
    "terminated": lambda layer: layer.sessions.terminate("session"),
    "cleared": lambda layer: layer.sessions.clear_all(confirm=True),
    "replaced": lambda layer: layer.sessions.register("session"),
}


@pytest.mark.parametrize("reason", REASONS)
async def test_f59_a_session_that_is_ended_is_told_of_with_the_reason_before_the_call_returns(
    store: Store, reason: str
) -> None:
    async with store.layer() as layer, store.layer() as other:
        told, elsewhere = Told(layer), Told(other)
        await layer.sessions.create("session", metadata={"k": 1})

        await REASONS[reason](layer)

        assert [("session", reason)] == told.reasons
        [session] = told.sessions
        assert {"k": 1} == session.metadata
        assert session.ended_at is not None
        assert "live" != session.status
        for each in (layer, other):
            await each.reaper.run_once()
        assert [("session", reason)] == told.reasons
        assert [] == elsewhere.sessions


async def test_f59_policies_tell_their_reasons(store: Store) -> None:
    async with store.layer() as layer:
        told = Told(layer)
        await layer.sessions.create("lazy", ttl=None)
        await layer.sessions.create("odd", ttl=None, metadata={"odd": True})
        layer.reaper.add_policy(Matching(lambda session: bool(session.metadata.get("odd"))))
        await layer.reaper.run_once()
        assert [("odd", "policy")] == told.reasons
        layer.reaper.add_policy(Idle(after=0.01))
        await anyio.sleep(0.02)
        await layer.reaper.run_once()
        assert [("odd", "policy"), ("lazy", "idle")] == told.reasons


# ---- F59: when they fail --------------------------------------------------------------------------------------------


async def test_f59_one_that_raises_keeps_neither_the_session_nor_the_others(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    async with store.layer() as layer:

        @layer.on_expired
        async def fail(session: Session) -> None:
            raise ValueError("injected")

        @layer.on_expired
        def fail_too(session: Session) -> None:
            raise ValueError("injected as well")

        told = Told(layer)
        await expired(layer, "session")

        assert 1 == (await layer.reaper.run_once()).sessions

        assert ["session"] == told.ids
        assert await is_gone(layer, "session")
        async with layer.running() as parts:
            assert 2 == parts.telemetry.snapshot()["mcpsession_failed_expiry_handlers_total"]
        assert 0 == layer.reaper.stats.failures
    logged = [record for record in caplog.records if "expiry handler" in record.getMessage()]
    assert 2 == len(logged)
    assert all(record.exc_info for record in logged)
    assert "session session " not in caplog.text
    assert fingerprint("session") in caplog.text


@pytest.mark.parametrize("kind", ["async", "sync", "awaitable"])
async def test_f59_one_that_overruns_its_time_is_left_behind(
    store: Store, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = threading.Event()

    async def overrun(session: Session) -> None:
        await anyio.sleep(30)

    def block(session: Session) -> None:
        go_on.wait(30)

    handlers: dict[str, Any] = {"async": overrun, "sync": block, "awaitable": lambda session: overrun(session)}
    try:
        async with store.layer(handler_timeout=TIMEOUT) as layer:
            layer.on_expired(handlers[kind])
            told = Told(layer)
            await expired(layer, "session")
            began = time.monotonic()

            assert 1 == (await layer.reaper.run_once()).sessions

            assert TIMEOUT <= time.monotonic() - began < 5
            assert ["session"] == told.ids
            assert await is_gone(layer, "session")
            async with layer.running() as parts:
                assert 1 == parts.telemetry.snapshot()["mcpsession_failed_expiry_handlers_total"]
    finally:
        go_on.set()
    assert f"took longer than {TIMEOUT:g} s" in caplog.text


async def test_f59_one_slow_handler_does_not_hold_up_the_other_sessions(store: Store) -> None:
    async with store.layer() as layer:
        go_on = anyio.Event()

        @layer.on_expired
        async def handle(session: Session) -> None:
            if session.id == "slow":
                await go_on.wait()

        told = Told(layer)

        await expired(layer, "slow", *(f"quick-{n}" for n in range(20)))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(layer.reaper.run_once)
            await until(lambda: _so(len(told.sessions) == 20))

            async def all_quick_are_gone() -> bool:
                return all([await is_gone(layer, f"quick-{n}") for n in range(20)])

            # Removed now and then, while one still runs: a crash would have little told again.
            await until(all_quick_are_gone)
            go_on.set()
        assert await is_gone(layer, "slow")


async def _so(fact: bool) -> bool:
    return fact

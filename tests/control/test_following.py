"""A replica that runs applies every message once, whatever happens to its listener, its mail or the store. F81."""

from __future__ import annotations

import logging

import anyio
import pytest

from mcpsession import control
from mcpsession.errors import StoreUnavailableError
from mcpsession.model import Mail
from tests.control.replicas import LOST, ControlPlace, Params, Replica
from tests.sdk.gates import settle, until
from tests.sessions.replicas import given
from tests.sessions.replicas import until as eventually

LISTENERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND query ~* '(LISTEN|mcpsession_ping|pg_notify)'
"""


async def deafen(place: ControlPlace) -> None:
    """End the listening connection of a replica, at least; one that was ended lately may be on its way back."""

    async def ended() -> bool:
        return bool(await place.fetch(LISTENERS))

    await eventually(ended)


async def test_f81_who_was_away_applies_all_that_was_sent_meanwhile_also_what_was_replaced(
    here: Replica, there: Replica
) -> None:
    await there.reach(await here.send(0))
    there.mailbox.before["news"].close()
    for n in range(1, 4):
        await here.send(n)
    await settle()
    there.mailbox.before["news"].open()
    await there.reach(4)

    assert [0, 1, 2, 3] == there.numbers


async def test_f81_who_was_away_for_long_reads_page_by_page(
    here: Replica, there: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_PAGE", 2)
    there.rows.before["read"].close()
    for n in range(7):
        await here.send(n)
    there.rows.before["read"].open()
    await there.reach(7)
    assert [*range(7)] == there.numbers


async def test_f81_applied_is_the_version_up_to_which_all_handlers_are_through(here: Replica, there: Replica) -> None:
    seen: list[int] = []
    there.control.on("reload")(lambda params: seen.append(there.control.applied))
    there.rows.before["read"].close()
    for n in range(3):
        await here.send(n)
    there.rows.before["read"].open()
    await there.reach(3)
    assert [0, 1, 2] == seen


async def test_f81_a_message_without_its_bell_is_heard_with_the_beat(place: ControlPlace, here: Replica) -> None:
    """As if the sender had died between its commit and the bell."""
    async with place.new(beat=0.1, dead_after=2.0) as there:
        assert 1 == await here.rows.append("reload", "", '{"n": 1}', sender=here.id)
        await there.reach(1)
    assert [1] == there.numbers


async def test_f81_a_position_in_the_mail_that_was_lost_loses_no_message(here: Replica, there: Replica) -> None:
    await there.reach(await here.send(1))
    there.mailbox.before["news"].close()
    await here.send(2)
    await here.send(3)
    there.layer._wiring.post_office.position = "of another timeline"
    there.mailbox.before["news"].open()
    there.layer._wiring.post_office.wake()

    await there.reach(3)

    assert [1, 2, 3] == there.numbers


async def test_f81_a_message_is_applied_once_however_often_it_is_rung_for(here: Replica, there: Replica) -> None:
    await there.reach(await here.send(1))
    for _ in range(3):
        there.control.wake()
        await settle()
    await here.layer._wiring.post_office.broadcast(Mail("control", here.id, body="junk"))
    await there.reach(await here.send(2))
    assert [1, 2] == there.numbers


async def test_f81_a_store_that_is_away_delays_and_skips_nothing(here: Replica, there: Replica) -> None:
    failures = iter([StoreUnavailableError("a test says so")] * 2)
    there.rows.failing["read"] = lambda *_: next(failures, None)
    there.rows.failing_after["read"] = lambda *_: next(later, None)
    later = iter([StoreUnavailableError("a test says so, later")])
    # One ring only: that the first attempts failed must not lose it.
    await here.send(1)
    await there.reach(1)
    assert [1] == there.numbers
    assert 4 <= there.rows.calls["read"]


@given(beat=0.05, dead_after=0.4, fence_margin=0.1)
async def test_f81_a_reborn_replica_goes_on_where_it_stood_and_knows_its_own_messages(
    postgres: ControlPlace,
) -> None:
    async with postgres.new() as here, postgres.new() as there:
        await there.reach(await here.send(1))
        old = there.id
        there.rows.before["read"].close()
        await there.send("of its old id")
        await here.send(2)
        await postgres.fetch(LOST, postgres.settings["namespace"], old)
        with anyio.fail_after(10):
            await until(lambda: there.id != old)
        await here.send(3)
        await there.send("of its new id")
        there.rows.before["read"].open()

        await there.reach(5)
        await here.reach(5)

        assert [1, 2, 3] == there.numbers
        assert ["of its old id", "of its new id"] == here.numbers


async def test_f81_a_replica_whose_listener_was_cut_off_applies_all_once(postgres: ControlPlace) -> None:
    async with postgres.new() as here, postgres.new() as there:
        for n in range(20):
            if n % 4 == 0:
                await deafen(postgres)
            await here.send(n)
        await there.reach(20)
        await settle()
    assert [*range(20)] == there.numbers


# ---- Another timeline -----------------------------------------------------------------------------------------------

BACK = """
WITH gone AS (DELETE FROM mcpsession.control WHERE namespace = $1 AND version > $2)
UPDATE mcpsession.control_heads SET version = $2 WHERE namespace = $1
"""
CURRENT = "UPDATE mcpsession.control SET expires_at = 'infinity' WHERE namespace = $1 AND version = ANY($2::bigint[])"


@pytest.mark.parametrize("overtaken", [False, True])
async def test_f81_a_store_that_went_back_in_time_is_noticed_and_all_current_applied_again(
    postgres: ControlPlace, caplog: pytest.LogCaptureFixture, overtaken: bool
) -> None:
    """As after a fail-over to a standby that had not got the last commits; the listener breaks with it."""
    namespace = postgres.settings["namespace"]
    async with postgres.new("reload", "level") as there:
        async with postgres.new() as here:
            for n, method in enumerate(("level", "reload", "reload", "reload")):
                await here.send(n, method)
            await there.reach(4)
        assert [0, 1, 2, 3] == there.numbers
        there.rows.before["read"].close()
        await postgres.fetch(BACK, namespace, 2)
        await postgres.fetch(CURRENT, namespace, [2])
        if overtaken:
            # Of the same version as what was lost, and beyond it.
            for n in (30, 40, 50):
                await there.backend.control._real.append("reload", f"{n}", f'{{"n": {n}}}', sender="another")
        await deafen(postgres)
        there.rows.before["read"].open()

        expected = [0, 1, 30, 40, 50] if overtaken else [0, 1]
        with anyio.fail_after(10):
            await until(lambda: there.numbers[4:] == expected)
        assert "was applied here up to version 4: the store went back in time" in caplog.text
        await until(lambda: there.control.applied == (5 if overtaken else 2))
        async with postgres.new() as here:
            await there.reach(await here.send("after"))
        assert "after" == there.numbers[-1]


async def test_f81_a_beginning_anew_that_fails_is_gone_on_with(
    postgres: ControlPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not as following: what was replaced or forgotten stays so."""
    monkeypatch.setattr(control, "_PAGE", 1)
    namespace = postgres.settings["namespace"]
    async with postgres.new() as here, postgres.new() as there:
        for n in range(3):
            await here.send(n, key=f"{n}")
        await here.send("0 again", key="0")
        await here.send("lost", key="lost")
        await there.reach(5)
        await postgres.fetch(BACK, namespace, 4)
        before = there.rows.calls["read"]
        # Once for the old place, once for the first page; then the store is away.
        there.rows.failing["read"] = lambda *_: (
            StoreUnavailableError("a test says so") if there.rows.calls["read"] == before + 3 else None
        )
        there.control.wake()
        with anyio.fail_after(10):
            await until(lambda: len(there.numbers) == 8)
        await there.reach(4)
        await settle()
        assert [1, 2, "0 again"] == there.numbers[5:]


# ---- The layer's end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cancelled", [False, True])
async def test_f81_a_handler_that_runs_when_the_layer_ends_may_finish(
    place: ControlPlace, here: Replica, cancelled: bool
) -> None:
    ending = place.new()
    reached, go_on = anyio.Event(), anyio.Event()
    begun: list[int] = []
    done: list[int] = []

    @ending.control.on("slow")
    async def work(params: Params) -> None:
        begun.append(params["n"])
        reached.set()
        await go_on.wait()
        # It can still do what it began.
        await ending.send("its last word")
        done.append(params["n"])

    async def live(*, task_status: anyio.abc.TaskStatus[anyio.CancelScope]) -> None:
        with anyio.CancelScope() as scope:
            async with ending:
                # Both in one page.
                ending.rows.before["read"].close()
                task_status.started(scope)
                await reached.wait()
                if cancelled:
                    await anyio.sleep_forever()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            scope = await tasks.start(live)
            await here.send(1, "slow")
            await here.send(2, "slow")
            ending.rows.before["read"].open()
            await reached.wait()
            if cancelled:
                scope.cancel()
            await until(lambda: ending.control._closing)
            go_on.set()
        await here.reach(3)
    assert ([1], [1], ["its last word"]) == (begun, done, here.numbers)


@pytest.mark.parametrize("sync", [False, True])
async def test_f81_a_handler_that_does_not_end_is_cut_off_some_time_after_the_layer(
    place: ControlPlace, here: Replica, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, sync: bool
) -> None:
    monkeypatch.setattr(control, "_END_WITHIN", 0.1)
    ending = place.new()
    reached = anyio.Event()

    async def hang(params: Params) -> None:
        reached.set()
        await anyio.sleep_forever()

    def call_back_and_hang(params: Params) -> None:
        anyio.from_thread.run_sync(reached.set, token=token)
        anyio.from_thread.run(anyio.sleep, 5, token=token)

    token = anyio.lowlevel.current_token()
    ending.control.on("hang")(call_back_and_hang if sync else hang)
    with anyio.fail_after(4), caplog.at_level(logging.WARNING, logger="mcpsession.control"):
        async with ending:
            await here.send(1, "hang")
            await reached.wait()
    assert "control handler of 'hang' was cut off 0.1 s after the layer's end" in caplog.text


async def test_f81_after_the_end_nothing_is_applied(place: ControlPlace, here: Replica) -> None:
    ended = place.new()
    async with ended:
        await ended.reach(await here.send(1))
    await here.send(2)
    await settle()
    assert [1] == ended.numbers

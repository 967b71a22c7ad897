"""A replica that starts applies what is current, before it is ready; so it does not matter that it was down. F81."""

from __future__ import annotations

import logging

import anyio
import pytest

from mcpsession import control
from mcpsession.errors import StoreUnavailableError
from mcpsession.model import News
from tests.control.replicas import ControlPlace, Params, Replica
from tests.sdk.gates import settle, until
from tests.sessions.replicas import given


async def test_f81_a_replica_that_was_down_has_applied_the_newest_of_each_method_and_key_when_it_is_ready(
    place: ControlPlace, here: Replica
) -> None:
    await here.send("first", key="a")
    await here.send("other", "level")
    await here.send("b", key="b")
    await here.send("newest", key="a")
    await here.send("unheard-of", "unheard-of")

    async with place.new("reload", "level") as late:
        assert [("level", "other"), ("reload", "b"), ("reload", "newest")] == late.applied
        assert 5 == late.control.applied
        assert 1 == late.counts("unknown_control_messages")
        await late.reach(await here.send("after"))
        assert ("reload", "after") == late.applied[-1]


async def test_f81_a_replica_applies_its_own_messages_of_an_earlier_life(place: ControlPlace, here: Replica) -> None:
    restarted = place.new()
    async with restarted:
        await restarted.send("of mine")
        await here.reach(1)
        assert [] == restarted.numbers
    async with restarted:
        assert ["of mine"] == restarted.numbers
        assert 1 == restarted.control.applied
        await restarted.reach(await here.send("of another"))
    assert ["of mine", "of another"] == restarted.numbers


async def test_f81_what_is_forgotten_is_not_applied_by_a_replica_that_starts(
    place: ControlPlace, here: Replica
) -> None:
    await here.send("prices", key="prices")
    await here.send("all")

    assert await here.control.forget("reload")
    assert not await here.control.forget("reload")
    assert not await here.control.forget("level")

    async with place.new() as late:
        await late.reach(2)
        assert ["prices"] == late.numbers
        # Nor later, when it follows the log.
        await late.reach(await here.send("after"))
        assert ["prices", "after"] == late.numbers


async def test_f81_a_replica_that_runs_applies_what_is_forgotten_meanwhile(here: Replica, there: Replica) -> None:
    there.rows.before["read"].close()
    await here.send(1)
    assert await here.control.forget("reload")
    there.rows.before["read"].open()
    await there.reach(1)
    assert [1] == there.numbers


async def test_f81_what_is_sent_while_a_replica_starts_is_applied_once(place: ControlPlace, here: Replica) -> None:
    """On each side of its first look at the log."""
    await here.send(1)
    late = place.new()
    gates = late.rows.before["read"], late.rows.after["read"]
    for gate in gates:
        gate.close()

    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(10):
            tasks.start_soon(late.live)
            await gates[0].reached.wait()
            await here.send(2)
            gates[0].open()
            await gates[1].reached.wait()
            await here.send(3)
            await here.send(4)
            gates[1].open()
            await late.reach(4)
        await settle()
        tasks.cancel_scope.cancel()
    assert [2, 3, 4] == late.numbers


async def test_f81_what_is_sent_while_a_handler_of_a_starting_replica_runs_is_applied_once(
    place: ControlPlace, here: Replica
) -> None:
    late = place.new("before", "after")
    go_on, reached = anyio.Event(), anyio.Event()

    @late.control.on("slow")
    async def wait(params: Params) -> None:
        reached.set()
        await go_on.wait()

    for n, method in enumerate(("before", "slow", "after")):
        await here.send(n, method)
    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(10):
            tasks.start_soon(late.live)
            await reached.wait()
            assert "stopped" == late.layer.health().status
            await here.send("replaces one that was applied", "before")
            await here.send("replaces one that was not", "after")
            go_on.set()
            await late.reach(5)
        await settle()
        expected = [
            ("before", 0),
            # It was in the page already; its successor comes after it.
            ("after", 2),
            ("before", "replaces one that was applied"),
            ("after", "replaces one that was not"),
        ]
        assert expected == late.applied
        tasks.cancel_scope.cancel()


async def test_f81_what_is_sent_between_two_pages_of_a_start_is_applied_once(
    place: ControlPlace, here: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_PAGE", 2)
    for n in range(6):
        await here.send(n, key=f"{n}")
    late = place.new()
    gate = late.rows.after["read"]
    gate.close()

    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(10):
            tasks.start_soon(late.live)
            await gate.reached.wait()
            await here.send("1 again", key="1")
            await here.send("5 again", key="5")
            await here.control.forget("reload", "4")
            gate.open()
            await late.reach(8)
        await settle()
        assert [0, 1, 2, 3, "1 again", "5 again"] == late.numbers
        tasks.cancel_scope.cancel()


@given(handler_timeout=0.05)
async def test_f81_handlers_that_hang_or_fail_do_not_keep_a_replica_from_starting(
    place: ControlPlace, here: Replica, caplog: pytest.LogCaptureFixture
) -> None:
    late = place.new("after")

    @late.control.on("hang")
    async def hang(params: Params) -> None:
        await anyio.sleep_forever()

    @late.control.on("fail")
    def fail(params: Params) -> None:
        raise ValueError("a test says so")

    for method in ("hang", "fail", "after"):
        await here.send(1, method)
    with anyio.fail_after(10):
        async with late:
            assert [1] == late.numbers
    assert 2 == late.counts("failed_control_handlers")


async def test_f81_a_handler_may_use_the_layer_while_it_starts(place: ControlPlace, here: Replica) -> None:
    late = place.new()

    @late.control.on("begin")
    async def begin(params: Params) -> None:
        session = await late.layer.sessions.create()
        await late.layer.sessions.delete(session.id)
        await late.layer.broadcaster.publish(News("begun"))
        await late.send("sent while starting")

    await here.send(1, "begin")
    with anyio.fail_after(10):
        async with late:
            await here.reach(2)
    assert ["sent while starting"] == here.numbers
    assert 0 == late.counts("failed_control_handlers")


async def test_f81_a_store_that_goes_away_while_a_replica_starts_ends_the_start(place: ControlPlace) -> None:
    replica = place.new()
    replica.rows.failing["read"] = lambda *_: StoreUnavailableError("a test says so")
    with pytest.raises(StoreUnavailableError):
        await replica.layer.__aenter__()
    replica.rows.failing.clear()
    async with replica:
        assert 1 == await replica.send(1)


async def test_f81_a_start_that_is_given_up_ends_at_once(place: ControlPlace, here: Replica) -> None:
    late = place.new()
    reached, cancelled = anyio.Event(), anyio.Event()

    @late.control.on("slow")
    async def wait(params: Params) -> None:
        reached.set()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    await here.send(1, "slow")
    with anyio.fail_after(4):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(late.live)
            await reached.wait()
            tasks.cancel_scope.cancel()
    assert cancelled.is_set()
    assert "stopped" == late.layer.health().status


async def test_f81_a_start_on_an_empty_log_costs_one_statement_and_says_nothing(
    place: ControlPlace, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="mcpsession.control"):
        async with place.new() as replica:
            assert 1 == replica.rows.calls["read"]
            assert 0 == replica.control.applied
    assert [] == [record for record in caplog.records if record.name == "mcpsession.control"]


async def test_f81_many_replicas_may_start_and_send_at_once(place: ControlPlace) -> None:
    replicas = [place.new() for _ in range(5)]

    async def live(number: int, replica: Replica) -> None:
        async with replica:
            for n in range(5):
                await replica.send((number, n))
            await until(lambda: replica.control.applied == 25)
            # Until all have seen all, nobody goes.
            await until(lambda: all(other.control.applied == 25 or not other.numbers for other in replicas))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for number, replica in enumerate(replicas):
                tasks.start_soon(live, number, replica)
    for number, replica in enumerate(replicas):
        assert len(replica.numbers) == len(set(map(tuple, replica.numbers)))
        for sender in range(5):
            of_sender = [n for other, n in replica.numbers if other == sender]
            # Those that were replaced before it started are missing, at the front.
            assert of_sender == ([] if sender == number else [*range(5 - len(of_sender), 5)])

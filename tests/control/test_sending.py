"""What one replica sends all others apply, once and in order, and nothing that a handler does ends that. F81."""

from __future__ import annotations

import logging
import threading
from typing import Any

import anyio
import pytest

from mcpsession.errors import LayerClosedError, NewsError, StoreUnavailableError
from mcpsession.model import News
from tests.control.replicas import ControlPlace, Params, Replica
from tests.sdk.gates import until
from tests.sessions.replicas import given

# ---- Who applies what -----------------------------------------------------------------------------------------------


async def test_f81_all_other_replicas_apply_a_message_and_the_sender_does_not(
    place: ControlPlace, here: Replica, there: Replica
) -> None:
    async with place.new() as third:
        assert 1 == await here.send("one")
        assert 2 == await third.send("two")
        for replica in (here, there, third):
            await replica.reach(2)

    assert (["two"], ["one", "two"], ["one"]) == (here.numbers, there.numbers, third.numbers)


async def test_f81_messages_are_applied_one_after_the_other_in_order_of_their_versions(
    here: Replica, there: Replica
) -> None:
    running: list[int] = []
    most = 0
    numbers: list[int] = []

    @there.control.on("count")
    async def count(params: Params) -> None:
        nonlocal most
        running.append(params["n"])
        most = max(most, len(running))
        await anyio.sleep(0.001)
        numbers.append(running.pop())

    for n in range(50):
        assert n + 1 == await here.send(n, "count")
    await there.reach(50)

    assert ([*range(50)], 1) == (numbers, most)


async def test_f81_all_handlers_of_a_method_are_told_in_the_order_of_their_registration(
    here: Replica, there: Replica
) -> None:
    told: list[tuple[str, Any]] = []

    @there.control.on("level")
    async def first(params: Params) -> None:
        await anyio.lowlevel.checkpoint()
        told.append(("async", params["n"]))

    @there.control.on("level")
    def second(params: Params) -> None:
        told.append((threading.current_thread().name, params["n"]))

    there.control.on("level")(lambda params: first(params))
    await there.reach(await here.send(1, "level"))

    assert [("async", 1), ("mcpsession-handler", 1), ("async", 1)] == told


async def test_f81_what_one_handler_does_to_the_params_the_next_does_not_see(here: Replica, there: Replica) -> None:
    seen: list[Params] = []

    @there.control.on("level")
    def spoil(params: Params) -> None:
        params["levels"].append("spoilt")

    there.control.on("level")(lambda params: seen.append(params))
    await there.reach(await here.control.send("level", {"levels": ["a"]}))

    assert [{"levels": ["a"]}] == seen


async def test_f81_a_method_that_nobody_registered_is_ignored_and_counted(here: Replica, there: Replica) -> None:
    await here.send(1, "unheard-of")
    await there.reach(await here.send(2))

    assert [2] == there.numbers
    assert (1, 1) == (there.counts("unknown_control_messages"), there.counts("control_messages"))


async def test_f81_a_handler_hears_only_what_comes_after_its_registration(here: Replica, there: Replica) -> None:
    numbers: list[int] = []
    await there.reach(await here.send(1, "level"))

    there.control.on("level")(lambda params: numbers.append(params["n"]))
    await there.reach(await here.send(2, "level"))

    assert [2] == numbers


async def test_f81_params_are_optional_and_of_any_size_that_news_may_have(here: Replica, there: Replica) -> None:
    heard: list[Params] = []
    there.control.on("level")(lambda params: heard.append(params))
    large = {"text": "é" * 100_000, "list": [1, 2.5, None, {"a": True}], "nul": "\x00"}

    await here.control.send("level")
    await there.reach(await here.control.send("level", large))

    assert [{}, large] == heard


async def test_f81_a_handler_may_send_itself(here: Replica, there: Replica) -> None:
    @there.control.on("ask")
    async def answer(params: Params) -> None:
        await there.send(params["n"] + 1)

    await here.send(1, "ask")
    await here.reach(2)

    assert [2] == here.numbers


# ---- Handlers that fail ---------------------------------------------------------------------------------------------


async def test_f81_a_handler_that_fails_is_logged_and_counted_and_the_log_goes_on(
    here: Replica, there: Replica, caplog: pytest.LogCaptureFixture
) -> None:
    errors = [ValueError("no"), SystemExit(3), anyio.get_cancelled_exc_class()()]

    @there.control.on("bad")
    async def fail(params: Params) -> None:
        raise errors[params["n"]]

    @there.control.on("bad")
    def fail_in_a_thread(params: Params) -> None:
        raise errors[params["n"]]

    with caplog.at_level(logging.ERROR, logger="mcpsession.control"):
        for n in range(3):
            await here.send(n, "bad")
        await there.reach(await here.send("after"))

    assert ["after"] == there.numbers
    assert 6 == there.counts("failed_control_handlers")
    messages = [record.getMessage() for record in caplog.records]
    assert 6 == len(messages)
    assert messages[0].endswith("fail failed; control message 1 (bad) counts as applied")


@given(handler_timeout=0.05)
@pytest.mark.parametrize("sync", [False, True])
async def test_f81_a_handler_that_takes_too_long_is_left_and_the_log_goes_on(
    here: Replica, there: Replica, caplog: pytest.LogCaptureFixture, sync: bool
) -> None:
    go_on = threading.Event()

    async def wait(params: Params) -> None:
        await anyio.sleep_forever()

    there.control.on("slow")((lambda params: go_on.wait(10)) if sync else wait)
    await here.send(1, "slow")
    await there.reach(await here.send("after"))
    go_on.set()

    assert ["after"] == there.numbers
    assert "took longer than 0.05 s; control message 1 (slow) counts as applied" in caplog.text


async def test_f81_a_handler_that_runs_does_not_hold_up_mail(here: Replica, there: Replica) -> None:
    """Answers, cancellations and news come through meanwhile."""
    go_on = anyio.Event()
    reached = anyio.Event()
    news: list[str] = []

    @there.control.on("slow")
    async def wait(params: Params) -> None:
        reached.set()
        await go_on.wait()

    there.layer.broadcaster.listen(lambda heard: news.append(heard.news.method) if heard else None)
    with anyio.fail_after(10):
        await here.send(1, "slow")
        await reached.wait()
        await here.layer.broadcaster.publish(News("meanwhile"))
        await until(lambda: news)
        assert 0 == there.control.applied
        go_on.set()
    await there.reach(1)


# ---- What cannot be sent --------------------------------------------------------------------------------------------


@given(max_news_bytes=1024)
@pytest.mark.parametrize(
    ("method", "params", "key", "complaint"),
    [
        ("", {}, "", "method"),
        (None, {}, "", "method"),
        ("m" * 201, {}, "", "method"),
        ("m\x00", {}, "", "NUL"),
        ("reload", [], "", "dict"),
        ("reload", "text", "", "dict"),
        ("reload", {"n": float("nan")}, "", "JSON"),
        ("reload", {"n": object()}, "", "JSON"),
        ("reload", {"n": "x" * 1024}, "", "max_news_bytes"),
        ("reload", {}, None, "key"),
        ("reload", {}, "k" * 201, "key"),
        ("reload", {}, "\ud800", "surrogate"),
    ],
)
async def test_f81_what_cannot_be_sent_is_refused_and_takes_no_version(
    here: Replica, method: Any, params: Any, key: Any, complaint: str
) -> None:
    with pytest.raises(NewsError, match=complaint):
        await here.control.send(method, params, key=key)
    assert 1 == await here.send(1)


async def test_f81_methods_and_keys_may_be_long(here: Replica, there: Replica) -> None:
    method = "é" * 200
    heard: list[Any] = []
    there.control.on(method)(lambda params: heard.append(params["n"]))
    await there.reach(await here.send(1, method, key="😀" * 200))
    assert [1] == heard
    assert await here.control.forget(method, "😀" * 200)


async def test_f81_nothing_is_sent_while_the_layer_does_not_run(place: ControlPlace) -> None:
    replica = place.new()
    for _ in range(2):
        with pytest.raises(LayerClosedError):
            await replica.send(1)
        with pytest.raises(LayerClosedError):
            await replica.control.forget("reload")
        async with replica:
            pass
    async with replica:
        assert 1 == await replica.send(1)


async def test_f81_a_store_that_is_away_is_told_to_the_sender(here: Replica, there: Replica) -> None:
    here.rows.failing["append"] = lambda *_: StoreUnavailableError("a test says so")
    with pytest.raises(StoreUnavailableError):
        await here.send(1)
    here.rows.failing.clear()
    await there.reach(await here.send(2))
    assert [2] == there.numbers


def test_f81_a_handler_is_registered_for_a_method(place: ControlPlace) -> None:
    control = place.new().control

    def handler(params: Params) -> None: ...

    assert handler is control.on("level")(handler)
    with pytest.raises(TypeError, match="name the method"):
        control.on(handler)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="control handler"):
        control.on("level")("text")  # type: ignore[type-var]
    with pytest.raises(NewsError):
        control.on("")
    assert "<ControlLog, applied up to 0: level, reload>" == repr(control)


async def test_f81_a_row_that_is_no_message_is_ignored(
    here: Replica, there: Replica, caplog: pytest.LogCaptureFixture
) -> None:
    for text in ("junk", "[1]", "1", "null", "[" * 100_000, '{"n": '):
        await here.rows.append("reload", "", text, sender="nobody")
    version = await here.send("after")
    for replica in (here, there):
        await replica.reach(version)

    assert ["after"] == there.numbers
    assert 2 * 6 == caplog.text.count("is malformed and was ignored")

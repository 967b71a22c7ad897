"""SessionStore, changes: what a session's life and settings become, told to all in the same transaction."""

from __future__ import annotations

import anyio
import pytest

from mcpsession.contracts import Backend
from mcpsession.records import Change
from tests.contract.given import a_session, expire, expired, given, mail_since, record, until

# changes


@pytest.mark.parametrize("change", [Change(ttl=5.0), Change(ttl=None), Change(log_level="error"), Change(failure="x")])
async def test_a_change_comes_with_mail_to_all(backend: Backend, change: Change) -> None:
    await a_session(backend, ttl=60.0)
    position = await backend.mailbox.position()

    assert await backend.sessions.change("session", change, sender="a") is True

    [mail] = await mail_since(backend, position)
    assert ("changed", "a", None, "session") == (mail.kind, mail.sender, mail.recipient, mail.session_id)


async def test_what_a_change_does_not_name_stays(backend: Backend) -> None:
    await a_session(backend, ttl=60.0, log_level="debug", metadata={"k": 1}, state={"n": 1})
    before = await record(backend)

    await backend.sessions.change("session", Change(log_level="error"), sender="a")

    after = await record(backend)
    assert "error" == after.log_level
    for field in ("ttl", "expires_at", "failure", "metadata", "state", "version", "owner", "incarnation", "created_at"):
        assert getattr(before, field) == getattr(after, field), field

    await backend.sessions.change("session", Change(failure="it broke"), sender="a")

    failed = await record(backend)
    assert ("it broke", "error", "error") == (failed.failure, failed.log_level, failed.phase)
    assert before.expires_at == failed.expires_at


async def test_a_session_fails_once(backend: Backend) -> None:
    await a_session(backend)
    position = await backend.mailbox.position()
    changed: list[bool] = []

    async def fail(reason: str) -> None:
        changed.append(await backend.sessions.change("session", Change(failure=reason), sender="a"))

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(fail, f"reason {number}")
    first = (await record(backend)).failure
    await fail("too late")

    assert [False] * 4 + [True] == sorted(changed)
    assert first == (await record(backend)).failure
    assert 1 == len(await mail_since(backend, position))
    # All else can still be changed.
    assert await backend.sessions.change("session", Change(ttl=None), sender="a")


async def test_a_request_sees_what_was_changed(backend: Backend) -> None:
    await a_session(backend, ttl=60.0)

    await backend.sessions.change("session", Change(ttl=30.0, log_level="error", failure="it broke"), sender="a")

    got = await backend.sessions.get("session")
    assert got is not None
    assert (30.0, "error", "it broke") == (got.ttl, got.log_level, got.failure)


async def test_a_new_ttl_counts_anew_from_now_shorter_or_longer(backend: Backend) -> None:
    await a_session(backend, ttl=60.0)
    for ttl in (10.0, 600.0):
        assert await backend.sessions.change("session", Change(ttl=ttl), sender="a")

        changed = await record(backend)
        assert ttl == changed.ttl
        assert changed.remaining is not None
        assert ttl - 1 < changed.remaining <= ttl + 0.01


async def test_a_life_can_be_made_endless_and_mortal_again(backend: Backend) -> None:
    await a_session(backend, ttl=0.5)

    await backend.sessions.change("session", Change(ttl=None), sender="a")

    endless = await record(backend)
    assert (None, None, None) == (endless.ttl, endless.remaining, endless.expires_at)
    assert {"session": None} == dict(await backend.sessions.touch(["session"]))

    await backend.sessions.change("session", Change(ttl=0.05), sender="a")
    await expired(backend)


# touch


@given(touch_flush=1.0, touch_step=0.001)
async def test_a_touch_moves_the_end_to_no_less_than_the_ttl(backend: Backend) -> None:
    await a_session(backend, ttl=50.0)
    before = await backend.sessions.get("session")

    touched = await backend.sessions.touch(["session"])

    assert touched["session"] is not None
    assert 50.0 <= touched["session"] <= 51.001
    after = await backend.sessions.get("session")
    assert before is not None
    assert after is not None
    assert before.last_active_at is not None
    assert after.last_active_at is not None
    assert before.last_active_at < after.last_active_at


@given(touch_flush=1.0, touch_step=0.001)
async def test_a_touch_gives_back_the_whole_life_with_its_slack(backend: Backend) -> None:
    await a_session(backend, ttl=1.0)

    async def has_aged() -> bool:
        got = await backend.sessions.get("session")
        assert got is not None
        assert got.remaining is not None
        return got.remaining < 1.9

    await until(has_aged)

    remaining = (await backend.sessions.touch(["session"]))["session"]
    assert remaining is not None
    assert 1.95 < remaining <= 2.001


@given(touch_flush=1.0, touch_step=60.0)
async def test_a_touch_within_a_step_leaves_the_end_where_it_is(backend: Backend) -> None:
    """Coarse steps keep most updates out of the index."""
    await a_session(backend, ttl=100.0)
    before = await backend.sessions.get("session")

    touched = await backend.sessions.touch(["session"])

    assert before is not None
    assert before.remaining is not None
    assert touched["session"] is not None
    assert 100.0 < touched["session"] <= before.remaining


async def test_an_active_session_never_expires(backend: Backend) -> None:
    await a_session(backend, ttl=1.0)
    await a_session(backend, "witness", ttl=1.3)
    with anyio.fail_after(5):
        while await backend.sessions.get("witness"):
            assert "session" in await backend.sessions.touch(["session"])
            await anyio.sleep(0.02)

    assert await backend.sessions.get("session") is not None


async def test_a_touch_of_many_names_those_that_live(backend: Backend) -> None:
    await expire(backend, "expired")
    await a_session(backend, "mortal", ttl=100.0)
    await a_session(backend, "eternal", ttl=None)

    touched = await backend.sessions.touch(["expired", "mortal", "unknown", "eternal", "mortal"])

    assert {"eternal", "mortal"} == set(touched)
    assert touched["eternal"] is None
    assert touched["mortal"] is not None


async def test_touching_nothing_is_free(backend: Backend) -> None:
    assert {} == await backend.sessions.touch([])


async def test_those_who_touch_the_same_many_at_once_all_succeed_whatever_their_order(backend: Backend) -> None:
    ids = [f"{number:02}" for number in range(20)]
    for session_id in ids:
        await a_session(backend, session_id, ttl=60.0)
    touched: list[str] = []

    async def touch(ordered: list[str]) -> None:
        for _ in range(5):
            touched.extend(await backend.sessions.touch(ordered))

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(touch, ids if number % 2 else ids[::-1])

    assert sorted(ids * 20) == sorted(touched)


# state


async def test_a_session_begins_with_the_state_that_it_was_given(backend: Backend) -> None:
    session = await a_session(backend, state={"n": [1, "ü"]})

    loaded = await backend.sessions.load_state("session")

    assert loaded is not None
    assert session.version == loaded[0]
    assert {"n": [1, "ü"]} == (await record(backend)).state


async def test_state_is_replaced_by_whoever_read_the_latest(backend: Backend) -> None:
    first = (await a_session(backend)).version
    assert (first, "{}") == await backend.sessions.load_state("session")

    assert first + 1 == await backend.sessions.save_state("session", first, '{"n":1}')
    assert await backend.sessions.save_state("session", first, '{"n":2}') is None

    assert (first + 1, '{"n":1}') == await backend.sessions.load_state("session")
    assert (first + 1, {"n": 1}) == ((got := await record(backend)).version, got.state)


async def test_of_those_who_save_state_at_once_one_succeeds(backend: Backend) -> None:
    first = (await a_session(backend)).version
    saved: dict[int, int | None] = {}

    async def save(number: int) -> None:
        saved[number] = await backend.sessions.save_state("session", first, f'{{"n":{number}}}')

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(save, number)

    [winner] = [number for number, version in saved.items() if version is not None]
    assert (first + 1, f'{{"n":{winner}}}') == await backend.sessions.load_state("session")


async def test_saving_state_counts_as_activity(backend: Backend) -> None:
    version = (await a_session(backend, ttl=1.0)).version
    await a_session(backend, "witness", ttl=1.3)
    before = await record(backend)
    with anyio.fail_after(5):
        while await backend.sessions.get("witness"):
            saved = await backend.sessions.save_state("session", version, "{}")
            assert saved is not None
            version = saved
            await anyio.sleep(0.02)

    after = await record(backend)
    assert before.last_active_at is not None
    assert after.last_active_at is not None
    assert before.last_active_at < after.last_active_at


async def test_a_save_that_came_too_late_is_no_activity(backend: Backend) -> None:
    await a_session(backend, ttl=60.0)
    before = await record(backend)

    await backend.sessions.save_state("session", before.version - 1, "{}")

    after = await record(backend)
    assert (before.last_active_at, before.expires_at) == (after.last_active_at, after.expires_at)

"""SessionStore, changes: with mail in the same transaction, and none that is lost to another."""

from __future__ import annotations

import anyio

from mcpsession.contracts import Backend, ReplicaRegistry
from tests.contract.conftest import Join
from tests.contract.given import a_session, expire, given, until

# changes


async def test_initialized_is_recorded(backend: Backend) -> None:
    await a_session(backend)

    assert await backend.sessions.mark_initialized("session")
    assert await backend.sessions.mark_initialized("session")

    got = await backend.sessions.get("session")
    assert got is not None
    assert got.initialized


async def test_a_new_log_level_comes_with_mail_to_all(backend: Backend) -> None:
    await a_session(backend)
    position = await backend.mailbox.position()

    assert await backend.sessions.set_log_level("session", "error", sender="a")

    got = await backend.sessions.get("session")
    assert got is not None
    assert "error" == got.log_level
    news = await backend.mailbox.news(position)
    assert news is not None
    [mail] = news[0]
    assert ("changed", "a", None, "session") == (mail.kind, mail.sender, mail.recipient, mail.session_id)


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


# terminate


async def test_a_termination_names_who_must_hear_of_it(backend: Backend, join: Join, registry: ReplicaRegistry) -> None:
    await a_session(backend, owner="alice")
    await join("a", "b", "gone")
    await registry.leave("gone")
    position = await backend.mailbox.position()

    termination = await backend.sessions.terminate("session", "alice", sender="a")

    assert termination is not None
    assert ["a", "b"] == sorted(termination.replicas)
    news = await backend.mailbox.news(position)
    assert news is not None
    [mail] = news[0]
    assert (termination.mail_id, "ended", "a", None, "session") == (
        mail.id,
        mail.kind,
        mail.sender,
        mail.recipient,
        mail.session_id,
    )


async def test_someone_else_cannot_terminate_a_session(backend: Backend) -> None:
    await a_session(backend, owner="alice")
    position = await backend.mailbox.position()

    assert await backend.sessions.terminate("session", "mallory", sender="a") is None
    assert await backend.sessions.terminate("session", "", sender="a") is None

    assert await backend.sessions.get("session") is not None
    news = await backend.mailbox.news(position)
    assert news is not None
    assert [] == list(news[0])


async def test_a_session_is_terminated_once(backend: Backend) -> None:
    await a_session(backend)
    terminations = []

    async def terminate() -> None:
        terminations.append(await backend.sessions.terminate("session", "", sender="a"))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(terminate)

    assert 1 == len([termination for termination in terminations if termination])


# state


async def test_state_is_replaced_by_whoever_read_the_latest(backend: Backend) -> None:
    await a_session(backend)
    assert (1, "{}") == await backend.sessions.load_state("session")

    assert 2 == await backend.sessions.save_state("session", 1, '{"n":1}')
    assert await backend.sessions.save_state("session", 1, '{"n":2}') is None

    assert (2, '{"n":1}') == await backend.sessions.load_state("session")


async def test_of_those_who_save_state_at_once_one_succeeds(backend: Backend) -> None:
    await a_session(backend)
    saved: dict[int, int | None] = {}

    async def save(number: int) -> None:
        saved[number] = await backend.sessions.save_state("session", 1, str(number))

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(save, number)

    [winner] = [number for number, version in saved.items() if version is not None]
    assert (2, str(winner)) == await backend.sessions.load_state("session")

"""Directory: whole records, pages in order, and counts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mcpsession.contracts import Backend
from mcpsession.model import NewEvent
from mcpsession.records import Filter, Session, SessionStats
from tests.contract.conftest import Join
from tests.contract.given import a_session, end, enter, expire, opened, terminate, until, write

# records


async def test_a_record_is_whole(backend: Backend) -> None:
    await enter(
        backend,
        Session(
            "session",
            owner="alice",
            transport="stdio",
            protocol_version="2025-11-25",
            client_params='{"clientInfo":{"name":"c"},"capabilities":{"roots":{}}}',
            initialized=True,
            log_level="error",
            metadata={"k": [1, None, "ü"]},
            state={"n": {"m": 1.5}},
            ttl=60.0,
        ),
    )
    await backend.log.append_standalone([("session", NewEvent("1")), ("session", NewEvent("2"))])
    await write(backend, opened("3", "4", "5"))

    [got] = await backend.directory.records(["session"])

    assert ("alice", "stdio", "2025-11-25", True, "error") == (
        got.owner,
        got.transport,
        got.protocol_version,
        got.initialized,
        got.log_level,
    )
    assert ({"name": "c"}, {"roots": {}}) == (got.client_info, got.client_capabilities)
    assert ({"k": [1, None, "ü"]}, {"n": {"m": 1.5}}) == (got.metadata, got.state)
    assert (60.0, 5, "live", "initialized") == (got.ttl, got.event_count, got.status, got.phase)
    assert got.created_at is not None
    assert got.expires_at is not None
    assert 60.0 <= (got.expires_at - got.created_at).total_seconds() <= 60.1
    assert (None, None, None) == (got.ended_at, got.end_reason, got.failure)


async def test_records_say_to_which_namespace_they_belong(backend: Backend, neighbour: Backend) -> None:
    await a_session(backend)
    await a_session(neighbour)

    [ours] = await backend.directory.records(["session"])
    [theirs] = await neighbour.directory.records(["session"])

    assert f"{ours.namespace}-neighbour" == theirs.namespace


async def test_looking_touches_none(backend: Backend) -> None:
    created = await a_session(backend, ttl=60.0)

    await backend.directory.records(["session"])
    await backend.directory.page(Filter(), "", 10)
    await backend.directory.stats()

    [after] = await backend.directory.records(["session"])
    assert created == replace(after, remaining=created.remaining)


async def test_records_of_many_are_of_those_that_live(backend: Backend) -> None:
    await expire(backend, "expired")
    for name in ("a", "b", "terminated", "deleted"):
        await a_session(backend, name, owner=name)
    await terminate(backend, "terminated")
    await end(backend, "deleted")
    everyone = ["b", "unknown", "a", "expired", "terminated", "deleted"]

    assert ["a", "b"] == sorted(session.id for session in await backend.directory.records(everyone))
    assert ["a"] == [session.id for session in await backend.directory.records(everyone, owner="a")]
    assert [] == list(await backend.directory.records([]))


async def test_the_dead_are_shown_to_whoever_asks_for_them(backend: Backend, join: Join) -> None:
    await join("a")
    await a_session(backend, "live")
    await expire(backend, "expired", owner="alice")
    await expire(backend, "claimed")
    await backend.reaping.claim(1, by="a", only=["claimed"])
    await a_session(backend, "terminated")
    await a_session(backend, "deleted")
    await terminate(backend, "terminated")
    await end(backend, "deleted")
    everyone = ["live", "expired", "claimed", "terminated", "deleted", "unknown"]

    found = {session.id: session for session in await backend.directory.records(everyone, include_dead=True)}

    assert {"live": "live", "expired": "expired", "claimed": "expired", "terminated": "terminated"} == {
        session.id: session.status for session in found.values()
    }
    assert {"live": None, "expired": "expired", "claimed": "expired", "terminated": "terminated"} == {
        session.id: session.end_reason for session in found.values()
    }
    hers = await backend.directory.records(everyone, owner="alice", include_dead=True)
    assert ["expired"] == [session.id for session in hers]


# pages


async def test_pages_come_in_order_each_session_once(backend: Backend) -> None:
    for number in range(7):
        await a_session(backend, f"{number}", state={"n": number}, metadata={"m": number})
    await expire(backend, "3 expired")
    await a_session(backend, "4 deleted")
    await end(backend, "4 deleted")

    seen: list[Session] = []
    while page := await backend.directory.page(Filter(), seen[-1].id if seen else "", 3):
        assert len(page) <= 3
        seen.extend(page)

    assert [f"{number}" for number in range(7)] == [session.id for session in seen]
    assert [({"n": 0}, {"m": 0}), ({"n": 1}, {"m": 1})] == [(session.state, session.metadata) for session in seen[:2]]
    assert {None} == {session.event_count for session in seen}


async def test_the_order_of_ids_is_that_of_their_bytes(backend: Backend) -> None:
    """The same in every store, whatever language its database speaks."""
    ids = ["B", "a", "_", "~", "a-b", "ab", "A", "1", "!", "aB", "Ab", "-"]
    for session_id in ids:
        await a_session(backend, session_id)

    assert sorted(ids) == [session.id for session in await backend.directory.page(Filter(), "", 100)]
    assert sorted(ids)[5:8] == [session.id for session in await backend.directory.page(Filter(), sorted(ids)[4], 3)]


FILTERS: list[tuple[Filter, list[str]]] = [
    (Filter(), ["1", "2", "3", "4"]),
    (Filter(owner="alice"), ["1", "2"]),
    (Filter(owner=""), ["4"]),
    (Filter(owner="nobody"), []),
    (Filter(transport="stdio"), ["2", "3"]),
    (Filter(initialized=True), ["1"]),
    (Filter(initialized=False), ["2", "3", "4"]),
    (Filter(protocol_version="2025-06-18"), ["1", "3"]),
    (Filter(protocol_version=""), ["4"]),
    (Filter(idle_for=3600.0), []),
    (Filter(idle_for=0.0), ["1", "2", "3", "4"]),
    (Filter(owner="alice", transport="stdio", initialized=False, protocol_version="2025-11-25"), ["2"]),
    (Filter(owner="alice", protocol_version="2025-06-18"), ["1"]),
]


@pytest.mark.parametrize(("wanted", "expected"), FILTERS, ids=lambda value: str(value)[:70])
async def test_a_page_and_a_count_are_of_those_that_were_asked_for(
    backend: Backend, wanted: Filter, expected: list[str]
) -> None:
    client = {"client_params": "{}"}
    await a_session(backend, "1", owner="alice", protocol_version="2025-06-18", initialized=True, **client)
    await a_session(backend, "2", owner="alice", transport="stdio", protocol_version="2025-11-25", **client)
    await a_session(backend, "3", owner="bob", transport="stdio", protocol_version="2025-06-18", **client)
    await a_session(backend, "4")
    await expire(backend, "5", owner="alice", transport="stdio", initialized=True)

    assert expected == [session.id for session in await backend.directory.page(wanted, "", 100)]
    past_one = [session.id for session in await backend.directory.page(wanted, "1", 100)]
    assert [session_id for session_id in expected if session_id > "1"] == past_one
    assert len(expected) == await backend.directory.count(wanted)


async def test_the_idle_are_those_without_activity(backend: Backend) -> None:
    await a_session(backend, "idle", ttl=60.0)
    await a_session(backend, "active", ttl=60.0)

    async def one_is_idle() -> bool:
        await backend.sessions.touch(["active"])
        return bool(await backend.directory.count(Filter(idle_for=0.2)))

    await until(one_is_idle)

    assert ["idle"] == [session.id for session in await backend.directory.page(Filter(idle_for=0.2), "", 10)]


# stats


async def test_an_empty_namespace_holds_nothing(backend: Backend, neighbour: Backend) -> None:
    await a_session(neighbour, owner="alice", state={"n": 1})

    assert SessionStats() == await backend.directory.stats()


async def test_stats_tell_the_living_from_the_dead(backend: Backend) -> None:
    await a_session(backend, "1", owner="alice", state={"a": 1})
    await a_session(backend, "2", owner="alice", initialized=True, client_params="{}", state={"ü": "ü"})
    await a_session(backend, "3", owner="bob")
    await a_session(backend, "4")
    await expire(backend, "expired", owner="carol", state={"n": 1})
    for name in ("terminated", "deleted"):
        await a_session(backend, name, owner="dave", state={"n": 1})
    await terminate(backend, "terminated")
    await end(backend, "deleted")

    state_bytes = 0
    for session_id in ("1", "2", "3", "4"):
        loaded = await backend.sessions.load_state(session_id)
        assert loaded is not None
        state_bytes += len(loaded[1])
    expected = SessionStats(live=4, initialized=1, expired=1, terminated=1, owners=2, state_bytes=state_bytes)
    assert expected == await backend.directory.stats()
    assert state_bytes >= len('{"a":1}') + len('{"ü":"ü"}') + 4

"""Which sessions there are. F19, F20, F22."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from mcpsession import Session, SessionLayer
from mcpsession.errors import SessionExistsError
from mcpsession.records import Filter, SessionStats
from tests.sessions.replicas import Place, get


def ids(sessions: Any) -> list[str]:
    return [session.id for session in sessions]


# F19: lists


async def test_f19_ten_thousand_come_page_by_page_each_exactly_once(here: SessionLayer, there: SessionLayer) -> None:
    created = set()
    for _ in range(10):
        created |= set(ids(await here.sessions.create_many(here.sessions.new_session() for _ in range(1000))))

    seen: list[str] = []
    while page := await there.sessions.list(after=seen[-1] if seen else "", limit=777):
        assert len(page) <= 777
        seen.extend(ids(page))

    assert 10_000 == len(seen)
    assert created == set(seen)
    assert sorted(seen) == seen


async def test_f19_every_session_can_be_walked_over(here: SessionLayer, there: SessionLayer) -> None:
    await here.sessions.create_many(
        here.sessions.new_session(owner="alice" if number % 2 else "bob", state={"n": number}) for number in range(2500)
    )

    def is_of_the_last(session: Session) -> bool:
        return bool(session.state["n"] >= 2400)

    everyone = [session async for session in there.sessions.each()]
    chosen = [session async for session in there.sessions.each(is_of_the_last)]
    hers = [session async for session in there.sessions.each(is_of_the_last, owner="alice")]
    of_hers = [session async for session in there.sessions.of("alice").each(is_of_the_last)]

    assert Counter(range(2500)) == Counter(session.state["n"] for session in everyone)
    assert ids(sorted(everyone, key=lambda session: session.id)) == ids(everyone)
    assert set(range(2400, 2500)) == {session.state["n"] for session in chosen}
    assert set(range(2401, 2500, 2)) == {session.state["n"] for session in hers}
    assert ids(hers) == ids(of_hers)


async def test_f19_a_walk_can_be_broken_off_and_goes_on_while_sessions_come_and_go(here: SessionLayer) -> None:
    await here.sessions.create_many(here.sessions.new_session(f"{number:05}") for number in range(2000))

    seen: list[str] = []
    async for session in here.sessions.each():
        seen.append(session.id)
        if session.id == "00500":
            await here.sessions.delete_many(["00000", "01500"])
            await here.sessions.create_many([here.sessions.new_session(name) for name in ("00250x", "01750x")])
        if session.id == "01900":
            break

    assert len(seen) == len(set(seen))
    # What came before where it stood, or was read already, is as it was; what comes later is as it is.
    assert "00000" in seen
    assert "00250x" not in seen
    assert "01750x" in seen
    assert "01500" not in seen


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, ["a", "b", "c"]),
        ({"owner": "alice"}, ["a", "b"]),
        ({"owner": ""}, ["c"]),
        ({"transport": "stdio"}, ["b", "c"]),
        ({"owner": "alice", "transport": "stdio"}, ["b"]),
        ({"initialized": False}, ["a", "b", "c"]),
        ({"initialized": True}, []),
        ({"protocol_version": "2025-11-25"}, []),
        ({"idle_for": 3600}, []),
        ({"where": Filter(owner="alice")}, ["a", "b"]),
        ({"where": Filter(owner="alice"), "transport": "stdio"}, ["b"]),
        ({"where": Filter(owner="alice"), "owner": ""}, ["c"]),
    ],
    ids=repr,
)
async def test_f19_lists_and_counts_are_of_those_that_were_asked_for(
    place: Place, here: SessionLayer, there: SessionLayer, wanted: dict[str, Any], expected: list[str]
) -> None:
    await here.sessions.create("a", owner="alice")
    await here.sessions.create("b", owner="alice", transport="stdio")
    await here.sessions.create("c", transport="stdio")
    await here.sessions.create("expired", owner="alice", transport="stdio")
    await here.sessions.create("terminated", owner="alice", transport="stdio")
    await place.expire("expired")
    await here.sessions.terminate("terminated")

    assert expected == ids(await there.sessions.list(**wanted))
    assert expected == ids([session async for session in there.sessions.each(**wanted)])
    assert len(expected) == await there.sessions.count(**wanted)


async def test_f19_a_page_has_at_least_one(here: SessionLayer) -> None:
    await here.sessions.create("a")
    await here.sessions.create("b")

    for limit in (0, -1):
        with pytest.raises(ValueError, match="limit"):
            await here.sessions.list(limit=limit)
    assert ["a"] == ids(await here.sessions.list(limit=1))
    assert ["b"] == ids(await here.sessions.list(after="a", limit=1))
    assert [] == ids(await here.sessions.list(after="b", limit=1))


async def test_f19_a_filter_that_there_is_not_is_refused(here: SessionLayer) -> None:
    wrong: dict[str, Any]
    for wrong in ({"user": "alice"}, {"state": {}}):
        with pytest.raises(TypeError):
            await here.sessions.list(**wrong)
        with pytest.raises(TypeError):
            await here.sessions.count(**wrong)


# F20: counts


async def test_f20_a_count_is_the_length_of_the_list(place: Place, here: SessionLayer, there: SessionLayer) -> None:
    async def both() -> tuple[int, int]:
        return await here.sessions.count(), len(await there.sessions.list())

    assert (0, 0) == await both()
    for name in ("a", "b", "c", "d"):
        await here.sessions.create(name)
    assert (4, 4) == await both()
    await there.sessions.delete("a")
    assert (3, 3) == await both()
    await place.expire("b")
    assert (2, 2) == await both()
    await here.sessions.terminate("c")
    assert (1, 1) == await both()
    await there.sessions.rotate("d")
    assert (1, 1) == await both()
    await there.sessions.cleanup_expired()
    assert (1, 1) == await both()


async def test_f20_stats_count_the_dead_as_well(place: Place, here: SessionLayer, there: SessionLayer) -> None:
    assert SessionStats() == await here.sessions.stats()
    await here.sessions.create("a", owner="alice", state={"n": 1})
    await here.sessions.create("b", owner="alice")
    await here.sessions.create("c")
    await here.sessions.create("expired", owner="bob")
    await here.sessions.create("terminated", owner="bob")
    await here.sessions.create("deleted", owner="bob")
    await place.expire("expired")
    await here.sessions.terminate("terminated")
    await here.sessions.delete("deleted")

    stats = await there.sessions.stats()

    assert (3, 0, 1, 1, 1) == (stats.live, stats.initialized, stats.expired, stats.terminated, stats.owners)
    assert len('{"n": 1}{}{}') == stats.state_bytes


# F22: namespaces


async def test_f22_the_same_id_is_another_session_in_another_namespace(place: Place, here: SessionLayer) -> None:
    async with place.replica(namespace=f"{place.settings['namespace']}-other") as other:
        ours = await here.sessions.create("session", owner="alice", state={"of": "ours"})
        theirs = await other.sessions.create("session", owner="bob", state={"of": "theirs"})
        with pytest.raises(SessionExistsError):
            await other.sessions.create("session")

        assert (place.settings["namespace"], f"{place.settings['namespace']}-other") == (
            ours.namespace,
            theirs.namespace,
        )
        assert ({"of": "ours"}, {"of": "theirs"}) == ((await get(here)).state, (await get(other)).state)
        assert [1, 1] == [await here.sessions.count(), await other.sessions.count()]

        await other.sessions.merge_state("session", {"n": 1})
        assert {"of": "ours"} == await here.sessions.state("session")
        await other.sessions.rotate("session")
        await other.sessions.clear_all(confirm=True)

        assert {"of": "ours"} == await here.sessions.state("session")
        assert [1, 0] == [await here.sessions.count(), await other.sessions.count()]
        assert await here.sessions.delete("session")

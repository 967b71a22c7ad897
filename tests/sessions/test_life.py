"""How long a session lives. F6, F7, F9 to F11, F106."""

from __future__ import annotations

from typing import Any

import pytest

from mcpsession import SessionLayer
from mcpsession.errors import SessionNotFoundError
from mcpsession.presets import PRESETS
from mcpsession.settings import Settings
from tests.sessions.replicas import Place, get, given, timeless, until


async def test_f06_get_finds_neither_what_is_missing_nor_what_expired(
    place: Place, here: SessionLayer, there: SessionLayer
) -> None:
    await here.sessions.create("session")
    await place.expire("session")

    for replica in (here, there):
        assert await replica.sessions.get("session") is None
        assert await replica.sessions.get("missing") is None
        assert {} == await replica.sessions.get_many(["session", "missing"])
    # It is there still, for whoever looks for what went wrong.
    dead = await get(there, include_dead=True)
    assert ("expired", "expired", "closed") == (dead.status, dead.end_reason, dead.phase)


async def test_f06_get_touches_nothing(here: SessionLayer, there: SessionLayer) -> None:
    created = await here.sessions.create("session", ttl=60.0)

    for _ in range(3):
        assert timeless(created) == timeless(await get(there))
    assert {"session": timeless(created)} == {
        key: timeless(value) for key, value in (await there.sessions.get_many(["session"])).items()
    }


async def test_f07_retrieve_counts_as_activity(here: SessionLayer, there: SessionLayer) -> None:
    created = await here.sessions.create("session", ttl=60.0, state={"n": 1})

    retrieved = await there.sessions.retrieve("session")

    assert retrieved is not None
    assert created.last_active_at is not None
    assert retrieved.last_active_at is not None
    assert created.last_active_at < retrieved.last_active_at
    assert {"n": 1} == retrieved.state


async def test_f07_retrieve_never_revives(place: Place, here: SessionLayer, there: SessionLayer) -> None:
    await here.sessions.create("session")
    await place.expire("session")
    before = timeless(await get(here, include_dead=True))

    assert await there.sessions.retrieve("session") is None
    assert await there.sessions.retrieve("missing") is None

    assert before == timeless(await get(here, include_dead=True))


async def test_f09_a_touch_moves_the_end_and_says_whether_it_lived(
    place: Place, here: SessionLayer, there: SessionLayer
) -> None:
    created = await here.sessions.create("session", ttl=60.0)

    async def has_grown() -> bool:
        assert await there.sessions.touch("session") is True
        touched = await get(here)
        assert created.expires_at is not None
        assert touched.expires_at is not None
        assert created.last_active_at is not None
        assert touched.last_active_at is not None
        assert created.last_active_at < touched.last_active_at
        return created.expires_at < touched.expires_at

    # The end moves in coarse steps, so that most touches stay out of its index.
    await until(has_grown)
    await place.expire("session")
    before = timeless(await get(here, include_dead=True))

    for session_id in ("session", "missing"):
        assert await there.sessions.touch(session_id) is False
        with pytest.raises(SessionNotFoundError):
            await there.sessions.touch(session_id, strict=True)
    assert before == timeless(await get(here, include_dead=True))


async def test_f09_many_are_touched_at_once(place: Place, here: SessionLayer, there: SessionLayer) -> None:
    for session_id in ("a", "b", "expired"):
        await here.sessions.create(session_id)
    await place.expire("expired")

    assert {"a", "b"} == await there.sessions.touch_many(["a", "expired", "missing", "b", "a"])
    assert set() == await there.sessions.touch_many([])


async def test_f10_a_session_that_never_expires_survives_reaping(
    place: Place, here: SessionLayer, there: SessionLayer
) -> None:
    await here.sessions.create("eternal", ttl=None)
    await here.sessions.create("mortal", ttl=60.0)
    await place.expire("mortal")

    assert 1 == await there.sessions.cleanup_expired()
    assert 0 == await here.sessions.cleanup_expired()

    eternal = await get(there, "eternal")
    assert (None, None, None) == (eternal.ttl, eternal.expires_at, eternal.remaining)
    assert await there.sessions.get("mortal", include_dead=True) is None


async def test_f10_a_ttl_can_be_changed_while_it_lives(here: SessionLayer, there: SessionLayer) -> None:
    await here.sessions.create("session", ttl=None)

    assert await there.sessions.set_ttl("session", 1000.0) is True
    changed = await get(here)
    assert 1000.0 == changed.ttl
    assert changed.remaining is not None
    assert 999 < changed.remaining <= 1000.1

    assert await here.sessions.set_ttl("session", None) is True
    assert (None, None) == ((got := await get(there)).ttl, got.expires_at)

    assert await there.sessions.set_ttl("session", 0.05) is True

    async def has_expired() -> bool:
        return await here.sessions.get("session") is None

    await until(has_expired)
    assert await here.sessions.set_ttl("session", None) is False
    with pytest.raises(SessionNotFoundError):
        await here.sessions.set_ttl("session", 60.0, strict=True)
    assert 1 == await here.sessions.cleanup_expired()


@pytest.mark.parametrize("ttl", [0, -1, 0.0, float("nan"), float("inf"), float("-inf"), 1e300])
async def test_f10_a_ttl_is_seconds_above_zero(here: SessionLayer, ttl: float) -> None:
    await here.sessions.create("session", ttl=60.0)

    for attempt in (
        lambda: here.sessions.set_ttl("session", ttl),
        lambda: here.sessions.create("other", ttl=ttl),
        lambda: here.sessions.ensure("other", ttl=ttl),
    ):
        with pytest.raises(ValueError, match="ttl"):
            await attempt()
    assert 60.0 == (await get(here)).ttl
    assert await here.sessions.get("other") is None


@given(session_ttl=77.0, touch_flush=2.0, touch_step=60.0)
async def test_f11_the_ttl_of_all_is_a_setting(place: Place, here: SessionLayer) -> None:
    created = await here.sessions.create("session")
    own = await here.sessions.create("own", ttl=10.0)

    assert (77.0, 10.0) == (created.ttl, own.ttl)
    assert created.created_at is not None
    assert created.expires_at is not None
    # The ttl, what a touch may come late, and a tenth as the step.
    assert 77.0 + 2.0 + 7.7 == pytest.approx((created.expires_at - created.created_at).total_seconds(), abs=0.01)
    if place.url is not None:
        row = await place.row("session")
        assert 77.0 == row["ttl"]
        assert 86.7 == pytest.approx((row["expires_at"] - row["created_at"]).total_seconds())


@given(session_ttl=None)
async def test_f11_sessions_can_live_for_ever_by_default(here: SessionLayer) -> None:
    assert (None, None) == ((created := await here.sessions.create()).ttl, created.expires_at)


@given(reap_every=0.02)
async def test_f11_the_interval_of_reaping_is_a_setting(place: Place, here: SessionLayer) -> None:
    await here.sessions.create("session")
    await place.expire("session")

    async def is_gone() -> bool:
        return await here.sessions.get("session", include_dead=True) is None

    await until(is_gone)


async def test_f11_without_an_interval_nothing_is_reaped_but_by_hand(place: Place, here: SessionLayer) -> None:
    await here.sessions.create("session")
    await place.expire("session")
    assert (None, False) == (here.reaper.stats.interval, here.reaper.running)

    assert await here.sessions.get("session", include_dead=True) is not None
    assert 1 == await here.sessions.cleanup_expired()
    assert await here.sessions.get("session", include_dead=True) is None


PRESET_TTLS = {"development": 300.0, "single_node": 3600.0, "cluster": 3600.0}
PRESET_INTERVALS = {"development": 60.0, "single_node": 120.0, "cluster": 120.0}


def preset_layer(place: Place, preset: str, **overrides: Any) -> SessionLayer:
    from mcpsession.postgres.backend import PostgresBackend

    assert place.url is not None
    namespace = {"namespace": place.settings["namespace"]}
    settings = Settings.load({**namespace, **overrides}, {}, preset=preset)
    return SessionLayer(PostgresBackend(place.url, None, settings), settings)


@pytest.mark.parametrize("preset", PRESETS)
async def test_f106_what_a_preset_says_is_what_the_rows_say(postgres: Place, preset: str) -> None:
    async with preset_layer(postgres, preset) as layer:
        await layer.sessions.create("session")

        row = await postgres.row("session")
        assert PRESET_TTLS[preset] == row["ttl"]
        lived = (row["expires_at"] - row["created_at"]).total_seconds()
        assert layer.settings.lifetime(PRESET_TTLS[preset]) == pytest.approx(lived)
        assert PRESET_INTERVALS[preset] == layer.reaper.interval


@pytest.mark.parametrize("preset", PRESETS)
async def test_f106_each_value_of_a_preset_can_be_overridden(postgres: Place, preset: str) -> None:
    async with preset_layer(postgres, preset, session_ttl=42.0, reap_every=0.02) as layer:
        await layer.sessions.create("session")
        assert 42.0 == (await postgres.row("session"))["ttl"]
        await layer.sessions.create("doomed")
        await postgres.expire("doomed")

        async def is_reaped() -> bool:
            query = "SELECT 1 FROM mcpsession.sessions WHERE namespace = $1 AND id = 'doomed'"
            return not await postgres.fetch(query, postgres.settings["namespace"])

        await until(is_reaped)

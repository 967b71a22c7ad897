"""What presets, arguments and variables say is what stands in the database, and what the reaper goes by."""

from __future__ import annotations

import math
from typing import Any

import asyncpg
import pytest

from mcpsession import SessionLayer
from mcpsession.presets import PRESETS

OVERRIDDEN: dict[str, Any] = {"session_ttl": 7.0, "reap_every": 3.0}


async def stored(url: str, session_id: str) -> tuple[float | None, float | None]:
    """A session's ttl, and the seconds between its last use and its end."""
    connection = await asyncpg.connect(url)
    try:
        row = await connection.fetchrow(
            "SELECT ttl, extract(epoch FROM expires_at - last_active_at)::float8 AS lives FROM mcpsession.sessions"
            " WHERE id = $1",
            session_id,
        )
    finally:
        await connection.close()
    return row["ttl"], row["lives"]


def by_variables(monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"MCPSESSION_{name.upper()}", str(value))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("source", ["preset", "variables", "arguments"])
async def test_f106_sessions_and_the_reaper_go_by_the_preset_and_by_what_overrides_it(
    preset, source, database_url, monkeypatch
):
    expected = PRESETS[preset] if source == "preset" else OVERRIDDEN
    if source == "variables":
        by_variables(monkeypatch, OVERRIDDEN)
    arguments = OVERRIDDEN if source == "arguments" else {}

    async with SessionLayer.from_url(database_url, preset=preset, **arguments) as layer:
        session = await layer.sessions.create()
        ttl, lives = await stored(database_url, session.id)
        assert expected == {"session_ttl": ttl, "reap_every": layer.reaper.interval}
        assert layer.settings.lifetime(ttl) == pytest.approx(lives, abs=0.001)


async def test_f11_a_store_without_a_ttl_keeps_sessions_for_ever_but_those_that_have_their_own(database_url):
    async with SessionLayer.from_url(database_url, session_ttl=None) as layer:
        unending, ending = await layer.sessions.create(), await layer.sessions.create(ttl=9.0)
        assert (None, math.inf) == await stored(database_url, unending.id)
        assert 9.0 == (await stored(database_url, ending.id))[0]


async def test_f106_development_is_a_layer_in_memory_with_the_presets_values():
    async with SessionLayer.development() as layer:
        session = await layer.sessions.create()
        assert PRESETS["development"] == {"session_ttl": session.ttl, "reap_every": layer.reaper.interval}


@pytest.mark.parametrize("preset", ["single_node", "cluster"])
async def test_f106_the_other_presets_are_layers_on_a_url(preset, database_url):
    async with getattr(SessionLayer, preset)(database_url, session_ttl=11.0) as layer:
        session = await layer.sessions.create()
        assert 11.0 == (await stored(database_url, session.id))[0]
        assert 120.0 == layer.reaper.interval


def test_f106_a_cluster_in_the_memory_of_one_process_is_refused_before_anything_runs(monkeypatch):
    monkeypatch.setenv("MCPSESSION_PRESET", "cluster")
    with pytest.raises(ValueError, match="'cluster' needs a store that replicas share"):
        SessionLayer.from_url("memory://")

"""Settings come from arguments, the environment, a preset, then the defaults; what cannot work is refused by name."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from mcpsession import SessionLayer
from mcpsession.errors import ConfigurationError
from mcpsession.presets import PRESETS, check_store, chosen
from mcpsession.settings import Settings

NAMES = [setting.name for setting in fields(Settings)]
KINDS = {setting.name: str(setting.type) for setting in fields(Settings)}

# What is neither the default nor a preset's.
OTHERS: dict[str, Any] = {
    "namespace": "orders",
    "channel_prefix": "orders",
    "label": "pod-1",
    "id_form": "hex",
    "id_prefix": "o-",
    "max_sessions": 10,
    "max_sessions_per_owner": 2,
    "max_id_length": 90,
    "fence_margin": 0.25,
    "reap_every": 240.0,
    "durability": "strict",
    "response_mode": "auto",
    "listener": "optional",
    "stream_wait": 2.0,
    "call_timeout": 20.0,
    "answer_timeout": 30.0,
    "prepared_statements": False,
}


def other_value(name: str) -> Any:
    """A valid value of a setting that nobody else gives it."""
    return OTHERS[name] if name in OTHERS else getattr(Settings(), name) * 2


def another(name: str) -> Any:
    """One more of them."""
    different: dict[str, Any] = {"id_form": "uuid4", "max_id_length": 100, "fence_margin": 0.125}
    if name in different:
        return different[name]
    value = other_value(name)
    if KINDS[name] == "bool":
        return not value
    if name in ("durability", "response_mode", "listener"):
        return getattr(Settings(), name)
    return value + "2" if isinstance(value, str) else value + 1


def companions(name: str) -> dict[str, Any]:
    """What else must be set for a setting's other values to work."""
    return {"dead_after": 9.0} if name == "beat" else {}


def variable(name: str) -> str:
    return f"MCPSESSION_{name.upper()}"


# Where a value comes from


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("preset", [None, *PRESETS])
def test_f106_an_argument_wins_over_the_environment_that_over_the_preset_and_that_over_the_default(name, preset):
    basis = PRESETS[preset].get(name, getattr(Settings(), name)) if preset else getattr(Settings(), name)
    given, in_environment = another(name), other_value(name)
    assert given != in_environment
    assert in_environment != basis

    environment = {variable(name): str(in_environment)}
    more = companions(name)
    assert basis == getattr(Settings.load({}, {}, preset=preset), name)
    assert in_environment == getattr(Settings.load(more, environment, preset=preset), name)
    assert given == getattr(Settings.load({name: given, **more}, environment, preset=preset), name)


@pytest.mark.parametrize("name", [name for name in NAMES if "None" in KINDS[name]])
def test_f106_none_can_be_given_over_a_preset_as_an_argument_and_as_a_variable(name):
    assert getattr(Settings.load({name: None}, {variable(name): "7"}, preset="cluster"), name) is None
    for text in ("none", "None", "never", "off"):
        assert getattr(Settings.load({}, {variable(name): text}, preset="cluster"), name) is None


def test_f11_the_default_ttl_and_the_reapers_interval_can_be_set_by_argument_by_variable_and_by_preset():
    given = {"session_ttl": 7.0, "reap_every": 3.0}
    environment = {"MCPSESSION_SESSION_TTL": "60", "MCPSESSION_REAP_EVERY": "5"}
    for expected, settings in (
        ((3600.0, 60.0), Settings()),
        ((300.0, 60.0), Settings.load({}, {}, preset="development")),
        ((60.0, 5.0), Settings.load({}, environment, preset="development")),
        ((7.0, 3.0), Settings.load(given, environment, preset="development")),
    ):
        assert expected == (settings.session_ttl, settings.reap_every)


@pytest.mark.parametrize("off", [None, 0, 0.0, -0.0])
def test_f11_an_interval_of_none_or_0_is_off(off):
    assert Settings(reap_every=off).reap_every is None


@pytest.mark.parametrize("text", ["none", "off", "0", "0.0"])
def test_f11_an_interval_of_none_or_0_is_off_in_the_environment_too(text):
    assert Settings.load({}, {"MCPSESSION_REAP_EVERY": text}).reap_every is None


@pytest.mark.parametrize("name", NAMES)
def test_a_variable_that_is_empty_counts_as_not_set(name):
    """Compose hands on what is not set as an empty text; no session is to live for ever because of that."""
    assert Settings() == Settings.load({}, {variable(name): " "})


@pytest.mark.parametrize(
    ("text", "expected"), [("1", True), ("Yes", True), ("on", True), ("0", False), ("False", False)]
)
def test_a_switch_is_read_in_words(text, expected):
    assert expected is Settings.load({}, {"MCPSESSION_PREPARED_STATEMENTS": text}).prepared_statements


def test_a_whole_number_of_seconds_is_a_number_of_seconds():
    assert isinstance(Settings(session_ttl=60).session_ttl, float)  # type: ignore[arg-type]


def test_the_environment_is_that_of_the_process(monkeypatch):
    monkeypatch.setenv("MCPSESSION_POOL_SIZE", "3")
    monkeypatch.setenv("MCPSESSION_PRESET", "development")
    settings = Settings.load({})
    assert (3, 300.0) == (settings.pool_size, settings.session_ttl)


# Presets


@pytest.mark.parametrize(
    ("preset", "ttl", "reap_every"),
    [("development", 300.0, 60.0), ("single_node", 3600.0, 120.0), ("cluster", 3600.0, 120.0)],
)
def test_f106_a_preset_sets_the_ttl_and_the_reapers_interval_and_nothing_else(preset, ttl, reap_every):
    expected = replace(Settings(), session_ttl=ttl, reap_every=reap_every)
    assert expected == Settings.load({}, {}, preset=preset)
    assert expected == Settings.load({}, {"MCPSESSION_PRESET": preset})


def test_f106_the_argument_preset_wins_over_the_variable():
    assert 300.0 == Settings.load({}, {"MCPSESSION_PRESET": "cluster"}, preset="development").session_ttl


@pytest.mark.parametrize("empty", ["", " "])
def test_f106_an_empty_variable_chooses_no_preset(empty):
    assert chosen(None, {"MCPSESSION_PRESET": empty}) is None


@pytest.mark.parametrize("preset", ["production", "", "Cluster", 5, ["cluster"]])
def test_f106_an_unknown_preset_is_refused_with_a_list_of_them(preset):
    with pytest.raises(ConfigurationError) as refused:
        Settings.load({}, {}, preset=preset)
    expected = f"preset={preset!r} is not allowed: one of 'development', 'single_node', 'cluster'"
    assert expected == str(refused.value)


def test_f106_an_unknown_preset_in_the_environment_is_refused_with_its_variable():
    with pytest.raises(ConfigurationError, match=r"^MCPSESSION_PRESET='production' is not allowed: one of 'develop"):
        Settings.load({}, {"MCPSESSION_PRESET": "production"})


def test_f106_a_cluster_in_the_memory_of_one_process_is_refused():
    with pytest.raises(ConfigurationError, match="'cluster' needs a store that replicas share: use postgresql://"):
        check_store("cluster", "memory://")


@pytest.mark.parametrize(
    ("preset", "url"),
    [
        (None, "memory://"),
        ("development", "memory://"),
        ("single_node", "memory://"),
        ("cluster", "postgresql://app@db/app"),
        ("cluster", "embedded:///var/lib/orders"),
    ],
)
def test_f106_any_other_preset_runs_on_any_store(preset, url):
    check_store(preset, url)


def test_presets_cannot_be_changed():
    with pytest.raises(TypeError):
        PRESETS["cluster"]["session_ttl"] = 1.0  # type: ignore[index]


# URLs


@pytest.mark.parametrize("url", ["mysql://app@db/app", "db/app", "http://db"])
def test_a_url_of_another_kind_is_refused_with_what_is_allowed(url):
    with pytest.raises(ConfigurationError, match="postgresql://user@host:5432/database"):
        SessionLayer.from_url(url)


def test_a_refused_url_does_not_show_its_password():
    with pytest.raises(ConfigurationError) as refused:
        SessionLayer.from_url("mysql://app:secret@db/app")
    assert "secret" not in str(refused.value)


def test_without_a_url_the_remedy_is_named(monkeypatch):
    monkeypatch.delenv("MCPSESSION_URL", raising=False)
    with pytest.raises(ConfigurationError, match=r"MCPSESSION_URL.*set it to postgresql://"):
        SessionLayer.from_env()


@pytest.mark.parametrize("url", ["embedded://tmp/x", "embedded://", "embedded:///"])
def test_an_embedded_url_needs_an_absolute_path(url):
    """Else the host part would be dropped, and a database made at the file system's root."""
    with pytest.raises(ConfigurationError, match="takes an absolute path, with three slashes"):
        SessionLayer.from_url(url)


def test_sqlalchemys_schemes_are_refused_with_what_to_leave_out():
    with pytest.raises(ConfigurationError, match=r"leave '\+asyncpg' out"):
        SessionLayer.from_url("postgresql+asyncpg://app@db/app")

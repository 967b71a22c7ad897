"""Settings come from arguments, then from the environment; what cannot work is refused with its name."""

from __future__ import annotations

import pytest

from mcpsession import SessionLayer
from mcpsession.errors import ConfigurationError
from mcpsession.settings import Settings


def test_an_argument_wins_over_the_environment_and_that_over_the_default():
    environment = {"MCPSESSION_SESSION_TTL": "60", "MCPSESSION_POOL_SIZE": "3"}
    settings = Settings.load({"session_ttl": 5.0}, environment)
    assert (5.0, 3, 1.0) == (settings.session_ttl, settings.pool_size, settings.beat)


def test_never_is_a_ttl():
    assert Settings.load({}, {"MCPSESSION_SESSION_TTL": "never"}).session_ttl is None


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ({"session_ttl": -1.0}, {}, r"session_ttl=-1.0 is not allowed: above 0, or None"),
        ({"colour": "red"}, {}, r"colour='red' is not allowed: there is no such setting"),
        ({}, {"MCPSESSION_BEAT": "often"}, r"MCPSESSION_BEAT='often' is not allowed: a number"),
        ({"durability": "maybe"}, {}, r"'group' or 'strict'"),
        ({"channel_prefix": "x" * 29}, {}, r"1 to 28 bytes"),
    ],
)
def test_a_bad_setting_is_refused_with_its_name_its_value_and_what_is_allowed(arguments, environment, message):
    with pytest.raises(ConfigurationError, match=message):
        Settings.load(arguments, environment)


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

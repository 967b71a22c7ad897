"""A setting that cannot work is refused with its name, or its variable's, its value and what is allowed."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from decimal import Decimal
from typing import Any

import pytest

from mcpsession import allowed
from mcpsession.errors import ConfigurationError
from mcpsession.model import new_session_id
from mcpsession.settings import Settings

KINDS = {setting.name: str(setting.type) for setting in fields(Settings)}

SECONDS_ABOVE_0 = "a number of seconds above 0, at most 1000000000"
SECONDS_FROM_0 = "a number of seconds from 0 to 1000000000"
COUNT = "a whole number from 1 to 2147483647"
JSON = "a whole number from 2 to 268435455"

ALLOWED: dict[str, str] = {
    "namespace": "1 to 200 printable characters",
    "channel_prefix": "1 to 28 bytes of printable characters",
    "label": "0 to 200 printable characters",
    "id_form": "'base64url' or 'hex' or 'uuid4'",
    "id_prefix": "visible ASCII characters (0x21 to 0x7e)",
    "session_ttl": f"{SECONDS_ABOVE_0}, or None",
    "max_sessions": f"{COUNT}, or None",
    "max_sessions_per_owner": f"{COUNT}, or None",
    "max_id_length": "a whole number from 36 to 128",
    "max_state_bytes": JSON,
    "max_metadata_bytes": JSON,
    "max_metadata_depth": "a whole number from 1 to 100",
    "max_stream_events": COUNT,
    "max_stream_bytes": COUNT,
    "max_events": COUNT,
    "max_replay_bytes": COUNT,
    "max_event_bytes": JSON,
    "max_streams_per_session": COUNT,
    "max_subscriptions_per_session": COUNT,
    "touch_flush": SECONDS_ABOVE_0,
    "touch_step": SECONDS_FROM_0,
    "tombstone_ttl": SECONDS_ABOVE_0,
    "stream_ttl": SECONDS_ABOVE_0,
    "mail_ttl": SECONDS_ABOVE_0,
    "beat": SECONDS_ABOVE_0,
    "dead_after": SECONDS_ABOVE_0,
    "fence_margin": SECONDS_ABOVE_0,
    "cache_lease": SECONDS_ABOVE_0,
    "cache_ttl": SECONDS_FROM_0,
    "poll": SECONDS_ABOVE_0,
    "keep_alive": SECONDS_ABOVE_0,
    "reap_every": f"{SECONDS_FROM_0}, or None",
    "reap_batch": COUNT,
    "handler_timeout": SECONDS_ABOVE_0,
    "drain_grace": SECONDS_FROM_0,
    "journal_bytes": COUNT,
    "journal_age": SECONDS_ABOVE_0,
    "durability": "'group' or 'strict'",
    "response_mode": "'sse' or 'auto'",
    "max_message_bytes": "a whole number from 1024 to 268435455",
    "outbound_frames": COUNT,
    "outbound_bytes": COUNT,
    "retry_ms": f"{COUNT}, or None",
    "pool_size": "a whole number from 1 to 1000",
    "acquire_timeout": SECONDS_ABOVE_0,
    "statement_timeout": SECONDS_ABOVE_0,
    "prepared_statements": "True or False",
    "connect_timeout": SECONDS_ABOVE_0,
    "echo_timeout": SECONDS_ABOVE_0,
    "listener": "'required' or 'optional'",
    "max_news_bytes": "a whole number from 1024 to 268435455",
    "subscriber_buffer": "a whole number from 1 to 1000000",
    "debounce": SECONDS_FROM_0,
    "debounce_max": SECONDS_FROM_0,
    "control_ttl": SECONDS_ABOVE_0,
    "request_timeout": SECONDS_ABOVE_0,
    "call_timeout": f"{SECONDS_ABOVE_0}, or None",
    "answer_timeout": f"{SECONDS_ABOVE_0}, or None",
    "stream_wait": SECONDS_FROM_0,
}


def bad_values(name: str) -> list[Any]:
    """Wrong types, and values just outside of the range."""
    kind = KINDS[name].partition(" ")[0]
    none = [] if "None" in KINDS[name] else [None]
    match kind:
        case "float":
            zero = [] if ALLOWED[name].startswith(SECONDS_FROM_0) else [0, 0.0]
            too_long = [1_000_000_001, 10**400, float("inf")]
            return [*none, *zero, *too_long, -0.001, "60", True, float("nan"), Decimal(1), [1.0]]
        case "int":
            least, most = map(int, re.findall(r"\d+", ALLOWED[name]))
            return [*none, least - 1, most + 1, -1, least + 0.5, float(least), str(least), True, float("nan")]
        case "bool":
            return [*none, 0, 1, "true"]
        case "IdForm":
            return [*none, "", "HEX", 1, ["hex"]]
        case _:
            return [*none, "a\x00b", "a\nb", "\ud800", 1, True, b"bytes"]


# What stands in a variable, and how a message shows it.
BAD_TEXTS = {
    "float": {"often": "'often'", "-1": "-1.0", "nan": "nan", "inf": "inf", "1e10": "10000000000.0", "1,5": "'1,5'"},
    "int": {"many": "'many'", "0": "0", "2.5": "'2.5'", "1e3": "'1e3'", "9" * 5000: f"'{'9' * 60}…'"},
    "bool": {"2": "'2'", "maybe": "'maybe'"},
    "IdForm": {"HEX": "'HEX'"},
    "ResponseMode": {"json": "'json'"},
    "str": {"a\nb": r"'a\nb'"},
}


def test_every_setting_has_its_range():
    assert list(KINDS) == list(ALLOWED)
    assert list(KINDS) == list(allowed.ALLOWED)


@pytest.mark.parametrize("name", KINDS)
def test_f106_a_bad_argument_is_refused_with_its_name_its_value_and_what_is_allowed(name):
    for value in bad_values(name):
        for refuse in (
            lambda value=value: Settings(**{name: value}),
            lambda value=value: Settings.load({name: value}, {}),
        ):
            with pytest.raises(ConfigurationError) as refused:
                refuse()
            assert f"{name}={allowed.shown(value)!r} is not allowed: {ALLOWED[name]}" == str(refused.value)
            assert name == refused.value.setting


@pytest.mark.parametrize("name", KINDS)
def test_f106_a_bad_variable_is_refused_with_its_name_its_value_and_what_is_allowed(name):
    variable = f"MCPSESSION_{name.upper()}"
    for text, shown in BAD_TEXTS[KINDS[name].partition(" ")[0]].items():
        with pytest.raises(ConfigurationError) as refused:
            Settings.load({}, {variable: text})
        assert f"{variable}={shown} is not allowed: {ALLOWED[name]}" == str(refused.value)


@pytest.mark.parametrize(
    ("name", "text"), [("namespace", "n" * 201), ("label", "n" * 201), ("channel_prefix", "é" * 15), ("id_prefix", "é")]
)
def test_a_text_that_is_too_long_or_no_visible_ascii_is_refused(name, text):
    with pytest.raises(ConfigurationError) as refused:
        Settings(**{name: text})
    assert f"{name}={allowed.shown(text)!r} is not allowed: {ALLOWED[name]}" == str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dead_after": 1.5}, "dead_after=1.5 is not allowed: at least two beats, with beat=1.0"),
        ({"beat": 2.0}, "dead_after=3.0 is not allowed: at least two beats, with beat=2.0"),
        (
            {"fence_margin": 2.0},
            "fence_margin=2.0 is not allowed: below dead_after less one beat, with dead_after=3.0 and beat=1.0",
        ),
        ({"max_id_length": 40}, "max_id_length=40 is not allowed: at least 43, with id_form='base64url'"),
        ({"max_id_length": 60, "id_form": "hex"}, "max_id_length=60 is not allowed: at least 64, with id_form='hex'"),
        (
            {"id_prefix": "x" * 30, "id_form": "uuid4", "max_id_length": 65},
            f"id_prefix='{'x' * 30}' is not allowed: at most 29 characters, with id_form='uuid4' and max_id_length=65",
        ),
    ],
)
def test_what_cannot_work_together_is_refused_with_what_it_depends_on(arguments, message):
    with pytest.raises(ConfigurationError) as refused:
        Settings(**arguments)
    assert message == str(refused.value)


def test_what_cannot_work_together_names_the_variable_that_it_came_from():
    with pytest.raises(ConfigurationError, match=r"^MCPSESSION_DEAD_AFTER=3.0 is not allowed: .* beat=2.0$"):
        Settings.load({"beat": 2.0}, {"MCPSESSION_DEAD_AFTER": "3"})


def test_what_replace_makes_of_settings_is_checked_as_well():
    with pytest.raises(ConfigurationError, match="pool_size=0"):
        replace(Settings(), pool_size=0)


@pytest.mark.parametrize("form", ["base64url", "hex", "uuid4"])
def test_the_longest_prefix_that_is_allowed_makes_ids_of_exactly_the_longest_length(form):
    room = 128 - len(new_session_id(form))
    assert 128 == len(new_session_id(form, Settings(id_form=form, id_prefix="p" * room).id_prefix))
    with pytest.raises(ConfigurationError, match=f"at most {room} characters"):
        Settings(id_form=form, id_prefix="p" * (room + 1))


@pytest.mark.parametrize(
    ("name", "hint"), [("session_tll", "did you mean session_ttl?"), ("colour", "see mcpsession.settings")]
)
def test_an_argument_that_is_no_setting_is_refused_and_its_value_is_not_shown(name, hint):
    with pytest.raises(ConfigurationError) as refused:
        Settings.load({name: "hunter2"}, {})
    assert f"{name}=… is not allowed: there is no such setting; {hint}" == str(refused.value)


@pytest.mark.parametrize(
    "value", ["postgresql://app:hunter2@db/app" * 20, {"password": "hunter2"}, ["hunter2"], b"hunter2"]
)
def test_a_refused_value_that_may_hold_a_secret_is_not_shown(value):
    with pytest.raises(ConfigurationError) as refused:
        Settings(namespace=value)
    assert "hunter2" not in f"{refused.value} {refused.value.value!r}"


@pytest.mark.parametrize(
    "tiny",
    [
        {"touch_flush": 0.001, "touch_step": 0.001},
        {"tombstone_ttl": 0.05, "mail_ttl": 0.05, "stream_ttl": 0.05},
        {"session_ttl": 0.05, "reap_every": 0.05},
        {"beat": 0.05, "dead_after": 0.3, "fence_margin": 0.1},
        {"max_message_bytes": 1024, "journal_bytes": 1, "max_stream_bytes": 1, "pool_size": 1},
        {"touch_step": 0, "cache_ttl": 0, "drain_grace": 0},
        {"debounce": 0, "debounce_max": 0},
    ],
)
def test_what_is_tiny_and_can_work_is_allowed(tiny):
    settings = Settings(**tiny)
    assert tiny == {name: getattr(settings, name) for name in tiny}

"""What each setting may be, by itself and together with others, and what a message may show of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from mcpsession.model import IdForm


class Refused(NamedTuple):
    """A setting that cannot work, and what would."""

    name: str
    allowed: str


_LONGEST_SHOWN = 60


def first_refused(values: Mapping[str, Any], kinds: Mapping[str, str]) -> Refused | None:
    """The first setting that cannot work by itself, else the first that cannot together with others."""
    for name, kind in kinds.items():
        value, (what, admits) = values[name], ALLOWED[name]
        if value is None and "None" in kind:
            continue
        if not admits(value):
            return Refused(name, what + (", or None" if "None" in kind else ""))
    return next(_refused_together(values), None)


class Hidden:
    """Stands in a message for a value that is better not shown."""

    def __init__(self, instead: str) -> None:
        self._instead = instead

    def __repr__(self) -> str:
        return self._instead


def shown(value: object) -> object:
    """What a message may show of a refused value: no URL (it may hold a password), nothing long, no unknown object."""
    if isinstance(value, str):
        if "://" in value:
            return Hidden("<a URL>")
        return value if len(value) <= _LONGEST_SHOWN else value[:_LONGEST_SHOWN] + "…"
    if value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**128):
        return value
    return Hidden(f"<{type(value).__name__}>")


def kind_of(value: object) -> str:
    """What something is, where the thing itself is never shown."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


# Each by itself


class _Allowed(NamedTuple):
    what: str
    admits: Callable[[Any], bool]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# Thirty years: no clock, of Postgres or of the event loop, overflows within them.
_LONGEST = 1_000_000_000
# What fits into an integer of Postgres.
_MOST = 2**31 - 1
# What a jsonb value may take.
_MOST_JSON = 2**28 - 1

# NaN compares as False, and infinity is too long.
_ABOVE_0 = _Allowed(
    f"a number of seconds above 0, at most {_LONGEST}", lambda value: _is_number(value) and 0 < value <= _LONGEST
)
_FROM_0 = _Allowed(
    f"a number of seconds from 0 to {_LONGEST}", lambda value: _is_number(value) and 0 <= value <= _LONGEST
)
_SWITCH = _Allowed("True or False", lambda value: isinstance(value, bool))


def _whole(least: int = 1, most: int = _MOST) -> _Allowed:
    return _Allowed(
        f"a whole number from {least} to {most}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most,
    )


def _one_of(*choices: str) -> _Allowed:
    return _Allowed(" or ".join(map(repr, choices)), lambda value: isinstance(value, str) and value in choices)


def _text(least: int, most: int) -> _Allowed:
    return _Allowed(
        f"{least} to {most} printable characters",
        lambda value: isinstance(value, str) and least <= len(value) <= most and value.isprintable(),
    )


ALLOWED: Mapping[str, _Allowed] = {
    "namespace": _text(1, 200),
    # 63 bytes is what Postgres allows; a replica's id and the namespace's hash follow the prefix.
    "channel_prefix": _Allowed(
        "1 to 28 bytes of printable characters",
        lambda value: isinstance(value, str) and value.isprintable() and 1 <= len(value.encode()) <= 28,
    ),
    "label": _text(0, 200),
    "id_form": _one_of("base64url", "hex", "uuid4"),
    "id_prefix": _Allowed(
        "visible ASCII characters (0x21 to 0x7e)",
        lambda value: isinstance(value, str) and all("\x21" <= character <= "\x7e" for character in value),
    ),
    "session_ttl": _ABOVE_0,
    "max_sessions": _whole(),
    "max_sessions_per_owner": _whole(),
    # From the shortest form of an id to what the wire takes.
    "max_id_length": _whole(36, 128),
    # An empty object has two bytes already.
    "max_state_bytes": _whole(2, _MOST_JSON),
    "max_metadata_bytes": _whole(2, _MOST_JSON),
    # What is nested more deeply ends JSON encoders.
    "max_metadata_depth": _whole(1, 100),
    "max_stream_events": _whole(),
    "max_stream_bytes": _whole(),
    "max_events": _whole(),
    "max_replay_bytes": _whole(),
    "max_event_bytes": _whole(2, _MOST_JSON),
    "max_streams_per_session": _whole(),
    "max_subscriptions_per_session": _whole(),
    "touch_flush": _ABOVE_0,
    "touch_step": _FROM_0,
    "tombstone_ttl": _ABOVE_0,
    "stream_ttl": _ABOVE_0,
    "mail_ttl": _ABOVE_0,
    "beat": _ABOVE_0,
    "dead_after": _ABOVE_0,
    "fence_margin": _ABOVE_0,
    "cache_lease": _ABOVE_0,
    "cache_ttl": _FROM_0,
    "poll": _ABOVE_0,
    "keep_alive": _ABOVE_0,
    "reap_every": _FROM_0,
    "reap_batch": _whole(),
    "handler_timeout": _ABOVE_0,
    "drain_grace": _FROM_0,
    "journal_bytes": _whole(),
    "journal_age": _ABOVE_0,
    "durability": _one_of("group", "strict"),
    "response_mode": _one_of("sse", "auto"),
    "max_message_bytes": _whole(1024, _MOST_JSON),
    "outbound_frames": _whole(),
    "outbound_bytes": _whole(),
    "retry_ms": _whole(),
    # The pool makes a place for each beforehand.
    "pool_size": _whole(1, 1000),
    "acquire_timeout": _ABOVE_0,
    "statement_timeout": _ABOVE_0,
    "prepared_statements": _SWITCH,
    "connect_timeout": _ABOVE_0,
    "echo_timeout": _ABOVE_0,
    "listener": _one_of("required", "optional"),
    "max_news_bytes": _whole(1024, _MOST_JSON),
    "subscriber_buffer": _whole(1, 1_000_000),
    "debounce": _FROM_0,
    "debounce_max": _FROM_0,
    "control_ttl": _ABOVE_0,
    "request_timeout": _ABOVE_0,
    "call_timeout": _ABOVE_0,
    "answer_timeout": _ABOVE_0,
    "stream_wait": _FROM_0,
}

_ID_LENGTHS: Mapping[IdForm, int] = {"base64url": 43, "hex": 64, "uuid4": 36}


# Together


def _refused_together(values: Mapping[str, Any]) -> Iterator[Refused]:
    beat, dead_after = values["beat"], values["dead_after"]
    if dead_after < 2 * beat:
        yield Refused("dead_after", f"at least two beats, with beat={beat}")
    # Else each wait for the next beat would stop the writing.
    if values["fence_margin"] >= dead_after - beat:
        yield Refused("fence_margin", f"below dead_after less one beat, with dead_after={dead_after} and beat={beat}")
    if values["response_mode"] == "auto" and values["durability"] == "strict":
        yield Refused("response_mode", "'sse', with durability='strict': a JSON body is in no log")
    form, longest = values["id_form"], values["max_id_length"]
    room = longest - _ID_LENGTHS[form]
    if room < 0:
        yield Refused("max_id_length", f"at least {_ID_LENGTHS[form]}, with id_form={form!r}")
    if len(values["id_prefix"]) > room:
        yield Refused("id_prefix", f"at most {room} characters, with id_form={form!r} and max_id_length={longest}")

"""All settings: one frozen object, from arguments, MCPSESSION_* variables or a preset. Each is checked."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from mcpsession import allowed, presets
from mcpsession.errors import ConfigurationError
from mcpsession.model import IdForm, ResponseMode


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the layer behaves. Durations are seconds."""

    namespace: str = "default"
    """Two servers with different namespaces in one database never see or hear each other."""
    channel_prefix: str = "mcpsession"
    label: str = ""
    """What this replica calls itself in health and logs."""

    id_form: IdForm = "base64url"
    """What minted session ids look like: `base64url` (43 characters), `hex` (64) or `uuid4` (36)."""
    id_prefix: str = ""
    session_ttl: float | None = 3600.0
    """A session ends after this long without a request or an open stream; None: never."""
    max_sessions: int | None = None
    """Live sessions in the namespace; one more is refused with 503. Each `initialize` then counts them."""
    max_sessions_per_owner: int | None = None
    """Live sessions of one authenticated principal; one more is refused with 429."""
    max_id_length: int = 128
    max_state_bytes: int = 262_144
    """A session's state as JSON text."""
    max_metadata_bytes: int = 16_384
    max_metadata_depth: int = 8
    """`{}` has depth 1."""
    max_stream_events: int = 100_000
    """Messages of one request stream; the handler that sends more gets an error."""
    max_stream_bytes: int = 256 * 1024 * 1024
    max_events: int = 1000
    """Events that a stream keeps; the oldest go. A call's answer always stays."""
    max_replay_bytes: int = 8 * 1024 * 1024
    """The same in bytes."""
    max_event_bytes: int = 1024 * 1024
    """One event of `layer.events`, as JSON text."""
    max_streams_per_session: int = 1000
    """Calls of one session that run at once on one replica; one more is refused with 429."""
    max_subscriptions_per_session: int = 1000
    touch_flush: float = 5.0
    touch_step: float = 60.0
    """Expiry moves at most this coarsely (and at most a tenth of the ttl)."""
    tombstone_ttl: float = 86400.0
    stream_ttl: float = 600.0
    """How long a finished stream can still be resumed."""
    mail_ttl: float = 3600.0

    beat: float = 1.0
    dead_after: float = 3.0
    fence_margin: float = 0.5
    """A replica stops writing to sockets this much before others may declare it dead."""
    cache_lease: float = 2.0
    cache_ttl: float = 60.0
    """0 reads each request's session from the store."""

    poll: float = 1.0
    """How long a lost bell can delay anything."""
    keep_alive: float = 15.0
    reap_every: float | None = 60.0
    """None or 0: nothing is reaped but by `cleanup_expired()`."""
    reap_batch: int = 1000
    handler_timeout: float = 30.0
    """How long one handler of an expiry, or of a control message, may take."""
    drain_grace: float = 25.0

    journal_bytes: int = 16 * 1024 * 1024
    journal_age: float = 10.0
    """New requests are refused with 503 once the oldest unwritten message is older than this."""
    durability: str = "group"
    """`group`: a frame waits for its stream's row; `strict`: each frame waits for its own."""
    response_mode: ResponseMode = "sse"
    """`sse`: every answer is a stream that can be resumed; `auto`: one that is there at once is a JSON body, and in no
    log."""
    max_message_bytes: int = 1024 * 1024
    outbound_frames: int = 256
    outbound_bytes: int = 4 * 1024 * 1024
    """Frames, or bytes, that a socket may lag behind; if it then takes nothing it is cut, to be resumed."""
    retry_ms: int | None = 1000
    """What clients are told to wait before they reconnect."""

    pool_size: int = 5
    acquire_timeout: float = 5.0
    statement_timeout: float = 10.0
    prepared_statements: bool = True
    """False behind a pooler in transaction mode that does not keep prepared statements (PgBouncer before 1.21)."""
    connect_timeout: float = 10.0
    echo_timeout: float = 5.0
    """How long the listener's start-up probe waits for its own echo."""
    listener: str = "required"
    """`required`: without LISTEN the layer does not start; `optional`: it starts, polls, and goes on trying."""

    max_news_bytes: int = 4 * 1024 * 1024
    """One piece of news, or one control message, as JSON text."""
    subscriber_buffer: int = 32
    """News that a subscriber of the broadcaster may lag behind before its policy counts."""
    debounce: float = 0.05
    """`broadcaster.soon` waits for so long a pause in a burst."""
    debounce_max: float = 1.0
    """And at least once in so long while the burst lasts."""
    control_ttl: float = 86400.0
    """How long a control message that a later one replaced is kept, for replicas that were away."""
    request_timeout: float = 300.0
    """How long a request that an application tracks counts as under way, if it is never completed."""
    call_timeout: float | None = None
    """A client's call that takes longer ends with an error. None: it takes as long as it takes."""
    answer_timeout: float | None = None
    """A question to a client (elicitation, sampling, …) fails after so long, unless it has a timeout of its own. None:
    it waits for as long as its call lives."""
    stream_wait: float = 0.0
    """How long a request to a client that has no standalone stream waits for one before it fails."""

    def __post_init__(self) -> None:
        given = {setting.name: getattr(self, setting.name) for setting in fields(self)}
        if refused := allowed.first_refused(given, _KINDS):
            raise ConfigurationError(refused.name, allowed.shown(given[refused.name]), refused.allowed)
        for name, value in given.items():
            if (normal := _normal(name, value, _KINDS[name])) is not value:
                object.__setattr__(self, name, normal)

    @property
    def is_nameless(self) -> bool:
        """Whether any other server with the defaults in the same database would be taken for one of this one's."""
        defaults = {setting.name: setting.default for setting in fields(self)}
        return all(getattr(self, name) == defaults[name] for name in ("namespace", "channel_prefix"))

    def lifetime(self, ttl: float) -> float:
        """Seconds that a session with this ttl lives from a touch: longer by what touches may come late."""
        return ttl + self.touch_flush + min(ttl / 10, self.touch_step)

    @classmethod
    def load(
        cls, arguments: Mapping[str, Any], environment: Mapping[str, str] | None = None, *, preset: str | None = None
    ) -> Settings:
        """Arguments first, then MCPSESSION_<NAME>, then the preset (or MCPSESSION_PRESET), then the defaults.

        A variable that is empty counts as not set; `none` is None, where a setting can be that.

        Raises ConfigurationError with the name of the setting, or of its variable, the value and what is allowed.
        """
        environment = os.environ if environment is None else environment
        for name in arguments:
            if name not in _KINDS:
                raise ConfigurationError(name, allowed.Hidden("…"), _no_such_setting(name))
        values: dict[str, Any] = {setting.name: setting.default for setting in fields(cls)}
        if chosen := presets.chosen(preset, environment):
            values |= presets.PRESETS[chosen]
        variables = {}
        for name, kind in _KINDS.items():
            variable = _PREFIX + name.upper()
            if name in arguments:
                values[name] = arguments[name]
            elif text := environment.get(variable, "").strip():
                values[name] = _parsed(text, kind)
                variables[name] = variable
        if refused := allowed.first_refused(values, _KINDS):
            name = refused.name
            raise ConfigurationError(variables.get(name, name), allowed.shown(values[name]), refused.allowed)
        return cls(**values)


_PREFIX = "MCPSESSION_"
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
# Each setting's annotation, as text.
_KINDS: Mapping[str, str] = {setting.name: str(setting.type) for setting in fields(Settings)}


def _parsed(text: str, kind: str) -> Any:
    """What the text of a variable means, or the text itself if it means nothing of this kind."""
    if "None" in kind and text.lower() in ("none", "never", "off"):
        return None
    try:
        match kind.partition(" ")[0]:
            case "bool":
                return {**dict.fromkeys(_YES, True), **dict.fromkeys(_NO, False)}.get(text.lower(), text)
            case "int":
                return int(text)
            case "float":
                return float(text)
    except ValueError:
        pass
    return text


def _normal(name: str, value: Any, kind: str) -> Any:
    """A value of the kind that its setting says."""
    if name == "reap_every" and value == 0:
        return None
    return float(value) if kind.startswith("float") and isinstance(value, int) else value


def _no_such_setting(name: str) -> str:
    close = difflib.get_close_matches(name, _KINDS, n=1)
    return "there is no such setting" + (f"; did you mean {close[0]}?" if close else "; see mcpsession.settings")

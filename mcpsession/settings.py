"""All settings: one frozen object, from arguments or from MCPSESSION_* variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from mcpsession.errors import ConfigurationError

_PREFIX = "MCPSESSION_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the layer behaves. Durations are seconds."""

    namespace: str = "default"
    """Two servers with different namespaces in one database never see or hear each other."""
    channel_prefix: str = "mcpsession"
    label: str = ""
    """What this replica calls itself in health and logs."""

    session_ttl: float | None = 3600.0
    """A session ends after this long without a request or an open stream; None: never."""
    max_sessions: int | None = None
    """Live sessions in the namespace; one more is refused with 503."""
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
    reap_every: float = 60.0
    reap_batch: int = 1000
    drain_grace: float = 25.0

    journal_bytes: int = 16 * 1024 * 1024
    journal_age: float = 10.0
    """New requests are refused with 503 once the oldest unwritten message is older than this."""
    durability: str = "group"
    """`group`: a frame waits for its stream's row; `strict`: each frame waits for its own."""
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

    def __post_init__(self) -> None:
        for name in ("beat", "dead_after", "cache_lease", "poll", "keep_alive", "touch_flush", "reap_every"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "a number of seconds above 0")
        _require(self.dead_after >= 2 * self.beat, "dead_after", self.dead_after, "at least two beats")
        _require(
            0 < self.fence_margin < self.dead_after, "fence_margin", self.fence_margin, "above 0, below dead_after"
        )
        _require(self.session_ttl is None or self.session_ttl > 0, "session_ttl", self.session_ttl, "above 0, or None")
        _require(self.max_sessions is None or self.max_sessions > 0, "max_sessions", self.max_sessions, "above 0")
        _require(self.durability in ("group", "strict"), "durability", self.durability, "'group' or 'strict'")
        _require(1 <= len(self.namespace) <= 200, "namespace", self.namespace, "1 to 200 characters")
        # 63 bytes is what Postgres allows; a replica's id and the namespace's hash follow the prefix.
        _require(1 <= len(self.channel_prefix.encode()) <= 28, "channel_prefix", self.channel_prefix, "1 to 28 bytes")
        _require(self.pool_size >= 1, "pool_size", self.pool_size, "at least 1")
        _require(self.max_message_bytes >= 1024, "max_message_bytes", self.max_message_bytes, "at least 1024")

    @property
    def slack(self) -> float:
        """How much longer than its ttl a session may live, so that coarse touches never cut one short."""
        return self.touch_flush + self.touch_step

    @classmethod
    def load(cls, arguments: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Settings:
        """Arguments first, then MCPSESSION_<NAME>, then the defaults.

        Raises ConfigurationError with the setting's name, the value and what is allowed.
        """
        environment = os.environ if environment is None else environment
        values = {}
        for setting in fields(cls):
            variable = _PREFIX + setting.name.upper()
            if setting.name in arguments:
                values[setting.name] = arguments[setting.name]
            elif variable in environment:
                values[setting.name] = _parse(variable, environment[variable], str(setting.type))
        if unknown := set(arguments) - {setting.name for setting in fields(cls)}:
            raise ConfigurationError(
                sorted(unknown)[0], arguments[sorted(unknown)[0]], "there is no such setting; see mcpsession.settings"
            )
        return cls(**values)


def _parse(variable: str, text: str, kind: str) -> Any:
    if "None" in kind and text.lower() in ("", "none", "never"):
        return None
    if kind == "bool":
        if text.lower() not in ("1", "true", "yes", "on", "0", "false", "no", "off"):
            raise ConfigurationError(variable, text, "true or false")
        return text.lower() in ("1", "true", "yes", "on")
    try:
        if kind.startswith("int"):
            return int(text)
        if kind.startswith("float"):
            return float(text)
    except ValueError:
        raise ConfigurationError(variable, text, "a number" + (" or 'none'" if "None" in kind else "")) from None
    return text


def _require(condition: bool, setting: str, value: object, allowed: str) -> None:
    if not condition:
        raise ConfigurationError(setting, value, allowed)

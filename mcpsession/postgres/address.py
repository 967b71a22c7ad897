"""Where a database is, how to dial it, and what the driver's errors mean to us: they stop here."""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from typing import Any, cast

import asyncpg

from mcpsession.errors import ConfigurationError, MCPSessionError, StoreError, StoreUnavailableError
from mcpsession.settings import Settings

# ---- What the driver's errors mean to us --------------------------------------------------------------------------

DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)

UNIQUE_VIOLATION = "23505"

# Away, try again later. Everything else is a StoreError: the same statement would fail again.
_AWAY = {
    "25006": "it is read-only (a standby, or a primary that was demoted)",
    "40001": "the transaction lost a race",
    "40P01": "the transaction lost a deadlock",
    "55P03": "a lock was not free in time",
    "57014": "the statement was cancelled",
    "57P01": "it is shutting down or the connection was ended by an administrator",
    "57P02": "it crashed and restarts",
    "57P03": "it is starting up or shutting down",
}
# 08: the connection broke, or a pooler found no server; 53: no connections, disk or memory left.
_AWAY_CLASSES = {"08": "the connection was lost", "53": "it has no resources left"}


def translate(error: Exception, where: str) -> MCPSessionError:
    """Our error for one of the driver's; to be raised `from` it."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        if reason := _AWAY.get(state) or _AWAY_CLASSES.get(state[:2]):
            return StoreUnavailableError(f"Postgres at {where}: {reason} (SQLSTATE {state})")
        # What the driver itself refuses to encode has our values in its text, and no message of the server.
        said = getattr(error, "message", None) or "a value cannot be encoded"
        remedy = "; create it (createdb), or correct the URL's database name" if state == "3D000" else ""
        return StoreError(f"{type(error).__name__}: {said}{remedy}", state or None)
    if isinstance(error, TimeoutError):
        return StoreUnavailableError(f"Postgres at {where} did not answer in time")
    if isinstance(error, OSError):
        return StoreUnavailableError(
            f"no connection to Postgres at {where} ({error.strerror or type(error).__name__})",
            "check the host and port of the URL, and that Postgres runs there and accepts connections",
        )
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return StoreUnavailableError(f"no Postgres at {where} accepts writes", "check that one host is a primary")
    if isinstance(error, (asyncpg.InterfaceError, asyncpg.InternalClientError)):
        # Closed, busy, or out of step with the protocol: this connection is of no more use, the next one may be.
        return StoreUnavailableError(f"the connection to Postgres at {where} broke ({type(error).__name__})")
    return StoreError(type(error).__name__)


# ---- Where the database is ----------------------------------------------------------------------------------------


def redacted(url: str) -> str:
    """The URL without its password."""
    # Greedy: an unescaped @ in a password must not leave half of it standing.
    return re.sub(r"(password=)[^&]*", r"\1***", re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url))


def check_url(url: str, setting: str = "url") -> str:
    """Hand back a URL that can work.

    Raises ConfigurationError if it is not one of Postgres.
    """
    if not url.startswith(("postgresql://", "postgres://")):
        raise ConfigurationError(setting, redacted(url), "it must be postgresql://user:password@host:port/database")
    return url


def _where(url: str) -> str:
    rest = url.split("://", 1)[1]
    authority = re.split(r"[/?]", rest.rsplit("@", 1)[-1], maxsplit=1)[0]
    in_query = re.search(r"[?&]host=([^&]+)", rest)
    return authority or (in_query.group(1) if in_query else "the default host")


class OurConnection(asyncpg.Connection):
    """A connection that a release to the pool costs nothing, unless it was left in the middle of a statement."""

    __slots__ = ("_left_midway",)

    def leave_midway(self) -> None:
        """The driver parses a statement in one round trip and runs it in the next. Left between them (cancelled, or
        with a value that cannot be encoded), the server has a transaction open, with locks, until it hears more."""
        self._left_midway = True

    def get_reset_query(self) -> str:
        left_midway, self._left_midway = getattr(self, "_left_midway", False), False
        return "SELECT 1" if left_midway else ""


class Address:
    """A database, and how to dial it."""

    def __init__(self, url: str, settings: Settings, *, setting: str = "url") -> None:
        self._setting = setting
        self.move_to(url)
        label = f" {settings.label}" if settings.label else ""
        self.options: dict[str, Any] = {
            "timeout": settings.connect_timeout,
            "command_timeout": settings.statement_timeout,
            # After a fail-over the old primary may answer still; a multi-host URL finds the new one.
            "target_session_attrs": "read-write",
            "connection_class": OurConnection,
            # 63 bytes is what Postgres keeps; only this parameter passes a pooler's start-up.
            "server_settings": {"application_name": f"mcpsession{label}"[:60]},
            **({} if settings.prepared_statements else {"statement_cache_size": 0}),
        }

    def __repr__(self) -> str:
        return f"<Address {self.where}>"

    def move_to(self, url: str) -> None:
        """From now on, dial this URL."""
        self.url = check_url(url, self._setting)
        self.where = _where(url)

    async def dial(self, **overrides: Any) -> asyncpg.Connection[asyncpg.Record]:
        """A new connection, the caller's to close."""
        try:
            return cast(
                "asyncpg.Connection[asyncpg.Record]", await asyncpg.connect(self.url, **self.options | overrides)
            )
        except DRIVER_ERRORS as error:
            raise self.translate(error) from error
        except ValueError:
            raise self.malformed() from None

    def translate(self, error: Exception) -> MCPSessionError:
        if isinstance(error, asyncpg.ClientConfigurationError):
            return self.malformed()
        return translate(error, self.where)

    def malformed(self) -> ConfigurationError:
        # Not `from` the original: what the driver could not parse may be a piece of the password.
        return ConfigurationError(
            self._setting, redacted(self.url), "it cannot be parsed; escape special characters as %XX"
        )


# ---- A connection that mostly waits -------------------------------------------------------------------------------

# Names of options, not all of which every platform has (macOS calls the first one otherwise).
_KEEP_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPALIVE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


def keep_alive(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Let the operating system notice within about 25 s that the other end is gone, and firewalls that it is not."""
    # The driver has no way to ask for it; without the socket the listener's own pings must do.
    transport = getattr(connection, "_transport", None)
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None or sock.family == getattr(socket, "AF_UNIX", None):
        return
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEP_ALIVE.items():
            if (option := getattr(socket, name, None)) is not None:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)

"""Which store a URL means."""

from __future__ import annotations

from urllib.parse import urlsplit

from mcpsession.contracts import Backend
from mcpsession.errors import ConfigurationError
from mcpsession.settings import Settings

_ALLOWED = "use postgresql://user@host:5432/database, embedded:///path, or memory:// (one process)"


def open_backend(url: str, listen_url: str | None, settings: Settings) -> Backend:
    """The backend for a URL; nothing is connected yet.

    Raises ConfigurationError for a scheme that is none of ours.
    """
    match urlsplit(url).scheme:
        case "memory":
            from mcpsession.memory.backend import MemoryBackend

            return MemoryBackend(settings)
        case "postgresql" | "postgres":
            from mcpsession.postgres.backend import PostgresBackend

            return PostgresBackend(url, listen_url, settings)
        case "embedded":
            from mcpsession.postgres.backend import EmbeddedBackend

            if urlsplit(url).netloc or urlsplit(url).path in ("", "/"):
                allowed = "embedded:// takes an absolute path, with three slashes: embedded:///var/lib/orders"
                raise ConfigurationError("the URL", url, allowed)
            return EmbeddedBackend(urlsplit(url).path, settings)
        case scheme if scheme.startswith(("postgresql+", "postgres+")):
            raise ConfigurationError(
                "the URL's scheme", scheme, f"leave {scheme[scheme.index('+') :]!r} out; {_ALLOWED}"
            )
        case scheme:
            # Not the whole URL: it may hold a password.
            raise ConfigurationError("the URL's scheme", scheme, _ALLOWED)

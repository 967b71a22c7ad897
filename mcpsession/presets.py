"""Starting points: settings that go together, chosen by one name; each can still be set by itself."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from mcpsession.errors import ConfigurationError

VARIABLE = "MCPSESSION_PRESET"

_ON_POSTGRES = MappingProxyType({"session_ttl": 3600.0, "reap_every": 120.0})

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "development": MappingProxyType({"session_ttl": 300.0, "reap_every": 60.0}),
        "single_node": _ON_POSTGRES,
        # The same numbers: one replica on Postgres does all that several need, so that a second one can simply be
        # started. What differs is the store: it must be one that replicas can share.
        "cluster": _ON_POSTGRES,
    }
)


def chosen(preset: str | None, environment: Mapping[str, str]) -> str | None:
    """The preset that counts: the argument, else MCPSESSION_PRESET, else none.

    Raises ConfigurationError, with a list of them, if there is no such preset.
    """
    name, source = (preset, "preset") if preset is not None else (environment.get(VARIABLE, "").strip(), VARIABLE)
    if preset is None and not name:
        return None
    if not isinstance(name, str) or name not in PRESETS:
        raise ConfigurationError(source, name, f"one of {', '.join(map(repr, PRESETS))}")
    return name


def check_store(preset: str | None, url: str) -> None:
    """Raises ConfigurationError for a cluster on a store that lives in one process."""
    if preset == "cluster" and urlsplit(url).scheme == "memory":
        raise ConfigurationError(
            "the URL",
            "memory://",
            "the preset 'cluster' needs a store that replicas share: use postgresql://user@host:5432/database",
        )

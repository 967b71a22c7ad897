"""What a new session must keep to: the form of its id, and the sizes of what comes with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mcpsession.errors import InvalidSessionIdError, LimitExceededError, MetadataError
from mcpsession.records import Session
from mcpsession.session_state import state_text
from mcpsession.settings import Settings
from mcpsession.texts import check_text

# An owner is a key of an index.
MOST_OWNER = 500
# What a store can add to its clock with room to spare: 31 years.
_LONGEST_TTL = 1e9


def checked(session: Session, settings: Settings) -> Session:
    """Hand back a session that can be stored.

    Raises:
        InvalidSessionIdError: no client could send its id as a header.
        LimitExceededError: id, state or metadata is larger, or metadata deeper, than the settings allow.
        UnstorableTextError: its owner or transport has text that no store can hold.
        MetadataError: its metadata is not JSON.
        ValueError: its ttl is not above 0.
    """
    check_id(session.id, settings)
    check_text(session.owner, session.transport)
    if len(session.owner) > MOST_OWNER:
        raise LimitExceededError("owner", MOST_OWNER, len(session.owner), remedy="take a shorter name for it")
    check_ttl(session.ttl)
    _check_metadata(session.metadata, settings)
    state_text(session.state, settings.max_state_bytes)
    return session


def check_ttl(ttl: float | None) -> None:
    """Raises ValueError for what is no time to live."""
    # NaN compares as False as well.
    is_number = isinstance(ttl, (int, float)) and not isinstance(ttl, bool)
    if ttl is not None and not (is_number and 0 < ttl <= _LONGEST_TTL):
        allowed = f"seconds above 0, at most {_LONGEST_TTL:.0f}, or None for a session that never expires"
        raise ValueError(f"ttl={ttl!r} is not allowed: {allowed}")


def check_id(session_id: str, settings: Settings) -> None:
    """Raises InvalidSessionIdError, LimitExceededError."""
    if len(session_id) > settings.max_id_length:
        raise LimitExceededError("max_id_length", settings.max_id_length, len(session_id))
    if not session_id or not all("\x21" <= character <= "\x7e" for character in session_id):
        raise InvalidSessionIdError


def _check_metadata(metadata: Mapping[str, Any], settings: Settings) -> None:
    # Measured before it is encoded: what is nested too deeply would end the encoder.
    depth = _depth(metadata, settings.max_metadata_depth)
    if depth > settings.max_metadata_depth:
        raise LimitExceededError("max_metadata_depth", settings.max_metadata_depth)
    try:
        text = json.dumps(dict(metadata), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise MetadataError(str(error)) from error
    if len(text) > settings.max_metadata_bytes:
        raise LimitExceededError("max_metadata_bytes", settings.max_metadata_bytes, len(text))


def _depth(value: object, most: int) -> int:
    """How deeply a JSON value is nested, counted to one more than `most`."""
    if most < 0 or not isinstance(value, (dict, list, tuple, Mapping)):
        return 0
    parts = value.values() if isinstance(value, Mapping) else value
    return 1 + max((_depth(part, most - 1) for part in parts), default=0)

"""A whole session out of a row of its table: the columns that make one, and the making."""

from __future__ import annotations

import json
from typing import Any

from asyncpg import Record

from mcpsession.records import Session

# The only piece of SQL that several statements share. `s` is the row; dead or alive is told by the clock of the
# statement. Infinity is for comparisons only: no date of Python's can hold it.
COLUMNS = """
    s.id, s.owner, s.namespace, s.incarnation, s.transport, s.protocol_version, s.client_params, s.initialized,
    coalesce(s.init_claim_until > now(), false) AS initializing, s.failure, s.log_level, s.metadata, s.state, s.version,
    s.ttl, CASE WHEN s.status <> 'live' THEN 0
        WHEN s.ttl IS NOT NULL THEN greatest(extract(epoch FROM s.expires_at - now())::float8, 0) END AS remaining,
    s.created_at, s.last_active_at, nullif(s.expires_at, 'infinity') AS expires_at, s.ended_at,
    coalesce(s.end_reason, CASE WHEN s.claimed_by IS NOT NULL OR s.expires_at <= now() THEN 'expired' END)
        AS end_reason,
    CASE WHEN s.status <> 'live' THEN s.status
        WHEN s.claimed_by IS NOT NULL OR s.expires_at <= now() THEN 'expired'
        ELSE 'live' END AS status"""


_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # typeshed has only its users


def session_of(row: Record, event_count: int | None = None) -> Session:
    """The session of a row that begins with COLUMNS."""
    # By position: a list of ten thousand is made of these.
    (
        id_, owner, namespace, incarnation, transport, protocol_version, client_params, initialized, initializing,
        failure, log_level, metadata, state, version, ttl, remaining, created_at, last_active_at, expires_at, ended_at,
        end_reason, status, *_,
    ) = row  # fmt: skip
    return Session(
        id_, owner, namespace, incarnation, transport, protocol_version, client_params, initialized, initializing,
        failure, log_level, _parsed(metadata), _parsed(state), version, ttl, remaining, created_at, last_active_at,
        expires_at, ended_at, end_reason, event_count, status,
    )  # fmt: skip


def _parsed(text: str) -> dict[str, Any]:
    if text == "{}":
        return {}
    # Our own writing: no space before it, nothing after it. Half the cost of json.loads.
    value: dict[str, Any] = _scan(text, 0)[0]
    return value

"""A session as it is stored, and what can be said about sessions. Frozen values, no I/O."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Final, Literal

from mcpsession.model import ReplicaId, SessionId, fingerprint


def new_incarnation() -> int:
    return secrets.randbits(63)


def new_version() -> int:
    return secrets.randbits(40)


class Unchanged(Enum):
    """Stands for a value that is not to change, where None is a value."""

    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED


Status = Literal["live", "expired", "terminated", "removed"]
"""`terminated`: a tombstone; `removed`: ended for another reason, its id is free again."""

EndReason = Literal["expired", "terminated", "deleted", "cleared", "replaced", "idle", "policy"]

Phase = Literal["pre_init", "initializing", "initialized", "error", "closed"]

TRANSITIONS: Mapping[Phase, frozenset[Phase]] = {
    "pre_init": frozenset({"initializing", "error", "closed"}),
    # Back to the beginning: whoever had claimed it gave up, or was gone for longer than its lease.
    "initializing": frozenset({"initialized", "pre_init", "error", "closed"}),
    "initialized": frozenset({"error", "closed"}),
    "error": frozenset({"closed"}),
    "closed": frozenset(),
}
"""Which phase of a session may follow which."""


@dataclass(frozen=True, slots=True, repr=False)
class Session:
    """One client's session, as it was when it was read: a snapshot. It changes with the verbs of `layer.sessions`.

    Its repr is for logs: a fingerprint, not the id, and nothing of what it holds.
    """

    id: SessionId
    owner: str = ""
    """The principal that created it, as canonical text; empty for an anonymous client."""
    namespace: str = ""
    """The server that it belongs to: given by the store."""
    incarnation: int = field(default_factory=new_incarnation)
    """Tells a session from an earlier one that had the same id."""
    transport: str = "streamable-http"
    protocol_version: str = ""
    client_params: str | None = None
    """The client's `initialize` params as JSON text."""
    initialized: bool = False
    initializing: bool = False
    """Somebody has claimed its initialization, and the claim's lease runs."""
    failure: str | None = None
    """Why it cannot be used any more, if it has failed."""
    log_level: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """The application's own, set when it is created."""
    state: Mapping[str, Any] = field(default_factory=dict)
    """What its tools keep; a copy. Only in records of `layer.sessions`, not in what a request meets."""
    version: int = field(default_factory=new_version)
    """Grows by one with each change of the state; begins anywhere, so that no version of an earlier session fits."""
    ttl: float | None = None
    """Seconds of inactivity after which it expires; None means never."""
    remaining: float | None = None
    """Seconds left to live when it was read, by the store's clock; None means for ever."""
    created_at: datetime | None = None
    last_active_at: datetime | None = None
    expires_at: datetime | None = None
    ended_at: datetime | None = None
    end_reason: EndReason | None = None
    event_count: int | None = None
    """Messages that its streams hold; None where they were not counted."""
    status: Status = "live"

    def __repr__(self) -> str:
        # Fit for a log: neither the id, which is a secret, nor what the session holds.
        return f"<Session {fingerprint(self.id)} {self.status} {self.phase}>"

    @property
    def phase(self) -> Phase:
        if self.status != "live":
            return "closed"
        if self.failure is not None:
            return "error"
        if self.initialized:
            return "initialized"
        return "initializing" if self.initializing or self.client_params is not None else "pre_init"

    @property
    def client_info(self) -> Mapping[str, Any]:
        """What the client said of itself: name, version, …; empty before `initialize`."""
        return self._client("clientInfo")

    @property
    def client_capabilities(self) -> Mapping[str, Any]:
        return self._client("capabilities")

    def _client(self, key: str) -> Mapping[str, Any]:
        params: dict[str, Any] = json.loads(self.client_params) if self.client_params else {}
        value = params.get(key)
        return value if isinstance(value, dict) else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What of a session is to change; what is not given stays."""

    ttl: float | Unchanged | None = UNCHANGED
    """Its life counts anew from now; None: it lives for ever."""
    log_level: str | Unchanged = UNCHANGED
    failure: str | Unchanged = UNCHANGED


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """How many sessions may live at once; None: no limit."""

    max_sessions: int | None = None
    max_per_owner: int | None = None
    """Not for anonymous clients, who are nobody in particular."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which sessions a list or a count is about; None: any."""

    owner: str | None = None
    transport: str | None = None
    initialized: bool | None = None
    protocol_version: str | None = None
    idle_for: float | None = None
    """Seconds without activity, at least; touches are written every few seconds."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Sessions that were ended by one statement, whole, and who must hear of it."""

    sessions: Sequence[Session] = ()
    mail_id: int = 0
    replicas: tuple[ReplicaId, ...] = ()
    """The replicas that were alive to hear of it."""
    successor: Session | None = None
    """What a rotated session has become."""


@dataclass(frozen=True, slots=True)
class SessionStats:
    """What a namespace holds; counting costs a look at every row."""

    live: int = 0
    initialized: int = 0
    """Of those that live."""
    expired: int = 0
    """Dead, not removed yet."""
    terminated: int = 0
    """Tombstones."""
    owners: int = 0
    """Principals with a live session."""
    state_bytes: int = 0
    """Of those that live, as JSON text."""

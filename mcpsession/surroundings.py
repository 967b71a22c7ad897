"""What `layer.sessions` works with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mcpsession.contracts import Backend
from mcpsession.endings import Endings
from mcpsession.expiry import ExpiryHandlers
from mcpsession.model import ReplicaId, SessionId
from mcpsession.records import Admission
from mcpsession.settings import Settings


@dataclass(frozen=True, slots=True)
class Surroundings:
    """References, and a few questions that only the layer can answer."""

    backend: Backend
    settings: Settings
    endings: Endings
    handlers: ExpiryHandlers
    me: Callable[[], ReplicaId]
    ttl: Callable[[], float | None]
    """What a session lives without activity, unless it is created with a ttl of its own."""
    admission: Callable[[], Admission]
    changed: Callable[[SessionId], None]
    """Forget here what was known of a session, and ring the others."""
    cleanup: Callable[[], Awaitable[int]]

"""The end of a session in this replica, and what else a replica hears of its sessions."""

from __future__ import annotations

from mcpsession.model import Mail, SessionId
from mcpsession.sdk.dispatch import SESSION_ENDED
from mcpsession.sdk.inbound import Inbound
from mcpsession.sdk.parts import Parts


def introduce(parts: Parts) -> None:
    """Have this replica apply what it hears of its sessions, whoever serves them here. Once for a layer."""

    def end(session_id: SessionId, incarnation: int) -> None:
        apply(parts, session_id, incarnation)

    def change(mail: Mail) -> None:
        changed(parts, mail.session_id or "")

    parts.endings.apply = end
    parts.post_office.on("changed", change)
    Inbound(parts).listen()


def apply(parts: Parts, session_id: SessionId, incarnation: int) -> None:
    """End everything of this session that is in this replica. Idempotent.

    A new session with the same id goes on. A request that is about to load its session loads it after this.
    """
    parts.ended.note(session_id, incarnation)
    parts.cache.drop(session_id)
    parts.waiters.fail_session(session_id, incarnation, SESSION_ENDED)
    parts.in_flight.end_session(session_id, incarnation, SESSION_ENDED.message)
    parts.standalones.end_session(session_id, incarnation)
    parts.readers.end_session(session_id, incarnation)
    # Those who follow the application's streams look, and find that it is over.
    parts.tails.wake_session(session_id)


def announce_change(parts: Parts, session_id: SessionId) -> None:
    """It was changed from here: known here at once, elsewhere with the mail that lies there."""
    changed(parts, session_id)
    parts.post_office.ring_all()


def changed(parts: Parts, session_id: SessionId) -> None:
    """What this replica remembers of the session may be old. Calls that run look again where it matters to them."""
    parts.cache.drop(session_id)
    parts.changes.note(session_id)

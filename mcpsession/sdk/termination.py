"""The end of a session: recorded once, applied on every replica."""

from __future__ import annotations

import logging

import anyio

from mcpsession.model import Mail, Session, SessionId, fingerprint
from mcpsession.sdk.dispatch import SESSION_ENDED
from mcpsession.sdk.parts import Parts

logger = logging.getLogger(__name__)

ENDED = "Session ended"


class Endings:
    """Ends sessions for their clients, and applies the endings that other replicas recorded."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        parts.post_office.on("ended", self._hear)
        parts.post_office.on("changed", lambda mail: parts.cache.drop(mail.session_id or ""))

    async def end(self, session: Session) -> bool:
        """End the session for good; False if it was not live any more.

        Returns when every live replica has applied it, or the time has passed after which none can still believe the
        session lives.
        """
        # Once begun it is finished: a client that hangs up after its DELETE still meant it.
        with anyio.CancelScope(shield=True):
            me = self._parts.heartbeat.replica_id
            termination = await self._parts.sessions.terminate(session.id, session.owner, sender=me)
            self._apply(session.id)
            if termination is None:
                return False
            self._parts.post_office.ring_all()
            self._parts.telemetry.count("mcpsession_ended_sessions_total")
            logger.info("ended session %s", fingerprint(session.id))
            others = set(termination.replicas) - {me}
            lease = self._parts.settings.cache_lease
            await self._parts.acknowledgements.wait(termination.mail_id, others, at_most=lease)
        return True

    def _hear(self, mail: Mail) -> None:
        self._apply(mail.session_id or "")
        self._parts.post_office.acknowledge(mail)

    def _apply(self, session_id: SessionId) -> None:
        """Everything of this session that is in this replica ends. Idempotent."""
        parts = self._parts
        parts.cache.drop(session_id)
        parts.waiters.fail_session(session_id, SESSION_ENDED)
        parts.in_flight.end_session(session_id, ENDED)
        parts.standalones.let_go(session_id)
        parts.tails.wake_session(session_id)

"""Cancellation of a request, on whichever replica it runs.

A client's own and the server's travel by the same mail, to all: a retried POST may run on two replicas.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

from mcp_types import RequestId

from mcpsession.event_records import RequestInfo
from mcpsession.model import Mail, SessionId
from mcpsession.sdk.parts import Parts


class Cancelling:
    """Cancels requests here and everywhere, and looks for those that only this replica knows."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def listen(self) -> None:
        """Hear what other replicas cancel. Once for a layer."""
        self._parts.post_office.on("cancel", self._hear)

    async def of_client(self, session_id: SessionId, request_id: RequestId) -> None:
        """A client cancels its request, which may not have come yet."""
        # The id is all that anybody needs; a client's reason could be of any size.
        self._count(self._parts.in_flight.cancel(session_id, request_id))
        await self._tell_all(session_id, {"id": request_id})

    async def everywhere(self, session_id: SessionId, request_id: RequestId, reason: str) -> None:
        """The server's side cancels a request that runs somewhere, under exactly this id."""
        session = await self._parts.cache.load(session_id)
        if session is None:
            # Its end ends its calls; whoever has the id next begins new ones.
            return
        of = session.incarnation
        self._count(self._parts.in_flight.cancel_exactly(session_id, request_id, reason, incarnation=of))
        await self._tell_all(session_id, {"id": request_id, "reason": reason, "incarnation": of})

    async def find(self, session_id: SessionId, request_id: RequestId, owner: str | None) -> RequestInfo | None:
        """A request that runs on this very replica: not in the log yet, or never, in JSON mode."""
        session = await self._parts.cache.load(session_id)
        if session is None or owner not in (None, session.owner):
            return None
        running = self._parts.in_flight.find(session, request_id)
        if running is None:
            return None
        duration = time.monotonic() - running.began
        return RequestInfo(
            session_id=session_id,
            request_id=request_id,
            method=running.method,
            replica=self._parts.heartbeat.replica_id,
            started_at=datetime.now(UTC) - timedelta(seconds=duration),
            duration=duration,
        )

    def logs(self, session_id: SessionId, request_id: RequestId) -> bool:
        """Whether a call of this id runs on this very replica that is, or will be, in the log."""
        return self._parts.in_flight.logs(session_id, request_id)

    async def _tell_all(self, session_id: SessionId, body: dict[str, RequestId]) -> None:
        me = self._parts.heartbeat.replica_id
        await self._parts.post_office.broadcast(Mail("cancel", me, None, session_id, json.dumps(body)))

    def _hear(self, mail: Mail) -> None:
        body, session_id = json.loads(mail.body), mail.session_id or ""
        if "reason" in body:
            of = body.get("incarnation")
            self._count(self._parts.in_flight.cancel_exactly(session_id, body["id"], body["reason"], incarnation=of))
        else:
            self._count(self._parts.in_flight.cancel(session_id, body["id"]))

    def _count(self, cancelled: bool) -> None:
        if cancelled:
            self._parts.telemetry.count("mcpsession_cancelled_requests_total")

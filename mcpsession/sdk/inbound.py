"""What a client sends that wants no answer of its own: notifications, and answers to our questions."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from mcp.shared.jsonrpc_dispatcher import cancelled_request_id_from_params
from mcp_types import ErrorData
from pydantic import ValidationError

from mcpsession.model import Mail
from mcpsession.records import Session
from mcpsession.sdk.back_channel import Outcome, waiting_replica
from mcpsession.sdk.cancelling import Cancelling
from mcpsession.sdk.parts import Parts
from mcpsession.texts import is_request_id

logger = logging.getLogger(__name__)

# A report is a number or two and a sentence; it is advisory, so a larger one is dropped.
_MOST_PROGRESS = 10_000

NOBODY_WAITS = "Nobody waits for this answer: the replica that asked is gone, or the id was never ours"


class Inbound:
    """Routes answers and progress to the replica that waits, and cancellations to all."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._cancelling = Cancelling(parts)

    def listen(self) -> None:
        """Hear what other replicas pass on. Once for all servers of a replica."""
        self._parts.post_office.on("answer", self._hear_answer)
        self._parts.post_office.on("progress", self._hear_progress)
        self._cancelling.listen()

    async def answer(self, session: Session, message: Mapping[str, Any]) -> bool:
        """Take a client's answer to a server-to-client request; False if nobody can be waiting for it.

        Durable, or handed over, when it returns True.
        """
        request_id = message.get("id")
        replica = waiting_replica(request_id)
        if replica is None:
            return False
        body = {"id": request_id} | (
            {"error": message["error"]} if "error" in message else {"result": message["result"]}
        )
        if replica == self._parts.heartbeat.replica_id:
            self._take_answer(session.id, body)
            return True
        return await self._parts.post_office.send(
            Mail("answer", self._parts.heartbeat.replica_id, replica, session.id, json.dumps(body))
        )

    async def cancelled(self, session: Session, params: Mapping[str, Any] | None) -> None:
        """Cancel a request here and everywhere: a retried POST may run on two replicas."""
        request_id = cancelled_request_id_from_params(params)
        if request_id is None or not is_request_id(request_id):
            return
        await self._cancelling.of_client(session.id, request_id)

    async def progress(self, session: Session, params: Mapping[str, Any] | None) -> None:
        """Route progress on one of our own requests to the replica that waits for it; nobody there: dropped."""
        token = (params or {}).get("progressToken")
        replica = waiting_replica(token)
        if replica is None:
            return
        body = json.dumps({key: (params or {}).get(key) for key in ("progressToken", "progress", "total", "message")})
        if len(body) > _MOST_PROGRESS:
            return
        mail = Mail("progress", self._parts.heartbeat.replica_id, replica, session.id, body)
        if replica == self._parts.heartbeat.replica_id:
            self._hear_progress(mail)
        else:
            await self._parts.post_office.send(mail)

    def _hear_answer(self, mail: Mail) -> None:
        self._take_answer(mail.session_id or "", json.loads(mail.body))

    def _take_answer(self, session_id: str, body: Mapping[str, Any]) -> None:
        if not self._parts.waiters.answer(session_id, str(body["id"]), _outcome(body)):
            self._parts.telemetry.count("mcpsession_late_answers_total")

    def _hear_progress(self, mail: Mail) -> None:
        match json.loads(mail.body):
            case {"progressToken": str() as token, "progress": int() | float() as progress, **rest} if not isinstance(
                progress, bool
            ):
                waiter = self._parts.waiters.find(mail.session_id or "", token)
                if waiter is not None and _is_number(progress):
                    total, text = rest.get("total"), rest.get("message")
                    waiter.progress(
                        float(progress),
                        float(total) if isinstance(total, int | float) and _is_number(total) else None,
                        text if isinstance(text, str) else None,
                    )
            case _:
                pass


def _is_number(value: float) -> bool:
    # JSON's whole numbers have no end, floats do.
    return isinstance(value, float) or value.bit_length() < 1000


def _outcome(body: Mapping[str, Any]) -> Outcome:
    if "error" not in body:
        return dict(body["result"])
    try:
        return ErrorData.model_validate(body["error"])
    except ValidationError:
        return ErrorData(code=-32603, message="the client answered with a malformed error")

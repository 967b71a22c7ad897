"""POST: one message of a client's, to a session that may have begun on any replica."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
from starlette.requests import Request
from starlette.types import Receive, Send

from mcpsession.errors import StoreUnavailableError
from mcpsession.records import Session
from mcpsession.sdk import wire
from mcpsession.sdk.caller import find_session, owner_of, recall
from mcpsession.sdk.inbound import NOBODY_WAITS, Inbound
from mcpsession.sdk.initialize import Initialize
from mcpsession.sdk.parts import Parts
from mcpsession.sdk.post import RequestRunner
from mcpsession.sdk.reading import read_message
from mcpsession.sdk.wire import Fields

if TYPE_CHECKING:
    from mcp.server.lowlevel.server import Server

REQUEST_ID = "mcpsession.request_id"
"""Where in the scope the id of the request is, once it is known, for an answer to what fails."""


class Posts:
    """Tells what a POST brings, and has it done."""

    def __init__(
        self,
        server: Server[Any],
        parts: Parts,
        runner: RequestRunner,
        tasks: anyio.abc.TaskGroup,
        lifespan_state: Any,
        *,
        json_mode: bool,
        max_bytes: int,
    ) -> None:
        self._server = server
        self._parts = parts
        self._runner = runner
        self._inbound = Inbound(parts)
        self._tasks = tasks
        self._lifespan_state = lifespan_state
        self._json_mode = json_mode
        self._max_bytes = max_bytes

    async def serve(self, request: Request, fields: Fields, receive: Receive, send: Send) -> None:
        """Answer one."""
        message = await read_message(fields, receive, send, json_mode=self._json_mode, max_bytes=self._max_bytes)
        if message is None:
            return
        parts = self._parts
        method = message.get("method")
        if method is None:
            await self._answer(message, request, fields, send)
            return
        request.scope[REQUEST_ID] = message.get("id")
        if "id" not in message:
            await self._notification(method, message.get("params"), request, fields, send)
        elif parts.journal.age > parts.settings.journal_age:
            raise StoreUnavailableError("the journal cannot write")
        elif method == "initialize":
            await self._initialize(message, request, fields, send)
        elif (session := recall(parts, request.scope, fields)) is not None and self._may_begin(session):
            # The usual case waits for nothing on its way to the handler.
            exchange = self._runner.exchange(message["id"], method)
            await self._runner.serve(exchange, session, message, request, receive, send)
        else:
            await self._request(message, request, fields, receive, send)

    async def _answer(self, message: dict[str, Any], request: Request, fields: Fields, send: Send) -> None:
        session = await find_session(self._parts, request.scope, fields, send)
        if session is None:
            return
        most = self._parts.settings.max_message_bytes
        if len(wire.dump(message)) > most:
            await wire.refuse(send, 413, f"Answer too large: at most {most} bytes are allowed")
        elif await self._inbound.answer(session, message):
            await wire.respond(send, 202)
        else:
            await wire.refuse(send, 400, NOBODY_WAITS)

    async def _notification(self, method: str, params: Any, request: Request, fields: Fields, send: Send) -> None:
        parts = self._parts
        session = await find_session(parts, request.scope, fields, send)
        if session is None:
            return
        heard = session.client_params is not None
        if method == "notifications/initialized":
            heard = await parts.initialization.mark_initialized(session.id, owner=session.owner)
        elif heard and method == "notifications/cancelled":
            await self._inbound.cancelled(session, params)
        elif heard and method == "notifications/progress":
            await self._inbound.progress(session, params)
        await wire.respond(send, 202)
        if heard:
            self._runner.notify_soon(session, method, params, request)
        else:
            # Its client has not introduced itself yet, and a notification has no answer that could say so.
            parts.telemetry.count("mcpsession_dropped_notifications_total")

    async def _initialize(self, message: dict[str, Any], request: Request, fields: Fields, send: Send) -> None:
        asked = Initialize(
            self._server, self._parts, self._tasks, self._lifespan_state, message, request, send,
            json_mode=self._json_mode,
        )  # fmt: skip
        if wire.SESSION_HEADER not in fields:
            await asked.create(owner_of(request.scope))
        elif (session := await find_session(self._parts, request.scope, fields, send)) is not None:
            await asked.introduce(session)

    async def _request(
        self, message: dict[str, Any], request: Request, fields: Fields, receive: Receive, send: Send
    ) -> None:
        parts, request_id = self._parts, message["id"]
        key = fields.get(wire.SESSION_HEADER, b"").decode("latin-1")
        # Registered before the first wait, so that a cancel that overtakes it finds it.
        exchange = self._runner.exchange(request_id, message["method"])
        parts.in_flight.arrive(key, request_id, exchange)
        try:
            session = await find_session(parts, request.scope, fields, send)
            while session is not None and not self._may_begin(session):
                if parts.drain.over:
                    raise StoreUnavailableError("this replica has drained")
                with anyio.move_on_after(parts.settings.dead_after) as waiting:
                    await parts.heartbeat.may_write_again()
                    await parts.journal.room()
                if waiting.cancelled_caught:
                    paused = "this replica pauses, because its beats are not confirmed"
                    raise StoreUnavailableError("the journal is full" if parts.heartbeat.may_write() else paused)
                if session in parts.ended:
                    # It ended while this request was on its way here, before its end could find the request.
                    session = await find_session(parts, request.scope, fields, send)
                    if session is not None and session in parts.ended:
                        # The store says that it lives: a fail-over lost its end, which was promised, and which asking
                        # again does not bring back.
                        await wire.refuse(send, 404, wire.NOT_FOUND, request_id=request_id)
                        return
        finally:
            parts.in_flight.leave_arriving(key, request_id, exchange)
        if session is not None:
            await self._runner.serve(exchange, session, message, request, receive, send)

    def _may_begin(self, session: Session) -> bool:
        parts = self._parts
        # Answers leave before they are written: without the look at the journal, large ones would pile up in it.
        return (
            not parts.drain.over
            and parts.heartbeat.may_write()
            and session not in parts.ended
            and parts.journal.has_room
        )

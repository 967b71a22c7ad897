"""`initialize`: the one request that creates a session, or introduces its client to one that the application created.

Committed before its answer's first byte; failed, it leaves nothing behind.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
from mcp.server.connection import Connection
from mcp.server.lowlevel.server import NotificationOptions
from mcp.server.models import InitializationOptions
from mcp.server.runner import ServerRunner, aclose_shielded
from mcp.shared.jsonrpc_dispatcher import handler_exception_to_error_data
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import ErrorData
from mcp_types.version import LATEST_HANDSHAKE_VERSION
from starlette.requests import Request
from starlette.types import Send

from mcpsession.errors import (
    LimitExceededError,
    MCPSessionError,
    SessionExistsError,
    StoreUnavailableError,
    UnhandledError,
)
from mcpsession.finishing import finish
from mcpsession.initialization import MOST_CLIENT_PARAMS
from mcpsession.model import (
    NewEvent,
    OpenedStream,
    ReplicaId,
    SessionId,
    StreamId,
    fingerprint,
    new_session_id,
    new_stream_id,
)
from mcpsession.records import Session
from mcpsession.sdk import wire
from mcpsession.sdk.dispatch import RequestContext, StandaloneOutlet
from mcpsession.sdk.parts import Parts
from mcpsession.sdk.refusal import RefusedError, known_already, refused, too_many_sessions

if TYPE_CHECKING:
    from mcp.server.lowlevel.server import Server

logger = logging.getLogger(__name__)


# How long a claim counts whose replica died with it.
_LEASE = 30.0

# No back-channel: the client has no session yet that it could answer in.
_TRANSPORT = TransportContext(kind="streamable-http", can_send_request=False)


@dataclass(frozen=True, slots=True)
class _Begun:
    """A session that is recorded, and what is to be sent, the answer last."""

    session_id: SessionId
    stream_id: StreamId
    protocol_version: str
    messages: Sequence[str]


class _Collected:
    """What the handler sends before its answer; it goes out with it."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.messages: list[str] = []

    async def emit(self, message: dict[str, Any], *, request_of: ReplicaId | None = None) -> None:
        del request_of
        self.messages.append(wire.dump(message, self._max_bytes))


class _Landing:
    """Waits until the answer's stream is in the log, or cannot be."""

    def __init__(self) -> None:
        self.known = anyio.Event()

    def landed(self) -> None:
        self.known.set()

    def read_by(self, replica: ReplicaId) -> None:
        """The answer leaves in one write; who reads it besides does no harm."""

    def refused(self, error: Exception | None) -> None:
        self.known.set()


class Initialize:
    """One such request on its way. Once begun it is never cancelled."""

    def __init__(
        self,
        server: Server[Any],
        parts: Parts,
        tasks: anyio.abc.TaskGroup,
        lifespan_state: Any,
        message: Mapping[str, Any],
        request: Request,
        send: Send,
        *,
        json_mode: bool,
    ) -> None:
        self._server = server
        self._parts = parts
        self._tasks = tasks
        self._lifespan_state = lifespan_state
        self._request_id = message["id"]
        self._id_text = wire.dump_id(message["id"])
        self._params: Mapping[str, Any] | None = message.get("params")
        self._request = request
        self._send = send
        self._json_mode = json_mode

    async def create(self, owner: str) -> None:
        """Run the handler, commit a new session, then answer.

        Raises StoreUnavailableError if the session could not be recorded; nothing was sent then.
        """
        await self._finish(lambda: self._create(owner))

    async def introduce(self, session: Session) -> None:
        """Run the handler, record the client in a session that has none yet, then answer. Of many at once one succeeds.

        Raises StoreUnavailableError; nothing was sent then.
        """
        await self._finish(lambda: self._introduce(session))

    async def _finish(self, begin: Callable[[], Awaitable[_Begun]]) -> None:
        # A client that goes away in here must find either its session or none, not half of one.
        try:
            if self._parts.drain.begun:
                raise refused(503, "This replica is shutting down; try again", retry_after=1)
            begun = await finish(self._tasks, begin)
        except RefusedError as refusal:
            await self._refuse(refusal)
        else:
            await self._answer(begun)

    async def _create(self, owner: str) -> _Begun:
        parts, settings = self._parts, self._parts.settings
        new = Session(new_session_id(settings.id_form, settings.id_prefix), owner=owner, ttl=parts.limits.ttl)
        version, params, messages = await self._greet(new)
        new = replace(new, protocol_version=version, client_params=params)
        begun = _Begun(new.id, new_stream_id(), version, messages)
        events = [*map(NewEvent, messages)]
        opening = OpenedStream(new.id, begun.stream_id, (self._id_text,), events, finished=True)
        try:
            await parts.sessions.create(
                [new], None if self._json_mode else opening, admission=parts.limits.admission(), handled=False
            )
        except LimitExceededError as error:
            raise too_many_sessions(error) from error
        except (SessionExistsError, UnhandledError) as error:
            # Not for an id of so many random bits; the next attempt has another.
            raise StoreUnavailableError(str(error), "try again") from error
        parts.telemetry.count("mcpsession_created_sessions_total")
        logger.info("created session %s", fingerprint(new.id))
        return begun

    async def _introduce(self, session: Session) -> _Begun:
        initialization, claim, known = self._parts.initialization, secrets.token_urlsafe(12), False
        if session.client_params is not None:
            raise known_already()
        if not await initialization.claim(session.id, claim, _LEASE, owner=session.owner):
            raise await self._too_late(session)
        try:
            version, params, messages = await self._greet(session)
            known = await initialization.complete(session.id, claim, version, params)
        finally:
            if not known:
                await self._release(session, claim)
        if not known:
            raise await self._too_late(session)
        logger.info("initialized session %s", fingerprint(session.id))
        self._parts.touches.note(session.id)
        return _Begun(session.id, await self._enter(session, messages), version, messages)

    # The handler

    async def _greet(self, session: Session) -> tuple[str, str, Sequence[str]]:
        """Run the server's handler; returns the version, the client's params, what is to be sent, the answer last."""
        collected = _Collected(self._parts.settings.max_message_bytes)
        connection = Connection(
            StandaloneOutlet(self._parts, session), protocol_version=LATEST_HANDSHAKE_VERSION, session_id=session.id
        )
        outcome = await self._run(session, connection, collected)
        if isinstance(outcome, ErrorData):
            raise RefusedError(400, outcome)
        # The kernel sets them when it succeeds.
        assert connection.client_params is not None
        params = json.dumps(connection.client_params.model_dump(by_alias=True, mode="json"))
        if len(params) > MOST_CLIENT_PARAMS:
            text = f"Invalid request parameters: at most {MOST_CLIENT_PARAMS} characters are allowed"
            raise refused(400, text, code=wire.INVALID_PARAMS)
        await collected.emit({"jsonrpc": "2.0", "id": self._request_id, "result": outcome})
        return connection.protocol_version, params, collected.messages

    async def _run(self, session: Session, connection: Connection, collected: _Collected) -> dict[str, Any] | ErrorData:
        context = RequestContext(
            self._parts,
            session,
            collected,
            request_id=self._request_id,
            progress_token=None,
            transport=_TRANSPORT,
            metadata=ServerMessageMetadata(request_context=self._request, can_send_request=False),
        )
        try:
            options = _options(self._server)
            runner = ServerRunner(self._server, connection, self._lifespan_state, init_options=options)
            return await runner.on_request(context, "initialize", self._params)
        except MCPSessionError as error:
            return ErrorData(code=wire.INTERNAL_ERROR, message=str(error))
        except Exception as error:
            data = handler_exception_to_error_data(error)
            if data is None:
                logger.exception("the handler of initialize raised")
                data = ErrorData(code=0, message=str(error))
            return data
        finally:
            context.close()
            await aclose_shielded(connection)

    async def _release(self, session: Session, claim: str) -> None:
        try:
            await self._parts.initialization.release(session.id, claim)
        except MCPSessionError as error:
            logger.warning("a claim could not be released, it runs out in %.0f s: %s", _LEASE, error)

    # What is sent

    async def _enter(self, session: Session, messages: Sequence[str]) -> StreamId:
        """Enter the answer's stream in the log, as that of any request; the answer waits for it as any does."""
        if self._json_mode:
            return ""
        landing = _Landing()
        writer = self._parts.journal.open(session.id, (self._id_text,), landing)
        for message in messages[:-1]:
            writer.append(message)
        writer.append(messages[-1], final=True)
        if self._parts.settings.durability == "strict":
            await landing.known.wait()
        return writer.stream_id

    async def _answer(self, begun: _Begun) -> None:
        await self._parts.heartbeat.may_write_again()
        if self._json_mode:
            await wire.respond(self._send, 200, begun.messages[-1].encode(), session_id=begun.session_id)
            return
        frames = [wire.event(f"{begun.stream_id}.{seq}", message) for seq, message in enumerate(begun.messages, 1)]
        if begun.protocol_version >= "2025-11-25":
            frames.insert(0, wire.priming(f"{begun.stream_id}.0", self._parts.limits.retry_ms))
        headers = wire.stream_headers(begun.session_id)
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": b"".join(frames)})

    async def _refuse(self, refusal: RefusedError) -> None:
        error = refusal.error
        message = wire.error_message(self._request_id, error.code, error.message, error.data)
        headers = [] if refusal.retry_after is None else [(b"retry-after", str(refusal.retry_after).encode())]
        await wire.respond(self._send, refusal.status, wire.dump(message).encode(), headers=headers)

    async def _too_late(self, session: Session) -> RefusedError:
        """Somebody else has the claim, or had it, or the session has ended."""
        now = await self._parts.sessions.get(session.id)
        if now is None or now.owner != session.owner or now.failure is not None:
            return refused(404, wire.NOT_FOUND)
        if now.client_params is not None:
            return known_already()
        text = "Conflict: another request initializes this session at this moment"
        return refused(409, text, retry_after=1)


def _options(server: Server[Any]) -> InitializationOptions:
    """What the server says of itself. One that publishes changes announces them in this era too: they reach the
    standalone streams."""
    publishes = server.get_request_handler("subscriptions/listen") is not None
    return server.create_initialization_options(
        NotificationOptions(prompts_changed=publishes, resources_changed=publishes, tools_changed=publishes)
    )

"""`initialize`: the one request that creates a session. Committed before its answer's first byte; failed, it leaves
nothing behind."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import anyio
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

from mcpsession.errors import MCPSessionError
from mcpsession.model import (
    NewEvent,
    OpenedStream,
    ReplicaId,
    Session,
    SessionId,
    fingerprint,
    new_session_id,
    new_stream_id,
)
from mcpsession.sdk import wire
from mcpsession.sdk.dispatch import RequestContext, StandaloneOutlet
from mcpsession.sdk.parts import Parts

if TYPE_CHECKING:
    from mcp.server.lowlevel.server import Server

logger = logging.getLogger(__name__)

# They are kept with the session, in the row and in every replica's cache.
_MOST_PARAMS = 65_536

# No back-channel: the client has no session yet that it could answer in.
_TRANSPORT = TransportContext(kind="streamable-http", can_send_request=False)


class _Collected:
    """What the handler sends before its answer; it goes out with it."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.messages: list[str] = []

    async def emit(self, message: dict[str, Any], *, request_of: ReplicaId | None = None) -> None:
        del request_of
        self.messages.append(wire.dump(message, self._max_bytes))


async def initialize(
    server: Server[Any],
    parts: Parts,
    lifespan_state: Any,
    message: Mapping[str, Any],
    request: Request,
    send: Send,
    *,
    owner: str,
    json_mode: bool,
) -> None:
    """Run the handler, commit the session, then answer.

    Raises StoreUnavailableError if the session could not be recorded; nothing was sent then.
    """
    settings = parts.settings
    if parts.drain.begun:
        await wire.refuse(send, 503, "This replica is shutting down; try again", retry_after=1)
        return
    most = parts.limits.max_sessions
    if most is not None and await parts.sessions.count(most) >= most:
        text = f"Too many open sessions: at most {most} are allowed"
        await wire.refuse(send, 503, text, code=wire.INTERNAL_ERROR, retry_after=10)
        return
    session_id = new_session_id()
    # Never cancelled: a client that goes away in here must find either its session or none, not half of one.
    with anyio.CancelScope(shield=True):
        collected = _Collected(settings.max_message_bytes)
        connection = Connection(
            StandaloneOutlet(parts, session_id), protocol_version=LATEST_HANDSHAKE_VERSION, session_id=session_id
        )
        outcome = await _run(server, parts, lifespan_state, message, request, connection, collected)
        if isinstance(outcome, ErrorData):
            error = wire.error_message(message["id"], outcome.code, outcome.message, outcome.data)
            await wire.respond(send, 400, wire.dump(error).encode())
            return
        session = _session(session_id, connection, owner, parts.limits.ttl)
        if len(session.client_params or "") > _MOST_PARAMS:
            text = f"Invalid request parameters: at most {_MOST_PARAMS} characters are allowed"
            await wire.refuse(send, 400, text, code=wire.INVALID_PARAMS, request_id=message["id"])
            return
        answer = wire.dump({"jsonrpc": "2.0", "id": message["id"], "result": outcome}, settings.max_message_bytes)
        stream_id = new_stream_id()
        events = [*map(NewEvent, collected.messages), NewEvent(answer)]
        await parts.sessions.create(
            session,
            None
            if json_mode
            else OpenedStream(session_id, stream_id, (wire.dump_id(message["id"]),), events, finished=True),
        )
        parts.telemetry.count("mcpsession_created_sessions_total")
        logger.info("created session %s", fingerprint(session_id))
    await parts.heartbeat.may_write_again()
    if json_mode:
        await wire.respond(send, 200, answer.encode(), session_id=session_id)
        return
    frames = [wire.event(f"{stream_id}.{seq}", event.message) for seq, event in enumerate(events, 1)]
    if connection.protocol_version >= "2025-11-25":
        frames.insert(0, wire.priming(f"{stream_id}.0", parts.limits.retry_ms))
    await send({"type": "http.response.start", "status": 200, "headers": wire.stream_headers(session_id)})
    await send({"type": "http.response.body", "body": b"".join(frames)})


async def _run(
    server: Server[Any],
    parts: Parts,
    lifespan_state: Any,
    message: Mapping[str, Any],
    request: Request,
    connection: Connection,
    collected: _Collected,
) -> dict[str, Any] | ErrorData:
    context = RequestContext(
        parts,
        connection.session_id or "",
        collected,
        request_id=message["id"],
        progress_token=None,
        transport=_TRANSPORT,
        metadata=ServerMessageMetadata(request_context=request, can_send_request=False),
    )
    try:
        runner = ServerRunner(server, connection, lifespan_state, init_options=_options(server))
        return await runner.on_request(context, "initialize", message.get("params"))
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


def _options(server: Server[Any]) -> InitializationOptions:
    """What the server says of itself. One that publishes changes announces them in this era too: they reach the
    standalone streams."""
    publishes = server.get_request_handler("subscriptions/listen") is not None
    return server.create_initialization_options(
        NotificationOptions(prompts_changed=publishes, resources_changed=publishes, tools_changed=publishes)
    )


def _session(session_id: SessionId, connection: Connection, owner: str, ttl: float | None) -> Session:
    params = connection.client_params
    return Session(
        id=session_id,
        owner=owner,
        protocol_version=connection.protocol_version,
        client_params=None if params is None else json.dumps(params.model_dump(by_alias=True, mode="json")),
        ttl=ttl,
    )

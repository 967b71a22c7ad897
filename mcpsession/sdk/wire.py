"""What goes over the wire: SSE frames, event ids, JSON-RPC errors and plain HTTP answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import pydantic_core
from mcp_types import jsonrpc_message_adapter
from pydantic import ValidationError
from starlette.types import Scope, Send

from mcpsession.errors import MessageTooLargeError, UnstorableTextError
from mcpsession.model import STANDALONE, EventPage, SessionId, StreamId
from mcpsession.texts import LONGEST_REQUEST_ID, is_request_id

SESSION_HEADER = b"mcp-session-id"
VERSION_HEADER = b"mcp-protocol-version"
LAST_EVENT_HEADER = b"last-event-id"

PARSE_ERROR, INVALID_REQUEST, INVALID_PARAMS, INTERNAL_ERROR = -32700, -32600, -32602, -32603
REQUEST_CANCELLED = -32800
"""What the SDK answers a cancelled request with in the handshake era; LSP's RequestCancelled."""
CONNECTION_CLOSED = -32000

NOT_FOUND = "Session not found: it never existed, expired, or was ended. Start a new one with initialize."

KEEP_ALIVE = b": keep-alive\n\n"

# Visible ASCII, as the specification demands of session ids; ours have 43 characters.
_SESSION_ID = re.compile(rb"[\x21-\x7e]+")
_REQUEST_CURSOR = re.compile(r"([A-Za-z0-9_-]{16})\.(\d{1,18})")
_STANDALONE_CURSOR = re.compile(r"s\.(\d{1,18})\.([0-9:,@.]{1,16000})")


class Cursor(NamedTuple):
    """What a client sends back as Last-Event-ID: it has everything up to here."""

    stream_id: StreamId
    seq: int
    position: str
    """For a standalone stream: the position in the broadcast mail."""


def parse_cursor(text: str) -> Cursor | None:
    """Read an event id of ours; None for anything else."""
    if match := _REQUEST_CURSOR.fullmatch(text):
        return Cursor(match[1], int(match[2]), "")
    if match := _STANDALONE_CURSOR.fullmatch(text):
        return Cursor(STANDALONE, int(match[1]), match[2])
    return None


def standalone_event_id(seq: int, position: str) -> str:
    return f"{STANDALONE}.{seq}.{position}"


Fields = Mapping[bytes, bytes]
"""A request's headers by their lower-case names; of several with one name the first."""


def fields_of(scope: Scope) -> Fields:
    # ASGI allows any iterable; servers give lists.
    return dict(reversed([*scope["headers"]]))


def session_id_of(value: bytes, longest: int = 128) -> SessionId | None:
    """A session id from its header; None if no session can have such an id."""
    return value.decode("ascii") if len(value) <= longest and _SESSION_ID.fullmatch(value) else None


@lru_cache(maxsize=256)
def accepts(accept: bytes) -> tuple[bool, bool]:
    """Whether an Accept header allows JSON, and SSE (RFC 9110 wildcards included)."""
    types = {part.split(b";")[0].strip().lower() for part in accept.split(b",")}
    anything = b"*/*" in types
    return (
        anything or b"application/json" in types or b"application/*" in types,
        anything or b"text/event-stream" in types or b"text/*" in types,
    )


def event(event_id: str, message: str) -> bytes:
    """One message as an SSE frame. JSON text of ours has no line breaks."""
    return f"id: {event_id}\nevent: message\ndata: {message}\n\n".encode()


def events(stream_id: StreamId, page: EventPage) -> bytes:
    """Messages of a request's stream as frames; those of which only the number is left are not shown."""
    # At once, and without an object for each: a backlog has thousands.
    pairs = zip(page.numbers, page.messages, strict=True)
    frames = [f"id: {stream_id}.{seq}\nevent: message\ndata: {text}\n\n" for seq, text in pairs if text]
    return "".join(frames).encode()


def priming(event_id: str, retry_ms: int | None) -> bytes:
    """The frame that gives a client its first cursor: an id, empty data, how long to wait before it reconnects."""
    retry = f"retry: {retry_ms}\n" if retry_ms is not None else ""
    return f"id: {event_id}\n{retry}data: \n\n".encode()


def retry(milliseconds: int) -> bytes:
    return f"retry: {milliseconds}\n\n".encode()


def dump(message: dict[str, Any], max_bytes: int | None = None) -> str:
    """A JSON-RPC message as JSON text.

    Raises:
        UnstorableTextError: text that is not Unicode (lone surrogates), which no store and no client can take.
        MessageTooLargeError: more than `max_bytes`.
    """
    try:
        encoded = pydantic_core.to_json(message, inf_nan_mode="null")
    except (UnicodeEncodeError, pydantic_core.PydanticSerializationError) as error:
        raise UnstorableTextError(str(error)) from error
    if max_bytes is not None and len(encoded) > max_bytes:
        raise MessageTooLargeError(len(encoded), max_bytes)
    return encoded.decode()


def dump_id(request_id: object) -> str:
    """A request's id as JSON text: `1` and `"1"` differ."""
    return pydantic_core.to_json(request_id).decode()


class NotAMessageError(ValueError):
    """A body is not one JSON-RPC message; `code` is JSON-RPC's."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def parse_message(body: bytes) -> dict[str, Any]:
    """Read the one JSON-RPC message of a POST's body.

    Raises NotAMessageError, which says what is wrong.
    """
    try:
        message = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise NotAMessageError(f"Parse error: {error}", PARSE_ERROR) from error
    if isinstance(message, list):
        text = "Batches are not supported: send one JSON-RPC message in each POST"
        raise NotAMessageError(text, INVALID_REQUEST)
    # The usual case, checked by hand: the SDK's adapter costs a model.
    match message:
        case {"jsonrpc": "2.0", "id": id_, "method": str(), **rest} if is_request_id(id_):
            if rest.get("params") is None or isinstance(rest["params"], dict):
                return dict(message)
        case {"id": id_, "method": _} if not is_request_id(id_):
            rule = f"a request's id is a whole number or a text, at most {LONGEST_REQUEST_ID} characters"
            raise NotAMessageError(f"Not a JSON-RPC message: {rule}", INVALID_PARAMS)
        case _:
            pass
    try:
        jsonrpc_message_adapter.validate_python(message, by_name=False)
    except ValidationError as error:
        problems = error.errors()
        text = f"Not a JSON-RPC message: {len(problems)} problems, the first: {problems[0]['msg']}"
        raise NotAMessageError(text, INVALID_PARAMS) from error
    return dict(message)


def notification(method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        message["params"] = dict(params)
    return message


def error_message(request_id: object, code: int, message: str, data: object = None) -> dict[str, Any]:
    """A JSON-RPC error; without an id where none is known (the schema of 2025-11-25 does not allow null)."""
    error: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return {"jsonrpc": "2.0", "error": error} if request_id is None else {
        "jsonrpc": "2.0", "id": request_id, "error": error,
    }  # fmt: skip


async def respond(
    send: Send,
    status: int,
    body: bytes = b"",
    *,
    content_type: bytes = b"application/json",
    session_id: SessionId | None = None,
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> None:
    """Answer with one whole body."""
    fields = [(b"content-length", str(len(body)).encode()), *headers]
    if body:
        fields.append((b"content-type", content_type))
    if session_id is not None:
        fields.append((SESSION_HEADER, session_id.encode()))
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def refuse(
    send: Send,
    status: int,
    message: str,
    *,
    code: int = INVALID_REQUEST,
    request_id: object = None,
    retry_after: int | None = None,
    allow: bytes | None = None,
) -> None:
    """Answer with a JSON-RPC error as the body."""
    headers = [(b"retry-after", str(retry_after).encode())] if retry_after is not None else []
    if allow is not None:
        headers.append((b"allow", allow))
    await respond(send, status, dump(error_message(request_id, code, message)).encode(), headers=headers)


def stream_headers(session_id: SessionId) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", b"text/event-stream"),
        (b"cache-control", b"no-cache, no-transform"),
        # Proxies that buffer by default (nginx) must not hold frames back.
        (b"x-accel-buffering", b"no"),
        (SESSION_HEADER, session_id.encode()),
    ]

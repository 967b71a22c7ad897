"""What a POST brings: one JSON-RPC message, or an answer that says why not."""

from __future__ import annotations

from typing import Any

from starlette.types import Receive, Send

from mcpsession.sdk import wire
from mcpsession.sdk.wire import Fields


async def read_message(
    fields: Fields, receive: Receive, send: Send, *, json_mode: bool, max_bytes: int
) -> dict[str, Any] | None:
    """The one JSON-RPC message of a POST; None if it was refused, or its client has gone."""
    has_json, has_sse = wire.accepts(fields.get(b"accept", b""))
    if not has_json or not (has_sse or json_mode):
        wanted = "application/json" if json_mode else "both application/json and text/event-stream"
        await wire.refuse(send, 406, f"Not Acceptable: Client must accept {wanted}")
        return None
    body = await _body(receive, send, max_bytes)
    if body is None:
        return None
    try:
        return wire.parse_message(body)
    except wire.NotAMessageError as error:
        await wire.refuse(send, 400, str(error), code=error.code)
        return None


async def _body(receive: Receive, send: Send, max_bytes: int) -> bytes | None:
    body = bytearray()
    while True:
        part = await receive()
        if part["type"] == "http.disconnect":
            return None
        body += part.get("body", b"")
        if len(body) > max_bytes:
            await wire.refuse(send, 413, f"Request body too large: at most {max_bytes} bytes are allowed")
            return None
        if not part.get("more_body", False):
            return bytes(body)

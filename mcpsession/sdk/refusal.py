"""Why a request is refused, in the words that its client gets."""

from __future__ import annotations

from mcp_types import ErrorData, RequestId
from starlette.types import Send

from mcpsession.errors import LimitExceededError
from mcpsession.sdk import wire

# Seconds: sessions end seldom.
_ROOM_AGAIN = 10
# Whatever is away, or in the way, is often back by then.
_BACK_AGAIN = 5


class RefusedError(Exception):
    """The request is answered with an error, and has left nothing behind."""

    def __init__(self, status: int, error: ErrorData, retry_after: int | None = None) -> None:
        super().__init__(error.message)
        self.status = status
        self.error = error
        self.retry_after = retry_after


def refused(
    status: int, text: str, *, code: int = wire.INVALID_REQUEST, retry_after: int | None = None
) -> RefusedError:
    return RefusedError(status, ErrorData(code=code, message=text), retry_after)


def known_already() -> RefusedError:
    text = "this session is initialized already; to start a new one, send initialize without Mcp-Session-Id"
    return refused(400, f"Bad Request: {text}")


def too_many_sessions(error: LimitExceededError) -> RefusedError:
    """503 where all clients together have too many: nobody in particular can mend that. 429 where one has."""
    if error.limit == "max_sessions_per_owner":
        status, what = 429, "open sessions of one client"
    else:
        status, what = 503, "open sessions"
    text = f"Too many {what}: at most {error.allowed} are allowed"
    return refused(status, text, code=wire.INTERNAL_ERROR, retry_after=_ROOM_AGAIN)


async def come_back(send: Send, *, seconds: int = _BACK_AGAIN) -> None:
    """Answer a GET that cannot be served now: two 5xx and clients give up, an empty stream they take for a cut."""
    await wire.respond(send, 200, wire.retry(seconds * 1000), content_type=b"text/event-stream")


async def fail(send: Send, status: int, text: str, request_id: RequestId | None, *, begun: bool, over: bool) -> None:
    """End a response that something has come between, whether it had begun or not.

    The SDK's client shows its caller an error only if that has the request's id.
    """
    if over:
        return
    if begun:
        # An event stream that had begun: its end is all that can still be said, and when to come back.
        await send({"type": "http.response.body", "body": wire.retry(_BACK_AGAIN * 1000), "more_body": False})
    else:
        code = wire.INTERNAL_ERROR
        await wire.refuse(send, status, text, code=code, request_id=request_id, retry_after=_BACK_AGAIN)

"""Why an `initialize` is refused, in the words that its client gets."""

from __future__ import annotations

from mcp_types import ErrorData

from mcpsession.errors import LimitExceededError
from mcpsession.sdk import wire

# Seconds: sessions end seldom.
_ROOM_AGAIN = 10


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

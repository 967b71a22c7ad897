"""The SDK's checks of a request's headers (content type, and host and origin against DNS rebinding), remembered."""

from __future__ import annotations

from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from starlette.requests import Request
from starlette.responses import Response

from mcpsession.sdk.wire import Fields

# Clients come with few different ones; whoever sends many gets nothing remembered that is long, and not for long.
_MOST = 1000
_LONGEST = 200


class TransportSecurity:
    """Asks the SDK once for each combination of headers that passes; a refusal is made anew each time."""

    def __init__(self, settings: TransportSecuritySettings | None) -> None:
        self._middleware = TransportSecurityMiddleware(settings)
        self._passed: set[tuple[bool, bytes | None, bytes | None, bytes | None]] = set()

    async def refusal(self, request: Request, fields: Fields) -> Response | None:
        """None if the request may pass."""
        is_post = request.scope["method"] == "POST"
        asked = (is_post, fields.get(b"content-type"), fields.get(b"host"), fields.get(b"origin"))
        if asked in self._passed:
            return None
        refusal = await self._middleware.validate_request(request, is_post=is_post)
        if refusal is None and sum(len(value or b"") for value in asked[1:]) <= _LONGEST:
            if len(self._passed) >= _MOST:
                self._passed.clear()
            self._passed.add(asked)
        return refusal

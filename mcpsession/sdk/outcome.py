"""What the run of a handler comes to: a JSON-RPC response, whatever it raises."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from mcp.shared.jsonrpc_dispatcher import handler_exception_to_error_data
from mcp_types import RequestId

from mcpsession.cancellation import interrupted
from mcpsession.errors import MCPSessionError, StoreError, StoreUnavailableError
from mcpsession.sdk import wire
from mcpsession.sdk.current import CurrentSession

logger = logging.getLogger(__name__)

Call = Callable[[], Awaitable[dict[str, Any]]]


async def outcome(request_id: RequestId, call: Call, current: CurrentSession) -> dict[str, Any]:
    """Run the handler, keep what it changed in the session's state, and make its response.

    Raises nothing but the cancellation of whoever runs it.
    """
    try:
        result = await call()
        await current.commit()
    except (StoreUnavailableError, StoreError) as error:
        # What it says is for the operator: it names hosts.
        logger.warning("the state of a session could not be kept: %s", error)
        text = "The session store refused what this call changed in the session; nothing of that was kept"
        if isinstance(error, StoreUnavailableError):
            # The connection may have been lost between the commit and its confirmation.
            text = "The session store is away; whether what this call changed in the session was kept is unknown"
        return wire.error_message(request_id, wire.INTERNAL_ERROR, text)
    except MCPSessionError as error:
        return wire.error_message(request_id, wire.INTERNAL_ERROR, str(error))
    except anyio.get_cancelled_exc_class():
        if interrupted():
            raise
        # The handler's own: it awaited something that was cancelled. Left alone it would end the task group.
        logger.exception("a handler let a cancellation escape that was not its own")
        return wire.error_message(request_id, 0, "the handler was cancelled from within")
    except (Exception, SystemExit) as error:
        # SystemExit: a tool that parses arguments must not end the server.
        data = handler_exception_to_error_data(error)
        if data is None:
            logger.exception("a handler raised")
            # What the SDK's dispatcher makes of it.
            return wire.error_message(request_id, 0, str(error))
        return wire.error_message(request_id, data.code, data.message, data.data)
    return {"jsonrpc": "2.0", "id": request_id, "result": result}

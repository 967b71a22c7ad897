"""A server of ten lines: `uvicorn examples.orders:app`, as often as you like, all with the same MCPSESSION_URL."""

import os
from typing import Annotated

from mcp.server.mcpserver import Elicit, MCPServer, RequestStateSecurity, Resolve
from pydantic import BaseModel

from mcpsession import SessionLayer

layer = SessionLayer.from_env()
mcp = MCPServer(
    "orders",
    subscriptions=layer.subscriptions,
    # What a client carries from one replica to another must be sealed with a key that all of them have.
    request_state_security=RequestStateSecurity(keys=[os.environ["ORDERS_SECRET"]]),
)


class Confirmation(BaseModel):
    sure: bool


def confirm(item: str, quantity: int) -> Elicit[Confirmation]:
    return Elicit(f"Order {quantity} x {item}?", Confirmation)


@mcp.tool()
def price(item: str, quantity: int = 1) -> float:
    """Say what an order would cost."""
    return round(quantity * (1.5 + len(item) / 10), 2)


@mcp.tool()
def order(item: str, quantity: int, answer: Annotated[Confirmation, Resolve(confirm)]) -> str:
    """Order something, after asking the user, perhaps through another replica than the one that was called."""
    return f"{quantity} x {item}: ordered" if answer.sure else "nothing was ordered"


app = layer.streamable_http_app(mcp)

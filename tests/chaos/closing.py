"""The end of a session: what is in its state, and that it ends."""

from __future__ import annotations

import json
import math
import random

import anyio
import httpx2

from tests.chaos.records import Tally
from tests.cluster.client import Client, text_of

# Seconds between two attempts: whatever a request meets here, it is said again until somebody serves it.
RETRY = 0.3
ATTEMPT = 10.0


async def close_session(http: httpx2.AsyncClient, session_id: str, tally: Tally, chance: random.Random) -> None:
    """Write down what the session's calls left in its state, and end it."""
    client = Client(http)
    client.session_id = session_id
    state = await read_state(client, chance)
    if state is None:
        return
    tally.count = state.get("count", 0)
    tally.found = {key.removeprefix("did "): times for key, times in state.items() if key.startswith("did ")}
    while not await ended(client):  # noqa: ASYNC110 (nothing tells when somebody serves again)
        await anyio.sleep(RETRY)


async def read_state(client: Client, chance: random.Random) -> dict[str, int] | None:
    """The state, however often one must ask; None if the session is not there."""
    while True:
        tag = f"state {chance.random()}"
        with anyio.move_on_after(ATTEMPT):
            async with client.calling("counted", {"tag": tag}) as stream:
                await stream.end(math.inf)
        # The tool says so, too, if the store is away.
        if stream.finals and not stream.finals[0].get("result", {"isError": True}).get("isError"):
            state: dict[str, int] = json.loads(text_of(stream.finals[0]))
            return state
        if stream.status == 404:
            return None
        await anyio.sleep(RETRY)


async def ended(client: Client) -> bool:
    try:
        return (await client.delete()).status_code in (200, 404)
    except httpx2.HTTPError:
        return False

"""A session belongs to the whole principal that began it; for anyone else it does not exist."""

from __future__ import annotations

import httpx2
import pytest

from tests.cluster.client import Client
from tests.cluster.conftest import Connect, Files

APP = "tests.cluster.server:secured_app"
REPLICAS = 2
SSE = {"accept": "text/event-stream"}
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


@pytest.fixture
async def anna(connect: Connect) -> Client:
    return await connect(replica=0, token="anna")


def thief(http: httpx2.AsyncClient, session_id: str) -> Client:
    """Somebody of the same client, with another's session id."""
    client = Client(http, headers={"authorization": "Bearer bert"})
    client.session_id = session_id
    return client


async def test_her_session_serves_her_on_every_replica(anna: Client) -> None:
    assert [await anna.call("whoami", replica=replica) for replica in (0, 1)] == ["0", "1"]


@pytest.mark.parametrize("replica", [0, 1])
async def test_a_session_of_someone_else_is_the_same_404_as_an_unknown_one(
    anna: Client, http: httpx2.AsyncClient, replica: int
) -> None:
    for someone in (thief(http, anna.session_id), thief(http, "never-was")):
        responses = [
            await someone.post(PING, replica=replica),
            await someone.notify("notifications/cancelled", {"requestId": 1}, replica=replica),
            await someone.answer("f" * 18 + "-" + "0" * 24, {}, replica=replica),
            await someone.get(replica=replica, headers=SSE),
            await someone.get(replica=replica, headers={**SSE, "last-event-id": "A" * 16 + ".0"}),
            await someone.delete(replica=replica),
        ]
        assert {404} == {response.status_code for response in responses}
        assert 1 == len({response.content for response in responses})
        assert 1 == len({tuple(sorted(set(response.headers) - {"date"})) for response in responses})
    assert await anna.status(replica=replica) == 200


async def test_a_stream_of_hers_is_not_resumed_for_someone_else(
    anna: Client, http: httpx2.AsyncClient, files: Files
) -> None:
    async with anna.calling("wait", {"gate": files("gate")}, replica=0) as stream:
        await stream.until(lambda: stream.ids)
        someone = thief(http, anna.session_id)
        response = await someone.get(replica=1, headers={**SSE, "last-event-id": stream.last_id})
        assert response.status_code == 404
        files.touch("gate")
        await stream.end()
    assert "waited on 0" in str(stream.finals)


async def test_nobody_gets_in_without_a_token(anna: Client, http: httpx2.AsyncClient) -> None:
    someone = Client(http)
    someone.session_id = anna.session_id
    assert (await someone.post(PING, replica=1)).status_code == 401

"""Which version a session speaks: the one that was asked for if we speak it, else the latest of the handshake era."""

from __future__ import annotations

import json

import anyio
import pytest

from tests.sdk.asgi_client import request
from tests.sdk.replicas import ACCEPT, hello

LATEST = "2025-11-25"
VERSIONS = {
    "2024-11-05": "2024-11-05",
    "2025-03-26": "2025-03-26",
    "2025-06-18": "2025-06-18",
    "2025-11-25": "2025-11-25",
    # Of the other era: it has no initialize.
    "2026-07-28": LATEST,
    "2025-01-01": LATEST,
    "9999-12-31": LATEST,
    "zzz": LATEST,
    "": LATEST,
}


@pytest.mark.parametrize(("asked", "spoken"), VERSIONS.items())
async def test_f26_a_supported_version_is_answered_with_itself_and_any_other_with_the_latest(here, asked, spoken):
    with anyio.fail_after(5):
        async with request(here.app, "POST", headers=ACCEPT, json_body=hello(asked)) as response:
            answer = await response.message()
        assert spoken == answer["result"]["protocolVersion"]
        kept = await here.layer.sessions.get(response.headers["mcp-session-id"])
    assert spoken == kept.protocol_version
    assert asked == json.loads(kept.client_params)["protocolVersion"]


@pytest.mark.parametrize(("asked", "spoken"), VERSIONS.items())
async def test_f26_so_is_one_in_a_session_that_the_application_created(here, asked, spoken):
    with anyio.fail_after(5):
        await here.layer.sessions.create("job-1")
        headers = {**ACCEPT, "mcp-session-id": "job-1"}
        async with request(here.app, "POST", headers=headers, json_body=hello(asked)) as response:
            answer = await response.message()
        assert spoken == answer["result"]["protocolVersion"]
        assert spoken == (await here.layer.sessions.get("job-1")).protocol_version

"""Two replicas on one store, on each kind of store, and the MCP server that they serve."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from mcpsession import SessionLayer
from tests.requests.served import Served, served
from tests.sdk.replicas import Client
from tests.sessions.conftest import here, place, postgres, pytest_configure, there

__all__ = ["here", "place", "postgres", "pytest_configure", "there"]


@pytest.fixture
async def near(here: SessionLayer) -> AsyncIterator[Served]:
    """The server on the first replica."""
    async with served(here) as server:
        yield server


@pytest.fixture
async def far(there: SessionLayer, near: Served) -> AsyncIterator[Served]:
    """The server on the second replica."""
    del near
    async with served(there) as server:
        yield server


@pytest.fixture
async def client(near: Served) -> Client:
    """A client whose session began on the first replica."""
    with anyio.fail_after(10):
        return await Client().initialize(near)

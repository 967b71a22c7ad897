"""Replicas and clients, ready to use."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from tests.sdk.replicas import Client, Replica, replica


@pytest.fixture
async def here(database_url: str) -> AsyncIterator[Replica]:
    """One replica."""
    async with replica(database_url) as one:
        yield one


@pytest.fixture
async def there(database_url: str, here: Replica) -> AsyncIterator[Replica]:
    """A second replica over the same database."""
    del here
    async with replica(database_url) as two:
        yield two


@pytest.fixture
async def client(here: Replica) -> Client:
    """A client whose session began on `here`."""
    with anyio.fail_after(10):
        return await Client().initialize(here)

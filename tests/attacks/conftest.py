"""Two replicas for all tests of a module, and what watches over one of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import anyio
import pytest

from tests.attacks.leaks import Leaks, watching
from tests.conftest import _new_database
from tests.sdk.replicas import Client, Replica, replica


@pytest.fixture(scope="module")
def shared_url(server_url: str, migrated_template: str) -> Iterator[str]:
    """A migrated database of the module's own."""
    yield from _new_database(server_url, f"TEMPLATE {migrated_template}")


@pytest.fixture(scope="module")
async def here(anyio_backend: str, shared_url: str) -> AsyncIterator[Replica]:
    async with replica(shared_url) as one:
        yield one


@pytest.fixture(scope="module")
async def there(anyio_backend: str, shared_url: str, here: Replica) -> AsyncIterator[Replica]:
    del here
    async with replica(shared_url) as two:
        yield two


@pytest.fixture
async def client(here: Replica) -> Client:
    with anyio.fail_after(10):
        return await Client().initialize(here)


@pytest.fixture
async def leaks(here: Replica, shared_url: str) -> AsyncIterator[Leaks]:
    async with watching(here, shared_url) as watch:
        yield watch

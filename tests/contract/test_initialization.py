"""Initialization: a session gets to know its client once, by one, and no claim outlives its lease."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from mcpsession.contracts import Backend
from mcpsession.records import Change
from tests.contract.given import a_session, expire, record, until

VERSION, PARAMS = "2025-11-25", '{"clientInfo":{"name":"c","version":"1"},"capabilities":{"roots":{}}}'


async def complete(backend: Backend, claim: str = "mine") -> bool:
    return await backend.initialization.complete("session", claim, VERSION, PARAMS)


async def claim(backend: Backend, name: str = "mine", lease: float = 30.0) -> bool:
    return await backend.initialization.claim("session", name, lease)


async def phase(backend: Backend) -> str:
    return (await record(backend)).phase


async def test_a_session_goes_through_its_phases(backend: Backend) -> None:
    await a_session(backend)
    assert "pre_init" == await phase(backend)

    assert await claim(backend)
    assert "initializing" == await phase(backend)

    assert await complete(backend)
    got = await record(backend)
    assert ("initializing", VERSION, PARAMS, False) == (
        got.phase,
        got.protocol_version,
        got.client_params,
        got.initialized,
    )
    assert ({"name": "c", "version": "1"}, {"roots": {}}) == (got.client_info, got.client_capabilities)

    assert await backend.initialization.mark_initialized("session")
    assert "initialized" == await phase(backend)
    served = await backend.sessions.get("session")
    assert served is not None
    assert (True, VERSION, PARAMS) == (served.initialized, served.protocol_version, served.client_params)


async def test_of_twenty_claims_at_once_one_succeeds(backend: Backend) -> None:
    await a_session(backend)
    claimed: list[str] = []

    async def try_to_claim(name: str) -> None:
        if await claim(backend, name):
            claimed.append(name)

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(try_to_claim, f"{number}")

    [winner] = claimed
    assert not await complete(backend, "somebody else's")
    assert await complete(backend, winner)


async def test_a_claim_is_refused_in_every_other_phase(backend: Backend) -> None:
    await a_session(backend)
    await claim(backend)
    assert not await claim(backend, "other")
    assert not await claim(backend)
    await complete(backend)
    assert not await claim(backend, "other")
    await backend.initialization.mark_initialized("session")
    assert not await claim(backend, "other")


async def test_a_session_that_was_created_with_its_client_needs_no_claim(backend: Backend) -> None:
    await a_session(backend, client_params=PARAMS, protocol_version=VERSION)

    assert "initializing" == await phase(backend)
    assert not await claim(backend)
    assert await backend.initialization.mark_initialized("session")


async def test_an_abandoned_claim_ends_with_its_lease(backend: Backend) -> None:
    await a_session(backend)
    assert await claim(backend, "abandoned", 0.05)

    async def has_run_out() -> bool:
        return "pre_init" == await phase(backend)

    await until(has_run_out)

    assert not await complete(backend, "abandoned")
    assert not await backend.initialization.release("session", "abandoned")
    assert await claim(backend, "next")
    assert not await complete(backend, "abandoned")
    assert not await backend.initialization.release("session", "abandoned")
    assert await complete(backend, "next")


async def test_a_claim_can_be_given_up_by_its_holder_alone(backend: Backend) -> None:
    await a_session(backend)
    await claim(backend)

    assert not await backend.initialization.release("session", "other")
    assert "initializing" == await phase(backend)
    assert await backend.initialization.release("session", "mine")
    assert "pre_init" == await phase(backend)

    assert not await backend.initialization.release("session", "mine")
    assert not await complete(backend)
    assert await claim(backend, "next")


async def test_the_client_is_recorded_for_good(backend: Backend) -> None:
    await a_session(backend)
    await claim(backend)
    await complete(backend)

    assert not await complete(backend)
    assert not await backend.initialization.complete("session", "mine", "2024-11-05", "{}")
    assert not await backend.initialization.release("session", "mine")

    got = await record(backend)
    assert (VERSION, PARAMS) == (got.protocol_version, got.client_params)


async def test_initialized_comes_after_the_client_and_again_is_free(backend: Backend) -> None:
    await a_session(backend)
    assert not await backend.initialization.mark_initialized("session")
    await claim(backend)
    assert not await backend.initialization.mark_initialized("session")
    await complete(backend)

    assert await backend.initialization.mark_initialized("session")
    assert await backend.initialization.mark_initialized("session")


@pytest.mark.parametrize("fields", [{}, {"client_params": PARAMS}, {"client_params": PARAMS, "initialized": True}])
async def test_a_session_that_has_failed_goes_nowhere(backend: Backend, fields: dict[str, Any]) -> None:
    await a_session(backend, **fields)
    await claim(backend)
    await backend.sessions.change("session", Change(failure="it broke"), sender="a")

    assert "error" == await phase(backend)
    assert not await claim(backend, "other")
    assert not await complete(backend)
    assert not await backend.initialization.mark_initialized("session")


async def test_someone_elses_session_is_not_initialized(backend: Backend) -> None:
    await a_session(backend, owner="alice", client_params=PARAMS)
    await a_session(backend, "raw", owner="alice")

    assert not await backend.initialization.claim("raw", "mine", 30.0, owner="mallory")
    assert not await backend.initialization.mark_initialized("session", owner="mallory")
    assert await backend.initialization.claim("raw", "mine", 30.0, owner="alice")
    assert await backend.initialization.mark_initialized("session", owner="alice")


async def test_an_expired_session_completes_nothing(backend: Backend) -> None:
    await a_session(backend, ttl=0.3)
    await claim(backend)

    async def has_expired() -> bool:
        return await backend.sessions.get("session") is None

    await until(has_expired)

    assert not await complete(backend)
    await expire(backend, "other")
    assert not await backend.initialization.claim("other", "mine", 30.0)

"""How a session gets to know its client. F25, F28, F30."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from mcpsession import SessionLayer
from mcpsession.errors import IllegalTransitionError, SessionNotFoundError
from mcpsession.records import TRANSITIONS, Phase
from tests.sessions.replicas import Place, all_at_once, get, until

VERSION = "2025-06-18"
INFO = {"name": "client", "version": "1"}
CAPABILITIES: dict[str, object] = {"roots": {}}


async def complete(layer: SessionLayer, claim: str, **fields: object) -> None:
    given = {"protocol_version": VERSION, "client_info": INFO, "client_capabilities": CAPABILITIES, **fields}
    await layer.sessions.initialization.complete("session", claim, **given)  # type: ignore[arg-type]


# F25


async def test_f25_what_was_negotiated_is_known_on_the_other_replica(here: SessionLayer, there: SessionLayer) -> None:
    await here.sessions.create("session")
    await complete(here, await here.sessions.initialization.claim("session"))

    got = await get(there)
    assert (VERSION, INFO, CAPABILITIES, False) == (
        got.protocol_version,
        got.client_info,
        got.client_capabilities,
        got.initialized,
    )

    await there.sessions.initialization.mark_initialized("session")
    await there.sessions.initialization.mark_initialized("session")

    assert (await get(here)).initialized
    assert ["session"] == [session.id for session in await here.sessions.list(initialized=True)]
    assert ["session"] == [session.id for session in await here.sessions.list(protocol_version=VERSION)]


async def test_f25_a_client_need_not_say_what_it_can(here: SessionLayer) -> None:
    await here.sessions.create("session")
    claim = await here.sessions.initialization.claim("session")

    await here.sessions.initialization.complete("session", claim, protocol_version=VERSION, client_info={})

    assert ({}, {}) == ((got := await get(here)).client_info, got.client_capabilities)


# F28


async def test_f28_of_twenty_claims_on_two_replicas_one_succeeds(here: SessionLayer, there: SessionLayer) -> None:
    await here.sessions.create("session")
    jobs = [partial((here if number % 2 else there).sessions.initialization.claim, "session") for number in range(20)]

    outcomes = await all_at_once(*jobs)

    [claim] = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert 19 == len([outcome for outcome in outcomes if isinstance(outcome, IllegalTransitionError)])
    await complete(there, claim)


async def test_f28_a_claim_of_one_who_is_gone_ends_with_its_lease(here: SessionLayer, there: SessionLayer) -> None:
    await here.sessions.create("session")
    abandoned = await here.sessions.initialization.claim("session", lease=0.05)

    async def can_be_claimed_again() -> bool:
        return "pre_init" == await there.sessions.initialization.phase("session")

    await until(can_be_claimed_again)
    claim = await there.sessions.initialization.claim("session")

    with pytest.raises(IllegalTransitionError):
        await complete(here, abandoned)
    assert not await here.sessions.initialization.release("session", abandoned)
    await complete(there, claim)
    assert VERSION == (await get(here)).protocol_version


async def test_f28_a_claim_can_be_given_up(here: SessionLayer, there: SessionLayer) -> None:
    await here.sessions.create("session")
    claim = await here.sessions.initialization.claim("session")

    assert not await there.sessions.initialization.release("session", "another's")
    assert await there.sessions.initialization.release("session", claim)
    assert not await there.sessions.initialization.release("session", claim)

    await complete(there, await there.sessions.initialization.claim("session"))


async def test_f28_a_recorded_client_is_for_good(here: SessionLayer, there: SessionLayer) -> None:
    await here.sessions.create("session")
    claim = await here.sessions.initialization.claim("session")
    await complete(here, claim)

    for replica in (here, there):
        with pytest.raises(IllegalTransitionError):
            await complete(replica, claim, protocol_version="2024-11-05", client_info={"name": "other"})
        with pytest.raises(IllegalTransitionError):
            await replica.sessions.initialization.claim("session")

    assert (VERSION, INFO) == ((got := await get(there)).protocol_version, got.client_info)


# F30

Bring = Callable[[Place, SessionLayer], Awaitable[str]]


async def pre_init(place: Place, layer: SessionLayer) -> str:
    await layer.sessions.create("session")
    return "no claim"


async def initializing(place: Place, layer: SessionLayer) -> str:
    await pre_init(place, layer)
    return await layer.sessions.initialization.claim("session")


async def with_its_client(place: Place, layer: SessionLayer) -> str:
    claim = await initializing(place, layer)
    await complete(layer, claim)
    return claim


async def initialized(place: Place, layer: SessionLayer) -> str:
    claim = await with_its_client(place, layer)
    await layer.sessions.initialization.mark_initialized("session")
    return claim


async def error(place: Place, layer: SessionLayer) -> str:
    claim = await initializing(place, layer)
    await layer.sessions.initialization.fail("session", "it broke")
    return claim


async def closed(place: Place, layer: SessionLayer) -> str:
    claim = await initialized(place, layer)
    await layer.sessions.terminate("session")
    return claim


async def expired(place: Place, layer: SessionLayer) -> str:
    claim = await initializing(place, layer)
    await place.expire("session")
    return claim


VERBS: dict[str, Callable[[SessionLayer, str], Awaitable[object]]] = {
    "claim": lambda layer, _: layer.sessions.initialization.claim("session"),
    "complete": complete,
    "mark_initialized": lambda layer, _: layer.sessions.initialization.mark_initialized("session"),
    "fail": lambda layer, _: layer.sessions.initialization.fail("session", "it broke again"),
    "terminate": lambda layer, _: layer.sessions.close("session"),
}

# What each verb makes of a session: the phase that it is in then, or None where the verb is refused.
MOVES: list[tuple[Bring, Phase, dict[str, Phase | None]]] = [
    (pre_init, "pre_init", {"claim": "initializing", "fail": "error", "terminate": "closed"}),
    (initializing, "initializing", {"complete": "initializing", "fail": "error", "terminate": "closed"}),
    (with_its_client, "initializing", {"mark_initialized": "initialized", "fail": "error", "terminate": "closed"}),
    (initialized, "initialized", {"mark_initialized": "initialized", "fail": "error", "terminate": "closed"}),
    (error, "error", {"terminate": "closed"}),
    (closed, "closed", {}),
    (expired, "closed", {}),
]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("bring", "phase", "moves"), MOVES, ids=[bring.__name__ for bring, _, _ in MOVES])
async def test_f30_phases_move_as_they_may_and_in_no_other_way(
    place: Place,
    here: SessionLayer,
    there: SessionLayer,
    bring: Bring,
    phase: Phase,
    moves: dict[str, Phase | None],
    verb: str,
) -> None:
    claim = await bring(place, here)
    assert phase == await there.sessions.initialization.phase("session")
    before = await here.sessions.get("session", include_dead=True)

    if verb in moves:
        await VERBS[verb](there, claim)
        after = moves[verb]
        assert after == await here.sessions.initialization.phase("session")
        assert after == phase or after in TRANSITIONS[phase]
    else:
        expected = SessionNotFoundError if phase == "closed" else IllegalTransitionError
        with pytest.raises(expected):
            await VERBS[verb](there, claim)
        assert phase == await here.sessions.initialization.phase("session")
        dead = await here.sessions.get("session", include_dead=True)
        assert (before and before.failure) == (dead and dead.failure)


async def test_f30_an_illegal_transition_says_what_is_legal(here: SessionLayer) -> None:
    await here.sessions.create("session")

    with pytest.raises(IllegalTransitionError, match="pre_init") as caught:
        await here.sessions.initialization.mark_initialized("session")

    assert ("pre_init", "initialized") == (caught.value.phase, caught.value.wanted)
    for allowed in TRANSITIONS["pre_init"]:
        assert allowed in str(caught.value)


async def test_f30_a_session_that_is_not_there_is_closed(here: SessionLayer) -> None:
    assert "closed" == await here.sessions.initialization.phase("missing")
    with pytest.raises(SessionNotFoundError):
        await here.sessions.initialization.claim("missing")


async def test_f30_a_failed_session_stays_for_diagnosis_and_says_why(here: SessionLayer, there: SessionLayer) -> None:
    await here.sessions.create("session")

    await there.sessions.initialization.fail("session", "the client speaks in tongues")

    assert ("error", "the client speaks in tongues", "live") == (
        (got := await get(here)).phase,
        got.failure,
        got.status,
    )

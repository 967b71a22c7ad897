"""A client may cancel its call wherever its handler waits, and so may the end of its session."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from mcpsession import current_session
from mcpsession.sdk import exchange
from tests.attacks.cancelling import Stepped
from tests.attacks.leaks import Leaks
from tests.attacks.served import finals, serves
from tests.attacks.sockets import Socket, calling
from tests.sdk.gates import until
from tests.sdk.replicas import Client, Replica

SCHEMA = {"type": "object", "properties": {}}


@pytest.mark.parametrize("how", ["its client cancels it", "whoever runs the server ends it"])
async def test_a_call_that_asks_and_writes(
    here: Replica, client: Client, leaks: Leaks, shared_url: str, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """It is answered once; what it asked nobody waits for; its number and its session can be used again."""
    place, reached = 0, False
    real: Callable[..., Awaitable[Any]] = exchange.outcome

    async def stepped(request_id: Any, *rest: Any) -> Any:
        if request_id != 7:
            return await real(request_id, *rest)

        def reach(_: object) -> None:
            nonlocal reached
            reached = True
            if how == "its client cancels it":
                assert here.parts.in_flight.cancel(client.session_id, 7)
            else:
                for running in here.parts.in_flight.of(client.session_id):
                    running.end("over")

        return await Stepped(real(request_id, *rest), place, reach)

    monkeypatch.setattr(exchange, "outcome", stepped)

    async def script(ctx: Any) -> str:
        await ctx.report_progress(1)
        state = await current_session().state()
        await ctx.session.elicit_form("?", SCHEMA, related_request_id=ctx.request_id)
        state["count"] = state.get("count", 0) + 1
        await ctx.session.send_log_message("error", "counted")
        return "counted"

    here.scripts["script"] = script
    counted = 0
    codes: list[int | None] = []
    while place == 0 or reached:
        place, reached = place + 1, False
        call = Socket(client, "POST", calling("script", 7))
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call.run, here)
                await until(lambda call=call: call.questions or call.answers)
                for question in call.questions:
                    await client.answer(here, question, {"action": "accept", "content": {}})
        await leaks.none()
        assert 1 == len(call.answers), (place, call.messages)
        codes.append(call.answers[0].get("error", {}).get("code"))
        await serves(here, client)
        # Committed or not, as a whole.
        state = await here.layer.sessions.state(client.session_id)
        assert state.get("count", 0) in (counted, counted + 1)
        counted = state.get("count", 0)
    assert None is codes[-1]
    # One that was answered already when the cancel came keeps its answer.
    assert {-32800 if how == "its client cancels it" else -32000} == set(codes[:-1]) - {None}
    assert place >= 5
    assert {(True, 1)} == await finals(shared_url, client.session_id)

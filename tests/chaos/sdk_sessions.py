"""Clients of the official SDK: each with one session after the other, calling tools until it is told to stop."""

from __future__ import annotations

import random
import time

import anyio
import httpx2
import mcp_types as types
from mcp import Client as SDKClient
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from tests.chaos.closing import close_session
from tests.chaos.plans import Plan, Planned
from tests.chaos.records import KIND_OWN, KIND_TOOLS, Call, Heard, Hearing, Outcome, Tally
from tests.chaos.stage import Stage
from tests.chaos.wire import TIMEOUT, Wire

# After so many calls, or so many seconds without a stream of news, a client leaves and comes back as another one.
CALLS_OF_A_SESSION = (8, 60)
DEAF_FOR = 10.0
RETRY = 0.5


class SDKCaller:
    """One of the crowd."""

    def __init__(self, name: str, http: httpx2.AsyncClient, stage: Stage) -> None:
        self._name = name
        self._http = http
        self._stage = stage
        self._chance = stage.chance(f"sdk {name}")
        self._session: SDKSession | None = None
        self.sessions = 0
        self.rebuilt = 0
        """How often the SDK's client itself came to an end, with whatever it was doing."""
        self.deaf = 0
        """How often it had given up its stream of news, so that a new one was begun."""

    def cut(self) -> None:
        if self._session is not None:
            self._session.wire.cut()

    def look(self) -> None:
        if self._session is not None:
            self._session.look()

    async def run(self) -> None:
        """Go on until told to stop; then finish the call that runs, and hear the last news."""
        while not self._stage.stop.is_set():
            self.sessions += 1
            name = f"sdk {self._name}.{self.sessions}"
            self._session = session = SDKSession(name, str(self._http.base_url), self._chance, self._stage)
            try:
                await session.run()
            except Exception as error:  # the boundary: a client that breaks is replaced, and its calls have ended
                self.rebuilt += session.connected
                session.broke(error)
                await anyio.sleep(RETRY)
            self._session = None
            self.deaf += session.deaf
            if session.connected:
                await close_session(self._http, session.wire.session_id, session.tally, self._chance)


class SDKSession:
    """One session of one client object."""

    def __init__(self, name: str, url: str, chance: random.Random, stage: Stage) -> None:
        self._name = name
        self._url = url
        self._chance = chance
        self._stage = stage
        self._plan = Plan(chance)
        self._open: dict[str, tuple[Call, Planned | None]] = {}
        self._hearing = Hearing(name, 0.0, everything=False)
        self.tally = Tally(name)
        self.wire = Wire(self._call_of)
        self.connected = False
        self.deaf = False

    async def run(self) -> None:
        """Connect, call until it is time to leave, and hear the last news."""
        begun = self._begin(f"{self._name}.0", "initialize")
        async with httpx2.AsyncClient(transport=self.wire, timeout=TIMEOUT) as http:
            transport = streamable_http_client(f"{self._url}/mcp", http_client=http, terminate_on_close=False)
            async with SDKClient(
                transport,
                mode="legacy",
                cache=None,
                elicitation_callback=elicited,
                sampling_callback=sampled,
                message_handler=self._hear,
            ) as client:
                self.connected = True
                self._end(begun, "result", f"{begun.tag} done")
                self._hearing.since = time.monotonic()
                self._stage.records.tallies.append(self.tally)
                self._stage.records.hearings.append(self._hearing)
                await self._call_on(client)
                if self._stage.stop.is_set():
                    await self._stage.leave.wait()
                    self.look()

    def look(self) -> None:
        """Write down whether the client has a stream of news now."""
        self._hearing.listening = self.wire.listening > 0

    def broke(self, error: Exception) -> None:
        """Whatever it was doing has ended with this."""
        for call, _ in list(self._open.values()):
            self._end(call, "error", f"the SDK's client broke: {error!r}")

    async def _call_on(self, client: SDKClient) -> None:
        heard_at = time.monotonic()
        for number in range(1, self._chance.randint(*CALLS_OF_A_SESSION)):
            await self._stage.rest(self._plan.thinks())
            if self._stage.stop.is_set():
                return
            if self.wire.listening:
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > DEAF_FOR:
                self.deaf = True
                return
            await self._call(client, self._plan.next(f"{self._name}.{number}"))

    async def _call(self, client: SDKClient, planned: Planned) -> None:
        call = self._begin(planned.tag, planned.tool, planned)

        async def hear(progress: float, total: float | None, message: str | None) -> None:
            call.progress.append(int(progress))
            call.says(message)

        try:
            result = await client.call_tool(planned.tool, planned.arguments, progress_callback=hear)
        except MCPError as error:
            self._end(call, "error", str(error))
            return
        text = "".join(part.text for part in result.content if isinstance(part, types.TextContent))
        self._end(call, "error" if result.is_error else "result", text)

    def _begin(self, tag: str, tool: str, planned: Planned | None = None) -> Call:
        call = Call(tag, tool, time.monotonic(), steps=planned.steps if planned else 0)
        self._open[tag] = call, planned
        self._stage.records.calls.append(call)
        return call

    def _end(self, call: Call, outcome: Outcome, words: str) -> None:
        _, planned = self._open.pop(call.tag)
        call.end(outcome, words, time.monotonic())
        if planned is not None:
            planned.note(call, self.tally, self._hearing)

    def _call_of(self, tag: str) -> Call | None:
        call, _ = self._open.get(tag, (None, None))
        return call

    async def _hear(self, message: object) -> None:
        match message:
            case types.ToolListChangedNotification(params=params) if params is not None and params.meta:
                self._heard(KIND_TOOLS, params.meta["number"])
            case types.LoggingMessageNotification(params=params):
                self._heard(KIND_OWN, params.data)

    def _heard(self, kind: str, number: int) -> None:
        self._hearing.heard.append(Heard(kind, number, self.wire.connections))


async def elicited(context: object, params: types.ElicitRequestParams) -> types.ElicitResult:
    return types.ElicitResult(action="accept", content={"answer": params.message.upper()})


async def sampled(context: object, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
    content = params.messages[0].content
    assert isinstance(content, types.TextContent)
    said = types.TextContent(type="text", text=content.text.upper())
    return types.CreateMessageResult(role="assistant", model="chaos", content=said)

"""What requests cost in Postgres, counted over every connection of two replicas: the table of docs/statements.md."""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import anyio
import pytest

from mcpsession import journal
from tests.counting import Statements, asked_by
from tests.sdk.counted_requests import (
    AT_REST,
    RARELY,
    REQUEST,
    SCENARIOS,
    Cost,
    World,
    barrier,
    call_each,
    counted_replicas,
)
from tests.sdk.replicas import Client, replica, stored

pytestmark = pytest.mark.filterwarnings("ignore:The logging capability is deprecated")

PAGE = Path(__file__).parents[2] / "docs" / "statements.md"


# ---- What the page says --------------------------------------------------------------------------------------------


class Said(NamedTuple):
    """One cell: statements by name, and how many of which there may be fewer."""

    counts: Counter[str]
    fewer: frozenset[str]

    def fits(self, counted: Counter[str]) -> bool:
        return counted.keys() == self.counts.keys() and all(
            counted[name] == most or (name in self.fewer and counted[name] < most) for name, most in self.counts.items()
        )


def said(cell: str) -> Said:
    found = re.findall(r"(up to )?(?:(\d+) \u00d7 )?`([a-z_.]*[A-Z_]+)`", cell)
    assert found or cell == "nothing", cell
    return Said(
        Counter({name: int(times or 1) for _, times, name in found}),
        frozenset(name for fewer, _, name in found if fewer),
    )


class Row(NamedTuple):
    waits: Said
    besides: Said

    def fits(self, cost: Cost) -> bool:
        return self.waits.fits(cost[0]) and self.besides.fits(cost[1])


def rows() -> dict[str, Row]:
    table = PAGE.read_text().split("|---|---|---|\n")[1].split("\n\n")[0]
    cells = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.splitlines()]
    return {request: Row(said(waits), said(besides)) for request, waits, besides in cells}


# ---- What is so ----------------------------------------------------------------------------------------------------


async def test_calls_of_known_sessions_wait_for_no_statement_while_the_journal_stands_still(database_url: str) -> None:
    """Neither with its own: not one is even sent for it."""
    statements = Statements()
    with anyio.fail_after(20):
        async with counted_replicas(database_url, statements) as (here, _), barrier(database_url) as shut:
            clients = [await Client().initialize(here) for _ in range(8)]
            await call_each(clients, here)
            await here.parts.journal.flushed()
            statements.clear()
            async with shut:
                with asked_by(REQUEST):
                    for _ in range(5):
                        await call_each(clients, here)
                answered = statements.by_name
            await here.parts.journal.flushed()
            events = [await stored(here, "events", client.session_id) for client in clients]

    assert set() == answered.keys() - AT_REST
    assert Counter() == statements.of(REQUEST)
    # And durable they are: with `initialize`, and the first one.
    assert [2 + 5] * 8 == events


async def test_under_load_a_call_costs_less_than_a_twentieth_of_a_statement(database_url: str) -> None:
    """All statements of the replica, beats and pings included, while a statement of the journal takes as long as 128
    calls: what comes meanwhile is one batch, on a machine of any speed."""
    statements, calls = Statements(), 0
    with anyio.fail_after(60):
        async with counted_replicas(database_url, statements) as (here, _), barrier(database_url) as shut:
            clients = [await Client().initialize(here) for _ in range(64)]
            await call_each(clients, here)
            await here.parts.journal.flushed()
            statements.clear()
            for _ in range(8):
                async with shut:
                    for _ in range(2):
                        await call_each(clients, here)
                        calls += len(clients)
                await here.parts.journal.flushed()

    assert calls * 0.05 >= statements.by_name.total(), statements.by_name


async def test_the_journal_sends_no_more_than_one_statement_in_the_time_that_it_lingers(database_url: str) -> None:
    """Or for each that is full: 0.05 statements a call, on a machine of any speed, from 20 calls on in that time."""
    statements, waves = Statements(), 8
    with anyio.fail_after(60):
        async with replica(database_url, wrap=statements.watch, **RARELY) as here:
            clients = [await Client().initialize(here) for _ in range(64)]
            await call_each(clients, here)
            await here.parts.journal.flushed()
            statements.clear()
            began = time.monotonic()
            for _ in range(waves):
                await call_each(clients, here)
            # What the end hurries is one more, and what is on its way then another.
            await here.parts.journal.flushed()
            took = time.monotonic() - began

    lingered, full = took / journal._LINGER, waves * len(clients) / journal._ENOUGH_STREAMS
    assert statements.by_name["writing.WRITE"] <= 2 + lingered + full, (statements.by_name, took)


async def test_each_request_costs_the_statements_that_the_page_says(database_url: str) -> None:
    page, statements = rows(), Statements()
    assert list(SCENARIOS) == list(page)
    wrong = {}
    with anyio.fail_after(60):
        async with counted_replicas(database_url, statements) as (here, there):
            client = await Client().initialize(here)
            world = World(here, there, statements, client)
            for at in (here, there):
                async with client.echo(at) as response:
                    await response.ended()
            for name, scenario in SCENARIOS.items():
                cost = await world.cost_of(scenario, page[name].fits)
                if not page[name].fits(cost):
                    wrong[name] = tuple(map(dict, cost))
    assert not wrong, "\n".join(map(str, wrong.items()))

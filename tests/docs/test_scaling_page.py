"""The page about scaling: its sums are the calculator's, its queries run, its tenants do not see each other."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import pytest

from benchmarks import budget
from mcpsession.settings import Settings
from tests.docs.snippets import run, snippets_of

PAGE = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
CHAPTERS = {chapter.partition("\n")[0]: chapter for chapter in PAGE.split("\n## ")[1:]}
QUERIES = re.findall(r"```sql\n(.*?)```", CHAPTERS["What breaks first, and how it shows"], re.DOTALL)

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


def test_the_budget_of_a_million_sessions_is_the_calculator_s(capsys: pytest.CaptureFixture[str]):
    """If this fails, the costs were measured anew: put what it prints into the page."""
    [(arguments, printed)] = re.findall(r"```\n\$ python -m benchmarks.budget ([^\n]*)\n(.*?)\n```", PAGE, re.DOTALL)
    budget.main(arguments.split())
    assert capsys.readouterr().out == printed + "\n"


@pytest.mark.parametrize("query", QUERIES)
async def test_a_query_of_the_page_runs(database_url: str, query: str):
    assert len(QUERIES) == 4
    connection = await asyncpg.connect(database_url)
    try:
        await connection.fetch(query)
    finally:
        await connection.close()


def test_every_setting_that_the_page_turns_exists():
    named = re.findall(r"`(\w+)(?:=[^`]*)?`", CHAPTERS["When to turn which knob"])
    ours = {name for name in named if name in Settings.__dataclass_fields__}
    of_postgres = {"checkpoint_timeout", "max_wal_size", "autovacuum_max_workers", "maintenance_work_mem"}
    assert {"strict", "Idle", "None", "pg_stat"} == set(named) - ours - of_postgres
    assert len(ours) > 15


async def test_two_tenants_in_one_process_do_not_see_each_other(database_url: str):
    [snippet] = snippets_of("docs/scaling.md")
    # One database does as well: the namespaces differ.
    snippet = re.sub(r"postgresql://app@db-\d/\w+", database_url, snippet)
    names: dict[str, Any] = {}
    await run(snippet, names)
    headers = {"Accept": "application/json, text/event-stream"}
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(names["app"].router.lifespan_context(names["app"]))
        client = await stack.enter_async_context(
            httpx2.AsyncClient(
                transport=httpx2.ASGITransport(names["app"]), base_url="http://127.0.0.1:8000", headers=headers
            )
        )
        made = await client.post("/acme/mcp", json=INITIALIZE)
        assert 200 == made.status_code, made.text
        session = {"Mcp-Session-Id": made.headers["mcp-session-id"], "MCP-Protocol-Version": "2025-11-25"}
        call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "whose", "arguments": {}}}
        await client.post("/acme/mcp", json={"jsonrpc": "2.0", "method": "notifications/initialized"}, headers=session)
        assert '"acme"' in (await client.post("/acme/mcp", json=call, headers=session)).text
        assert 404 == (await client.post("/globex/mcp", json=call, headers=session)).status_code

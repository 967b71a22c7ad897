"""What the page about news shows runs, on Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import anyio
import asyncpg
import pytest

import mcpsession
from mcpsession import SessionLayer
from tests.docs.snippets import run, snippets_of

PUBLISH, TO_ONE, TRANSACTION, BURST, SUBSCRIBE, CONTROL = snippets_of("docs/news.md")


@pytest.fixture
async def page(database_url: str) -> AsyncIterator[dict[str, Any]]:
    """What the page takes for given: two replicas, a session, a connection, some orders."""
    names: dict[str, Any] = {name: getattr(mcpsession, name) for name in ("News", "NoStream", "Published")}
    layer, other = (SessionLayer.from_url(database_url, namespace="page", debounce_max=0.1) for _ in range(2))
    connection = await asyncpg.connect(database_url)
    await connection.execute("CREATE TABLE orders (id int, shipped timestamptz); INSERT INTO orders VALUES (7)")
    async with layer, other:
        session = await layer.sessions.create()
        yield names | {
            "layer": layer, "news": layer.broadcaster, "other": other.broadcaster, "session": session,
            "connection": connection, "orders": range(100), "replicas": SimpleNamespace(other=other),
        }  # fmt: skip
    await connection.close()


async def heard_elsewhere(page: dict[str, Any], snippet: str) -> list[str]:
    """The methods that the other replica hears of a snippet's publications, up to a mark."""
    methods = []
    with anyio.fail_after(10):
        async with page["other"].subscribe(policy="replay") as heard:
            await run(snippet, page)
            await page["news"].publish(page["News"]("page/end"))
            async for news in heard:
                if news.method == "page/end":
                    return methods
                methods.append(news.method.removeprefix("notifications/"))
    return methods


async def test_what_is_published_is_heard_on_the_other_replica_in_order(page):
    expected = ["tools/list_changed", "resources/updated", "message", "orders/shipped"]
    assert expected == await heard_elsewhere(page, PUBLISH)


async def test_news_to_a_session_whose_client_does_not_listen_says_so(page, capsys):
    await run(TO_ONE, page)
    assert "its client does not listen now" in capsys.readouterr().out


async def test_news_in_a_transaction_is_heard_after_its_commit(page):
    assert ["resources/updated"] == await heard_elsewhere(page, TRANSACTION)


async def test_a_burst_is_published_once(page):
    with anyio.fail_after(10):
        async with page["other"].subscribe(policy="replay") as heard:
            await run(BURST, page)
            news = await anext(heard)
            await page["news"].publish(page["News"]("page/end"))
            after = await anext(heard)
    assert ("notifications/resources/list_changed", "page/end") == (news.method, after.method)


async def test_a_subscriber_prints_what_it_hears(page, capsys):
    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(10):
            tasks.start_soon(run, SUBSCRIBE, page)
            while not page["news"].subscriber_count:
                await anyio.lowlevel.checkpoint()
            await page["other"].publish(page["News"]("orders/changed", {"order": 8}))
            while (printed := capsys.readouterr().out) == "":
                await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert printed == "orders/changed {'order': 8}\n"


async def test_the_other_replica_applies_a_control_message_and_the_sender_does_not(page, capsys):
    applied = anyio.Event()
    asked = []

    @page["replicas"].other.control.on("reload")
    def reload(params):
        asked.append(params)
        applied.set()

    await run(CONTROL, page)
    with anyio.fail_after(10):
        await applied.wait()
    assert ([{"what": "prices"}], "") == (asked, capsys.readouterr().out)

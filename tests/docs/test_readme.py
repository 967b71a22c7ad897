"""What the README shows runs, word for word but for the database's URL."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette

from tests.docs.snippets import run, snippets_of

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
# The client's snippet would need a server; the cluster tests do what it does.
SNIPPETS = [
    one.replace("postgresql://app@db/app", "memory://") for one in snippets_of("README.md") if "Client(" not in one
]
DEFINITIONS = [one for one in SNIPPETS if "async with" not in one]
[STORE, NEWS, EVENTS] = [one for one in SNIPPETS if "async with" in one]


async def defined() -> dict[str, Any]:
    namespace: dict[str, Any] = {}
    for snippet in DEFINITIONS:
        await run(snippet, namespace)
    return namespace


async def test_the_snippets_run_and_the_example_makes_an_app_with_its_tools(capsys):
    namespace = await defined()
    await run(STORE, namespace)
    assert "deleted {'cart': ['tea'], 'paid': True}" in capsys.readouterr().out
    assert isinstance(namespace["app"], Starlette)
    tools = {tool.name for tool in namespace["mcp"]._tool_manager.list_tools()}
    assert {"price", "add_to_cart"} == tools


async def test_the_snippet_about_news_runs_and_its_subscriber_hears(capsys):
    namespace = await defined()
    layer = namespace["layer"]
    async with layer, anyio.create_task_group() as tasks:
        namespace["session"] = await layer.sessions.create()
        with anyio.fail_after(10):
            tasks.start_soon(run, NEWS, namespace)
            while not layer.broadcaster.subscriber_count:
                await anyio.lowlevel.checkpoint()
            await layer.broadcaster.publish(namespace["News"]("orders/changed", {"order": 8}), topic="warehouse")
            printed = ""
            while "8" not in printed:
                await anyio.lowlevel.checkpoint()
                printed += capsys.readouterr().out
        tasks.cancel_scope.cancel()
    # What was published right before it subscribed may come as well.
    assert printed.endswith("orders/changed {'order': 8}\n")


async def test_the_snippet_about_events_runs_and_follows_what_it_appends(capsys):
    namespace = await defined()
    layer = namespace["layer"]
    async with layer:
        namespace["session"] = session = await layer.sessions.create()
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run, EVENTS, namespace)
                printed = ""
                while "packed" not in printed:
                    await anyio.lowlevel.checkpoint()
                    printed += capsys.readouterr().out
                await layer.sessions.delete(session.id)
    assert printed.endswith("1 {'order': 7, 'step': 'packed'}\n")


def test_the_example_has_ten_lines_or_so():
    code = [line for line in SNIPPETS[0].splitlines() if line.strip()]
    assert len(code) <= 10


@pytest.mark.parametrize("target", sorted(set(re.findall(r"make ([a-z]+)", README)) - {"nothing"}))
def test_each_target_that_the_readme_names_exists(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_each_file_that_the_readme_links_to_exists(link):
    assert link.startswith("https://") or (ROOT / link).exists()


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.name)
def test_each_link_between_the_pages_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert link.startswith("https://") or (page.parent / link).exists(), link

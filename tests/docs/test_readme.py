"""What the README shows runs, word for word but for the database's URL."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
from starlette.applications import Starlette

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
# The client's snippet is a fragment of an async function; the cluster tests do what it does.
SNIPPETS = [one for one in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "async with Client" not in one]


async def test_the_snippets_run_and_the_example_makes_an_app_with_its_tools(capsys):
    namespace: dict[str, Any] = {}
    # What is awaited is a fragment of an async function, and comes when all is defined.
    for snippet in sorted(SNIPPETS, key=lambda one: "async with" in one):
        if snippet.startswith("async with"):
            snippet = "async def fragment():\n" + indent(snippet, "    ")
        exec(snippet.replace("postgresql://app@db/app", "memory://"), namespace)  # ours, from this repository
        if fragment := namespace.pop("fragment", None):
            await fragment()
    assert "deleted {'cart': ['tea'], 'paid': True}" in capsys.readouterr().out
    assert isinstance(namespace["app"], Starlette)
    tools = {tool.name for tool in namespace["mcp"]._tool_manager.list_tools()}
    assert {"price", "add_to_cart"} == tools


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

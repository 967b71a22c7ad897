"""The Python that a page shows, run as it stands."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def snippets_of(page: str) -> list[str]:
    """All of a page's Python, by its path from the root, in order."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


async def run(snippet: str, namespace: dict[str, Any]) -> None:
    """Run a snippet, which may await, as a fragment of an async function."""
    code = compile(snippet, "snippet", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    outcome = eval(code, namespace)  # ours, from this repository
    if inspect.iscoroutine(outcome):
        await outcome

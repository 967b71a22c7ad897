"""At a million sessions, no statement that runs per request or per sweep reads or sorts more than it was asked for.

Each is explained where the backend runs it, with the arguments that it has there, once planned for those and once for
any. Then in each plan

- no table of ours is read from end to end (of `replicas`, which has a row a process, that is right),
- no part reads, joins or sorts more rows than `_bound` allows: some for each of those that were asked for (by id or
  by a limit) or that it returned. So a sort of a batch is fine, and one that a table's rows pass through is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from tests.conftest import _new_database
from tests.postgres.calls import MANY, explained_calls
from tests.postgres.explained import MODES, Explained, asks_for_rows, drawn, made, refused
from tests.postgres.million import build
from tests.postgres.test_statements import STATEMENTS

LARGE = {"sessions", "streams", "events", "mail", "subscriptions", "control"}
OURS = [name for name, statement in STATEMENTS.items() if asks_for_rows(statement)]

# What may look at many rows, and why.
EXEMPT: dict[str, str] = {
    "directory.COUNT": "a count of all looks at all: for people and minutes",
    "directory.STATS": "for people and minutes",
    "session_events.STATS": "for people and minutes",
}


class Runs(dict[str, list[Explained]]):
    """By statement, how it was run."""

    def __repr__(self) -> str:
        return f"<{len(self)} statements>"


@pytest.fixture(scope="module")
def runs(server_url: str, migrated_template: str) -> Iterator[Runs]:
    """What a backend asked of a database with a million sessions, by statement."""
    for url in _new_database(server_url, f"TEMPLATE {migrated_template}"):
        asyncio.run(build(url))
        runs = Runs()
        for run in asyncio.run(explained_calls(url)):
            runs.setdefault(run.statement, []).append(run)
        yield runs


@pytest.mark.parametrize("name", OURS)
def test_a_statement_is_used(runs: Runs, name: str) -> None:
    """A new one is met here: call the method that runs it in tests/postgres/calls.py, with realistic arguments."""
    assert set(MODES) == {run.mode for run in runs.get(STATEMENTS[name], ())}


def test_what_is_used_is_known(runs: Runs) -> None:
    """Whatever asks for rows of ours is a constant beside its method, and is looked at here."""
    assert set() == runs.keys() - {STATEMENTS[name] for name in OURS}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [name for name in OURS if name not in EXEMPT])
def test_a_statement_reads_and_sorts_little(runs: Runs, name: str, mode: str) -> None:
    for run in runs[STATEMENTS[name]]:
        if run.mode == mode:
            found = list(_problems(run.plan, _bound(run)))
            assert [] == found, f"{name} with {_shortened(run.arguments)}:\n{drawn(run.plan)}"


def test_the_exempt_are_there() -> None:
    assert EXEMPT.keys() <= set(OURS)


def _bound(run: Explained) -> int:
    """How many rows one part of a plan may look at."""
    asked = [len(value) for value in run.arguments if isinstance(value, (list, tuple))]
    asked += [value for value in run.arguments if type(value) is int and value <= MANY]
    return 20 * max(*asked, int(made(run.plan)), 1) + 200


def _problems(node: Mapping[str, Any], bound: int) -> Iterator[str]:
    kind, table = node["Node Type"], node.get("Relation Name")
    if kind == "Seq Scan" and table in LARGE:
        yield f"Seq Scan on {table}"
    elif (
        "Scan" in kind
        and (table in LARGE or kind == "Bitmap Index Scan")
        and (read := made(node) + refused(node)) > bound
    ):
        yield f"{kind} on {table or node['Index Name']} looks at {read:.0f} rows, more than {bound}"
    elif "Sort" in kind and (taken := sum(map(made, node["Plans"]))) > bound:
        yield f"{kind} of {taken:.0f} rows, more than {bound}"
    elif (pairs := node.get("Rows Removed by Join Filter", 0) * node["Actual Loops"]) > bound:
        yield f"{kind} looks at {pairs:.0f} pairs of rows in vain, more than {bound}"
    for part in node.get("Plans", ()):
        yield from _problems(part, bound)


def _shortened(arguments: Sequence[Any]) -> list[str]:
    return [text if len(text := repr(value)) < 80 else f"{text[:60]}… ({len(value)})" for value in arguments]

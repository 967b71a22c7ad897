"""Postgres's own reading of a statement: the tree that it keeps of a function's body."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import asyncpg

_TOKEN = re.compile(r'[(){}]|"(?:[^"\\]|\\.)*"|(?:[^\s(){}"\\]|\\.)+')


@dataclass(frozen=True)
class Node:
    """`{KIND :field value …}`; a value is a node, a list, or a word."""

    kind: str
    fields: dict[str, Any]

    def __getitem__(self, field: str) -> Any:
        return self.fields[field]

    def items(self, field: str) -> list[Any]:
        """A list, which is a word when it is empty."""
        value = self.fields[field]
        return value if isinstance(value, list) else []

    def number(self, field: str) -> int:
        return int(self.fields[field])

    def walk(self, *, into_queries: bool = True) -> Iterator[Node]:
        """Itself and every node below."""
        yield self
        yield from walk(list(self.fields.values()), into_queries=into_queries)


def walk(value: object, *, into_queries: bool = True) -> Iterator[Node]:
    """Every node in a value."""
    if isinstance(value, Node):
        if into_queries or value.kind != "QUERY":
            yield from value.walk(into_queries=into_queries)
    elif isinstance(value, list):
        for one in value:
            yield from walk(one, into_queries=into_queries)


async def query_tree(connection: asyncpg.Connection[asyncpg.Record], statement: str) -> Node:
    """The tree of one statement, as the server that `connection` leads to understands it."""
    types = [parameter.name for parameter in (await connection.prepare(statement)).get_parameters()]
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(
            f"CREATE FUNCTION public.read({', '.join(types)}) RETURNS void BEGIN ATOMIC {statement.strip()}; END"
        )
        text = await connection.fetchval("SELECT prosqlbody::text FROM pg_proc WHERE proname = 'read'")
    finally:
        await transaction.rollback()
    tokens = _TOKEN.findall(text)
    [[query]], end = _value(tokens, 0)
    assert len(tokens) == end
    assert isinstance(query, Node)
    return query


def _value(tokens: list[str], at: int) -> tuple[Any, int]:
    if tokens[at] == "{":
        return _node(tokens, at)
    if tokens[at] == "(":
        items, at = [], at + 1
        while tokens[at] != ")":
            item, at = _value(tokens, at)
            items.append(item)
        return items, at + 1
    return tokens[at], at + 1


def _node(tokens: list[str], at: int) -> tuple[Node, int]:
    kind, fields, at = tokens[at + 1], {}, at + 2
    while tokens[at] != "}":
        name, at = tokens[at].removeprefix(":"), at + 1
        fields[name], at = _value(tokens, at)
        # A constant's value is several words; nobody asks for them.
        while tokens[at] != "}" and not tokens[at].startswith(":"):
            at += 1
    return Node(kind, fields), at + 1

"""What a backend asks of Postgres, explained: each of its statements, with its arguments, where and when it was run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import asyncpg

MODES = ("force_custom_plan", "force_generic_plan")
"""Planned for these arguments, and planned for any: Postgres may go over to that after five runs of a statement."""

PATIENCE = 60.0


class Explained(NamedTuple):
    """One run of a statement, and its plan."""

    statement: str
    arguments: Sequence[Any]
    mode: str
    plan: dict[str, Any]


def asks_for_rows(statement: str) -> bool:
    """Whether it is about a table of ours; Alembic's has one row."""
    return re.search(r"\bmcpsession\.(?!alembic_version)", statement) is not None


class Explainer:
    """Explains what runs on the connections that it makes, just before it is run: executed, and rolled back."""

    def __init__(self) -> None:
        self.explained: list[Explained] = []

    def connection_class(
        self, ours: type[asyncpg.Connection[asyncpg.Record]]
    ) -> type[asyncpg.Connection[asyncpg.Record]]:
        """A class of connections like `ours`, that explain what they run."""
        explain = self._explain

        class Explaining(ours):  # type: ignore[misc, valid-type]
            __slots__ = ()

            async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
                await explain(self, query, args)
                return await super().fetch(query, *args, **options)

            async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
                await explain(self, query, args)
                return await super().fetchrow(query, *args, **options)

            async def execute(self, query: str, *args: Any, **options: Any) -> str:
                await explain(self, query, args)
                return await super().execute(query, *args, **options)

        return Explaining

    async def _explain(
        self, connection: asyncpg.Connection[asyncpg.Record], statement: str, arguments: Sequence[Any]
    ) -> None:
        if asks_for_rows(statement):
            for mode in MODES:
                plan = await _explained(connection, statement, arguments, mode)
                if plan is not None:
                    self.explained.append(Explained(statement, arguments, mode, plan))


async def _explained(
    connection: asyncpg.Connection[asyncpg.Record], statement: str, arguments: Sequence[Any], mode: str
) -> dict[str, Any] | None:
    """The plan, with what came of it; None if the statement cannot be run (an id is in use)."""

    async def execute(query: str) -> None:
        await asyncpg.Connection.execute(connection, query, timeout=PATIENCE)

    inside = connection.is_in_transaction()
    await execute("SAVEPOINT explaining" if inside else "BEGIN")
    try:
        await execute(f"SET LOCAL plan_cache_mode = {mode}")
        await execute(f"PREPARE explained AS {statement}")
        call = "EXECUTE explained" + (f" ({', '.join(map(_literal, arguments))})" if arguments else "")
        [row] = await asyncpg.Connection.fetch(
            connection, f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {call}", timeout=PATIENCE
        )
    except asyncpg.UniqueViolationError:
        return None
    finally:
        await execute("ROLLBACK TO explaining" if inside else "ROLLBACK")
        await execute("DEALLOCATE explained")
    plan: dict[str, Any] = json.loads(row[0])[0]["Plan"]
    return plan


def _literal(value: object) -> str:
    """A value as SQL text, whose type the prepared statement knows."""
    if value is None:
        return "NULL"
    if isinstance(value, (list, tuple)):
        return _quoted("{" + ",".join(map(_item, value)) + "}")
    return _quoted(str(value))


def _item(value: object) -> str:
    if value is None:
        return "NULL"
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _quoted(text: str) -> str:
    return " E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


# ---- To be read by people -------------------------------------------------------------------------------------------


def drawn(node: Mapping[str, Any], depth: int = 0) -> str:
    """A plan as text, a line for each part."""
    names = ("Relation Name", "Index Name", "CTE Name", "Subplan Name")
    notes = ("Index Cond", "Filter", "Rows Removed by Filter", "Join Filter", "Rows Removed by Join Filter", "Sort Key")
    name = " ".join(str(node[key]) for key in names if key in node)
    note = "; ".join(f"{key}: {node[key]}" for key in notes if node.get(key))
    line = f"{'  ' * depth}{node['Node Type']} {name} rows={made(node):.0f} (planned {node['Plan Rows']}) {note}"
    return "\n".join([line, *(drawn(part, depth + 1) for part in node.get("Plans", ()))])


def made(node: Mapping[str, Any]) -> float:
    """Rows that a part of a plan gave on, over all its runs."""
    return float(node["Actual Rows"] * node["Actual Loops"])


def refused(node: Mapping[str, Any]) -> float:
    """Rows, or pairs of them, that it looked at and kept back."""
    kept = ("Rows Removed by Filter", "Rows Removed by Index Recheck", "Rows Removed by Join Filter")
    return float(sum(node.get(key, 0) for key in kept) * node["Actual Loops"])

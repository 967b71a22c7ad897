"""What Citus documents that it does not take, found in the tree of a statement.

From its documentation ("SQL support and workarounds") and the messages of its planner. A statement that breaks none may
be refused all the same: only Citus itself knows, and `mcpsession migrate --distributed` asks it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import asyncpg

from mcpsession.postgres.distribution import DISTRIBUTED
from tests.postgres.query_trees import Node, walk

LOCKS = "locks rows of several sessions"
STABLE = "gives a column to a stable function in UPDATE or DELETE"
CASE = "has now() within CASE or COALESCE in UPDATE or DELETE"
RETURNING = "returns what now() makes of it"
VOLATILE = "has a volatile function in UPDATE or DELETE"
KEY = "gives a row another session's id"
LOCAL = "asks a local table about each row of a distributed one"
APART = "joins distributed tables without joining their sessions"
TARGET = "has a subquery in the list of its columns, over several sessions"
LATERAL = "joins a function of each row, over several sessions, with a LIMIT"

_SELECT, _UPDATE, _INSERT, _DELETE = range(1, 5)
_RELATION = 0


@dataclass(frozen=True)
class Catalog:
    """What the numbers in a tree mean."""

    tables: dict[int, tuple[str, int | None]]
    """Name, and the number of the column that it is distributed by, if it is."""
    volatility: dict[int, str]
    equalities: frozenset[int]

    @classmethod
    async def read(cls, connection: asyncpg.Connection[asyncpg.Record]) -> Catalog:
        columns = await connection.fetch(
            "SELECT c.oid, c.relname, a.attname, a.attnum FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
            "WHERE c.relnamespace = 'mcpsession'::regnamespace AND c.relkind = 'r'"
        )
        tables: dict[int, tuple[str, int | None]] = {row["oid"]: (row["relname"], None) for row in columns}
        for row in columns:
            if DISTRIBUTED.get(row["relname"]) == row["attname"]:
                tables[row["oid"]] = (row["relname"], row["attnum"])
        functions = await connection.fetch("SELECT oid, provolatile::text FROM pg_proc")
        equal = await connection.fetch("SELECT oprcode::oid AS code FROM pg_operator WHERE oprname = '='")
        return cls(
            tables, {row["oid"]: row["provolatile"] for row in functions}, frozenset(row["code"] for row in equal)
        )


def broken_rules(query: Node, catalog: Catalog) -> set[str]:
    """Which of the rules a statement breaks."""
    queries = [node for node in query.walk() if node.kind == "QUERY"]
    return {rule for one in queries for rule in _Level(one, catalog).broken()}


class _Level:
    """One query, without the queries in it."""

    def __init__(self, query: Node, catalog: Catalog) -> None:
        self._query = query
        self._catalog = catalog
        self._command = query.number("commandType")
        relations: dict[int, tuple[str, int | None]] = {
            place: catalog.tables[entry.number("relid")]
            for place, entry in enumerate(query.items("rtable"), 1)
            if entry.number("rtekind") == _RELATION and entry.number("relid") in catalog.tables
        }
        # What an INSERT writes to, and `excluded`, are joined with nothing.
        joined = {
            node.number("rtindex") for node in walk(query["jointree"], into_queries=False) if node.kind == "RANGETBLREF"
        }
        self._distributed = {place: column for place, (_, column) in relations.items() if column and place in joined}
        self._local = [place for place, (_, column) in relations.items() if not column and place in joined]
        self._equal = self._equalities()

    def broken(self) -> Iterator[str]:
        query = self._query
        for mark in query.items("rowMarks"):
            # A session of the query around it is one of several.
            if mark.number("rti") in self._distributed and not self._is_pinned(mark.number("rti"), within=False):
                yield LOCKS
        if self._command in (_UPDATE, _DELETE) and query.number("resultRelation") in self._distributed:
            yield from self._broken_by_modifying()
        yield from self._broken_by_subqueries()
        if len(self._distributed) > 1 and len({self._root(self._key(place)) for place in self._distributed}) > 1:
            yield APART
        if (
            self._is_over_several()
            and query["limitCount"] != "<>"
            and any(entry["lateral"] == "true" for entry in query.items("rtable"))
        ):
            yield LATERAL

    def _broken_by_modifying(self) -> Iterator[str]:
        query = self._query
        values = query.items("targetList") if self._command == _UPDATE else []
        for expression in [*values, query["jointree"]]:
            for node in walk(expression, into_queries=False):
                if node.kind in ("CASEEXPR", "COALESCE", "COALESCEEXPR") and self._calls(node, "sv"):
                    yield CASE
                elif self._volatility(node) == "s" and any(
                    below.kind == "VAR" for below in node.walk(into_queries=False)
                ):
                    yield STABLE
                elif self._volatility(node) == "v":
                    yield VOLATILE
        if self._calls(query.items("returningList"), "sv"):
            yield RETURNING
        target = query.number("resultRelation")
        for value in values:
            if value.number("resno") == self._distributed[target] and value["resjunk"] == "false":
                yield KEY

    def _broken_by_subqueries(self) -> Iterator[str]:
        for link in walk([self._query["targetList"], self._query["jointree"]], into_queries=False):
            if link.kind != "SUBLINK":
                continue
            inner = _Level(link["subselect"], self._catalog)
            asks_back = any(node.kind == "VAR" and node.number("varlevelsup") == 1 for node in link["subselect"].walk())
            if asks_back and inner._local and (self._distributed or inner._distributed):
                yield LOCAL
        columns = walk(self._query["targetList"], into_queries=False)
        if self._is_over_several() and self._command == _SELECT and any(node.kind == "SUBLINK" for node in columns):
            yield TARGET

    def _is_over_several(self) -> bool:
        return any(not self._is_pinned(place) for place in self._distributed)

    # ---- Which columns are equal -----------------------------------------------------------------------------------

    def _equalities(self) -> dict[object, object]:
        """A forest: each column and parameter points towards the one that stands for all that are equal to it."""
        self._equal = {}
        for node in self._conjuncts(self._query["jointree"]):
            if node.kind == "OPEXPR" and node.number("opfuncid") in self._catalog.equalities:
                left, right = (_term(argument) for argument in node.items("args"))
                if left is not None and right is not None:
                    self._equal[self._root(left)] = self._root(right)
        return self._equal

    def _conjuncts(self, value: object) -> Iterator[Node]:
        """What must be true of a row; only of what is joined in an outer join, which does as well here."""
        if isinstance(value, list):
            for one in value:
                yield from self._conjuncts(one)
        elif isinstance(value, Node):
            if value.kind in ("FROMEXPR", "JOINEXPR"):
                below = ("fromlist", "larg", "rarg", "quals")
                yield from self._conjuncts([value[field] for field in below if field in value.fields])
            elif value.kind == "BOOLEXPR" and value["boolop"] == "and":
                yield from self._conjuncts(value["args"])
            else:
                yield value

    def _root(self, term: object) -> object:
        while term in self._equal and self._equal[term] != term:
            term = self._equal[term]
        return term

    def _key(self, place: int) -> object:
        return ("column", 0, place, self._distributed[place])

    def _is_pinned(self, place: int, *, within: bool = True) -> bool:
        """Whether it is about one session: that of a parameter or a constant, or that of the query around it."""
        mine = self._root(self._key(place))
        return any(self._root(term) == mine and _is_one(term, within) for term in [*self._equal, *self._equal.values()])

    # ---- What functions do -----------------------------------------------------------------------------------------

    def _volatility(self, node: Node) -> str:
        number = node.fields.get("funcid") or node.fields.get("opfuncid")
        return "i" if number is None else self._catalog.volatility[int(number)]

    def _calls(self, value: object, kinds: str) -> bool:
        return any(node.kind == "SQLVALUEFUNCTION" or self._volatility(node) in kinds for node in walk(value))


def _term(node: Node) -> object | None:
    if node.kind == "RELABELTYPE":
        return _term(node["arg"])
    if node.kind == "VAR":
        return ("column", node.number("varlevelsup"), node.number("varno"), node.number("varattno"))
    if node.kind == "PARAM":
        return ("parameter", node["paramid"])
    if node.kind == "CONST":
        return ("constant", id(node))
    return None


def _is_one(term: object, within: bool) -> bool:
    assert isinstance(term, tuple)
    return term[0] != "column" or (within and term[1] > 0)

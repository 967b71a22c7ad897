"""What Citus would refuse of our statements, by its documentation: docs/scaling.md names exactly these.

No Citus can be had here. So this does not say that the others work there, only that the page hides nothing we know of.
"""

from __future__ import annotations

import re
from pathlib import Path

import asyncpg
import pytest

from mcpsession.postgres.distribution import DISTRIBUTED, statements_on_distributed
from tests.postgres import citus_rules
from tests.postgres.citus_rules import Catalog, broken_rules
from tests.postgres.query_trees import query_tree

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scaling.md").read_text()
# Before it nobody had distributed anything.
FIRST_RELEASE = "0004"
LATER = sorted(
    path for path in (ROOT / "migrations" / "versions").glob("0*.py") if path.name.partition("_")[0] > FIRST_RELEASE
)


async def broken(url: str, statements: dict[str, str]) -> dict[str, set[str]]:
    """Which rules each statement breaks."""
    connection = await asyncpg.connect(url)
    try:
        catalog = await Catalog.read(connection)
        return {
            name: broken_rules(await query_tree(connection, statement), catalog)
            for name, statement in statements.items()
        }
    finally:
        await connection.close()


async def test_the_page_names_every_statement_that_breaks_a_rule_of_citus(database_url: str):
    """If this fails, a statement has changed: correct the table in docs/scaling.md."""
    found: dict[str, set[str]] = {}
    for name, rules in (await broken(database_url, statements_on_distributed())).items():
        for rule in rules:
            found.setdefault(rule, set()).add(name)
    rows = re.findall(r"^\| it ([^|]+) \| [^|]+ \| ([^|]+) \|$", PAGE, re.MULTILINE)
    assert found == {rule: set(re.findall(r"`([^`]+)`", names)) for rule, names in rows}


S = "mcpsession.sessions s"
E = "mcpsession.events e"
R = "SELECT FROM mcpsession.replicas r WHERE r.id = s.claimed_by"


@pytest.mark.parametrize(
    ("statement", "rules"),
    [
        (f"SELECT s.id FROM {S} WHERE s.id = $1 FOR UPDATE", set()),
        (f"SELECT s.id FROM {S} WHERE s.id = ANY($1::text[]) FOR UPDATE", {citus_rules.LOCKS}),
        (f"SELECT s.id FROM {S} JOIN {E} ON e.session_id = s.id WHERE e.session_id = $1 FOR UPDATE OF s", set()),
        (f"SELECT s.id FROM {S} WHERE s.owner = $1 AND (s.id = $2 OR true) FOR UPDATE", {citus_rules.LOCKS}),
        (f"UPDATE {S} SET expires_at = now() WHERE s.id = $1 AND s.expires_at > now()", set()),
        (f"UPDATE {S} SET expires_at = now() + make_interval(secs => $1::float8)", set()),
        (f"UPDATE {S} SET expires_at = now() + make_interval(secs => s.ttl)", {citus_rules.STABLE}),
        (f"UPDATE {S} SET expires_at = CASE WHEN $1::bool THEN now() END", {citus_rules.CASE}),
        (f"DELETE FROM {S} WHERE coalesce(s.ended_at, now()) < $1", {citus_rules.CASE}),
        (f"DELETE FROM {S} WHERE s.id = $1 RETURNING s.expires_at > now()", {citus_rules.RETURNING}),
        (f"DELETE FROM {S} WHERE s.ttl > random()", {citus_rules.VOLATILE}),
        (f"UPDATE {S} SET id = $1 WHERE s.id = $2", {citus_rules.KEY}),
        (f"SELECT s.id FROM {S} WHERE EXISTS ({R})", {citus_rules.LOCAL}),
        (f"SELECT s.id FROM {S} WHERE EXISTS (SELECT FROM mcpsession.replicas r WHERE r.id = $1)", set()),
        (f"SELECT s.id FROM {S} JOIN {E} ON e.session_id = s.id", set()),
        (f"SELECT s.id FROM {S} JOIN {E} ON e.stream_id = s.id", {citus_rules.APART}),
        (f"SELECT s.id, (SELECT count(*) FROM {E} WHERE e.session_id = s.id) FROM {S}", {citus_rules.TARGET}),
        (f"SELECT s.id, (SELECT count(*) FROM {E} WHERE e.session_id = s.id) FROM {S} WHERE s.id = $1", set()),
        (f"SELECT x FROM {S} CROSS JOIN unnest(string_to_array(s.state, ',')) AS x LIMIT 1", {citus_rules.LATERAL}),
        ("UPDATE mcpsession.replicas SET dead_at = CASE WHEN $1::bool THEN now() END RETURNING now()", set()),
    ],
)
async def test_a_rule_is_seen_where_it_is_broken(database_url: str, statement: str, rules: set[str]):
    assert {"it": rules} == await broken(database_url, {"it": statement})


def refused_ddl(script: str) -> list[str]:
    """Which of a migration's commands Citus would not pass on to the shards."""
    refused = []
    for command in re.findall(r"(?:ALTER TABLE|CREATE UNIQUE INDEX)[^;]*", script):
        table = re.search(r"mcpsession\.(\w+)", command)
        if table is None or table[1] not in DISTRIBUTED:
            continue
        steps = re.findall(r"\b(?:ADD|DROP|ALTER|VALIDATE|RENAME|SET) (?!NOT|NULL|DEFAULT)\w+", command[5:])
        several = len(steps) > 1 and any("CONSTRAINT" in step for step in steps)
        without_key = command.startswith("CREATE UNIQUE") and not re.search(
            rf"\([^)]*\b{DISTRIBUTED[table[1]]}\b", command
        )
        if several or without_key:
            refused.append(command.strip())
    return refused


def test_migrations_since_the_first_release_can_be_run_on_distributed_tables():
    assert {} == {path.name: refused for path in LATER if (refused := refused_ddl(path.read_text()))}


@pytest.mark.parametrize(
    ("command", "is_refused"),
    [
        ("ALTER TABLE mcpsession.events ADD COLUMN a text, ADD COLUMN b text", False),
        ("ALTER TABLE mcpsession.sessions DROP CONSTRAINT c", False),
        ("ALTER TABLE mcpsession.sessions DROP CONSTRAINT c, ADD CONSTRAINT c CHECK (true)", True),
        ("ALTER TABLE mcpsession.mail DROP CONSTRAINT c, ADD CONSTRAINT c CHECK (true)", False),
        ("CREATE UNIQUE INDEX i ON mcpsession.streams (namespace, session_id, id)", False),
        ("CREATE UNIQUE INDEX i ON mcpsession.streams (namespace, producer)", True),
    ],
)
def test_a_command_that_citus_does_not_pass_on_is_seen(command: str, is_refused: bool):
    assert is_refused == bool(refused_ddl(command))

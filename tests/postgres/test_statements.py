"""Every statement of the Postgres side is one that the migrated schema knows."""

from __future__ import annotations

import re

import asyncpg
import pytest

from mcpsession.postgres.distribution import statements

STATEMENTS = statements()


@pytest.mark.parametrize("name", STATEMENTS)
async def test_a_statement_can_be_prepared(database_url: str, name: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await connection.prepare(STATEMENTS[name])
    finally:
        await connection.close()


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_names_the_schema(name: str) -> None:
    """Whatever search_path the application's role has, it is our tables that are meant."""
    tables = "sessions|streams|events|mail|replicas|subscriptions|control|control_heads"
    assert not re.search(rf"\b(FROM|JOIN|INTO|UPDATE|USING)\s+({tables})\b", STATEMENTS[name])


def test_the_statements_are_found() -> None:
    assert {"writing.WRITE", "holds.TAKE", "mail.NEWS", "replicas.BEAT", "creation.CREATE"} <= STATEMENTS.keys()

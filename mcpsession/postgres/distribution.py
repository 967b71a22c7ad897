"""Spreads the tables over the workers of Citus: by session, so that what belongs to one lies together.

`sessions`, `streams`, `events` and `subscriptions` are distributed by the session's id, in one group. `mail`,
`replicas` and the control log stay where they are, on the coordinator: a position in the mail is a snapshot of one
server.

Citus does not take every statement that Postgres takes. So it is asked to plan each of ours before anything is kept:
when it refuses one, the whole is rolled back.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import pkgutil
import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import asyncpg

import mcpsession.postgres
from mcpsession.errors import DistributionError
from mcpsession.postgres.address import Address, translate
from mcpsession.postgres.link import close
from mcpsession.postgres.migrate import check_schema, connect_for_migration, refuse_a_running_loop
from mcpsession.settings import Settings

# What each is distributed by: it is in every key of theirs, and every unique index. The first is what the others lie
# with.
DISTRIBUTED: Final[Mapping[str, str]] = {
    "sessions": "id",
    "streams": "session_id",
    "events": "session_id",
    "subscriptions": "session_id",
}

# Nobody writes to a table while it is copied to the workers, in one transaction. A minute, on a machine like ours.
MOST_BYTES: Final = 2**30

# Before it `citus_tables` does not tell what we ask for.
_OLDEST = 11

FIND_CITUS = "SELECT extversion FROM pg_extension WHERE extname = 'citus'"
# Workers answer as well, but neither the mail nor the version of the schema is there.
FIND_GROUP = "SELECT groupid FROM pg_dist_local_group"
FIND_DISTRIBUTED = """
SELECT c.relname, t.citus_table_type, t.distribution_column, t.colocation_id
FROM citus_tables t
JOIN pg_class c ON c.oid = t.table_name::oid
WHERE c.relnamespace = 'mcpsession'::regnamespace
"""
RUNNING_REPLICAS = """
SELECT count(*)
FROM mcpsession.replicas
WHERE dead_at IS NULL AND beaten_at > now() - interval '10 s'
"""
SIZE = "SELECT pg_total_relation_size('mcpsession.' || $1::text)"
# An open transaction that has a table in use is waited for, but not for long: whoever comes later waits behind us.
# One table after the other, since a later one reads what an earlier one has just made.
PREPARE = "SET LOCAL lock_timeout = '10s'; SET LOCAL citus.multi_shard_modify_mode TO 'sequential'"
DISTRIBUTE = """
SELECT create_distributed_table(('mcpsession.' || $1::text)::regclass, $2::text, colocate_with => $3::text)
"""

_STATEMENT = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b")
_NAMES_DISTRIBUTED = re.compile(rf"\bmcpsession\.({'|'.join(DISTRIBUTED)})\b")
# For each type of a parameter a value that every cast in our statements takes. A text may be meant for a snapshot;
# many texts are many sessions, which lie on many shards.
_SAMPLES: Mapping[str, object] = {
    "text": "1:1:",
    "text[]": [f"{n}:{n}:" for n in range(1, 17)],
    "int4": 1,
    "int8": 1,
    "int8[]": [1] * 16,
    "float8": 1.0,
    "float8[]": [1.0] * 16,
    "bool": True,
    "bool[]": [True] * 16,
    "timestamptz": datetime(2026, 1, 1, tzinfo=UTC),
    "timestamptz[]": [datetime(2026, 1, 1, tzinfo=UTC)] * 16,
}


def distribute(url: str, tell: Callable[[str], None] = lambda _: None) -> None:
    """Distribute what is not distributed yet, if Citus takes all our statements then; else leave everything as it was.

    Any number of processes may do so at once, and again: one works, the others wait and find it done. `tell` hears what
    was done, as it is done; what it heard counts once this returns. Blocks, like `migrate`, after which it comes.

    Raises:
        DistributionError: there is no Citus, too much data, a running replica, or a statement that Citus refuses.
        SchemaError: the schema is not at this version's revision.
        StoreUnavailableError: the database cannot be reached, or a table was not free within 10 s.
        StoreError: it refused otherwise.
    """
    refuse_a_running_loop("distribute")
    asyncio.run(_distribute(url, tell))


def statements() -> dict[str, str]:
    """All statements of the store, by module and name; those of this module know the tables of Citus and are none."""
    found = {}
    for module in pkgutil.iter_modules(mcpsession.postgres.__path__, "mcpsession.postgres."):
        if module.name == __name__:
            continue
        imported = importlib.import_module(module.name)
        source = inspect.getsource(imported)
        for name, value in vars(imported).items():
            # Each once, where it is written.
            if isinstance(value, str) and _STATEMENT.match(value) and re.search(rf"^{name} = ", source, re.MULTILINE):
                found[f"{module.name.rpartition('.')[2]}.{name}"] = value
    return found


def statements_on_distributed() -> dict[str, str]:
    """Those of them that Citus plans."""
    return {name: statement for name, statement in statements().items() if _NAMES_DISTRIBUTED.search(statement)}


async def _distribute(url: str, tell: Callable[[str], None]) -> None:
    connection = await connect_for_migration(url)
    try:
        await check_schema(connection, url=url)
        await _check_citus(connection)
        async with connection.transaction():
            # Before anything else: even a look at a table's size waits for its lock.
            await connection.execute(PREPARE)
            left = await _left(connection)
            if left:
                await _check_size(connection, left)
            for table in left:
                await _distribute_one(connection, table, tell)
            await _check_statements(connection, tell)
    except asyncpg.PostgresError as error:
        raise translate(error, Address(url, Settings()).where) from error
    finally:
        await close(connection)


async def _check_citus(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    version: str | None = await connection.fetchval(FIND_CITUS)
    if version is None:
        raise DistributionError(
            "the database does not have the extension citus",
            "install it on the coordinator and its workers and run CREATE EXTENSION citus, or stay with plain "
            "Postgres: docs/scaling.md says how far that goes",
        )
    if int(re.split(r"\D", version)[0]) < _OLDEST:
        raise DistributionError(f"Citus {version} is too old", f"upgrade it to {_OLDEST} or newer")
    if await connection.fetchval(FIND_GROUP) != 0:
        raise DistributionError("this is a worker of Citus", "give the URL of the coordinator, to the replicas as well")


async def _left(connection: asyncpg.Connection[asyncpg.Record]) -> list[str]:
    """Which tables are to be distributed still."""
    found = {row["relname"]: row for row in await connection.fetch(FIND_DISTRIBUTED)}
    for table, row in found.items():
        by = f"{row['citus_table_type']} table" + (
            f", distributed by {row['distribution_column']}" if row["citus_table_type"] == "distributed" else ""
        )
        if table not in DISTRIBUTED:
            # One that Citus merely knows is on the coordinator all the same.
            wrong = row["citus_table_type"] != "local"
        else:
            wrong = (row["citus_table_type"], row["distribution_column"]) != ("distributed", DISTRIBUTED[table])
        if wrong:
            raise DistributionError(
                f"mcpsession.{table} is a {by} already, which our statements do not expect",
                f"take that back: SELECT undistribute_table('mcpsession.{table}')",
            )
    groups = {row["colocation_id"] for table, row in found.items() if table in DISTRIBUTED}
    if len(groups) > 1:
        raise DistributionError(
            "the tables are distributed, but not together",
            "for each of streams, events and subscriptions: "
            "SELECT update_distributed_table_colocation('mcpsession.streams', colocate_with => 'mcpsession.sessions')",
        )
    left = [table for table in DISTRIBUTED if table not in found]
    if "sessions" in left and len(left) < len(DISTRIBUTED):
        raise DistributionError(
            "mcpsession.sessions is not distributed, but others are",
            "take that back for each of these: SELECT undistribute_table('mcpsession.streams')",
        )
    return left


async def _check_size(connection: asyncpg.Connection[asyncpg.Record], left: Sequence[str]) -> None:
    size = sum([await connection.fetchval(SIZE, table) for table in left])
    if size > MOST_BYTES:
        raise DistributionError(
            f"{', '.join(left)} hold {size / 2**30:.1f} GiB, and nobody could write while these are copied",
            "let sessions expire and be reaped and VACUUM FULL, or move the tables one by one, sessions first, with "
            "create_distributed_table_concurrently (docs/scaling.md), then run this again",
        )
    if running := await connection.fetchval(RUNNING_REPLICAS):
        raise DistributionError(f"{running} replicas run on these tables", "stop them until this is done")


async def _distribute_one(
    connection: asyncpg.Connection[asyncpg.Record], table: str, tell: Callable[[str], None]
) -> None:
    began = time.monotonic()
    with_ = "none" if table == "sessions" else "mcpsession.sessions"
    # However long the copying takes.
    await connection.execute(DISTRIBUTE, table, DISTRIBUTED[table], with_, timeout=None)
    tell(f"{table} is distributed by {DISTRIBUTED[table]} ({time.monotonic() - began:.1f} s)")


async def _check_statements(connection: asyncpg.Connection[asyncpg.Record], tell: Callable[[str], None]) -> None:
    ours = statements_on_distributed()
    refused = {name: why for name, one in ours.items() if (why := await _refusal(connection, one))}
    if refused:
        listed = "\n".join(f"  {name}: {why}" for name, why in refused.items())
        raise DistributionError(
            f"Citus refuses {len(refused)} of our {len(ours)} statements, so all was left as it was:\n{listed}\n",
            "use one database per tenant instead (docs/scaling.md)",
        )
    tell(f"Citus plans all {len(ours)} statements on these tables")


async def _refusal(connection: asyncpg.Connection[asyncpg.Record], statement: str) -> str | None:
    """Why this statement cannot be planned, if so."""
    try:
        # It takes the whole transaction with it otherwise.
        async with connection.transaction():
            prepared = await connection.prepare(statement)
            samples = [_SAMPLES[parameter.name] for parameter in prepared.get_parameters()]
            await connection.fetch(f"EXPLAIN (COSTS OFF) {statement}", *samples)
    except asyncpg.PostgresError as error:
        return str(error).splitlines()[0]
    return None

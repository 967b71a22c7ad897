"""A stand-in for Citus, as far as `migrate --distributed` can tell: its extension, views and functions by name.

It does what Citus does before it moves anything (looks at the keys, at what was distributed before) and writes down
what it was asked. What it cannot do is refuse our statements as Citus would: `citus_rules` looks for that.
"""

from __future__ import annotations

import asyncpg

INSTALL = """
INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
VALUES (999999, 'citus', 10, 'pg_catalog'::regnamespace, false, '13.0-1');

CREATE TABLE public.pg_dist_local_group (groupid integer);
INSERT INTO public.pg_dist_local_group VALUES (0);

CREATE TABLE public.citus_tables (
    table_name regclass, citus_table_type text, distribution_column text, colocation_id integer
);
CREATE TABLE public.asked (number bigint GENERATED ALWAYS AS IDENTITY, what text);

CREATE SCHEMA citus;
CREATE TYPE citus.distribution_type AS ENUM ('hash', 'range', 'append');

CREATE FUNCTION public.create_distributed_table(
    table_name regclass, distribution_column text, distribution_type citus.distribution_type DEFAULT 'hash',
    colocate_with text DEFAULT 'default', shard_count integer DEFAULT NULL
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('LOCK TABLE %s IN EXCLUSIVE MODE', table_name);
    IF EXISTS (SELECT FROM public.citus_tables t WHERE t.table_name = $1) THEN
        RAISE EXCEPTION 'table "%" is already distributed', table_name;
    END IF;
    IF EXISTS (
        SELECT FROM pg_index i WHERE i.indrelid = table_name AND i.indisunique AND NOT (
            SELECT a.attnum FROM pg_attribute a WHERE a.attrelid = table_name AND a.attname = distribution_column
        ) = ANY(i.indkey)
    ) THEN
        RAISE EXCEPTION 'cannot create constraint on "%"', table_name
            USING DETAIL = 'Distributed relations cannot have UNIQUE that do not include the partition column.';
    END IF;
    INSERT INTO public.citus_tables VALUES (table_name, 'distributed', distribution_column, CASE colocate_with
        WHEN 'none' THEN 7
        ELSE (SELECT t.colocation_id FROM public.citus_tables t WHERE t.table_name = colocate_with::regclass) END);
    INSERT INTO public.asked (what) VALUES (format('%s by %s with %s', table_name, distribution_column, colocate_with));
END $$;
"""

# Instead of a statement that it cannot plan: a column is away, so that Postgres itself cannot plan some of ours.
REFUSE_SUBSCRIPTIONS = """
CREATE FUNCTION public.take_away() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    ALTER TABLE mcpsession.subscriptions RENAME uri TO away;
    RETURN NULL;
END $$;
CREATE TRIGGER take_away AFTER INSERT ON public.asked FOR EACH ROW
    WHEN (NEW.what LIKE 'mcpsession.subscriptions %') EXECUTE FUNCTION public.take_away();
"""


async def asked(connection: asyncpg.Connection[asyncpg.Record]) -> list[str]:
    """What it was asked to do and kept, in order."""
    return [row["what"] for row in await connection.fetch("SELECT what FROM public.asked ORDER BY number")]

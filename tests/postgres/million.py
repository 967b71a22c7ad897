"""A database with a million sessions, as a busy service would have them, and what belongs to them."""

from __future__ import annotations

import hashlib

import asyncpg

NAMESPACE = "plans"
LIVE, DEAD = "live-replica", "dead-replica"
BIG_OWNER = "big"
HOT_URI = "file:///hot"

SESSIONS = 1_000_000


def session_id(number: int) -> str:
    """The id of a session, by number: as random as a real one."""
    return hashlib.md5(str(number).encode()).hexdigest()


def live(*numbers: int) -> list[str]:
    """Ids of sessions that live."""
    assert all(number % 10 == 5 for number in numbers)
    return [session_id(number) for number in numbers]


def some_live(count: int) -> list[str]:
    return live(*range(5, 10 * count, 10))


# Of each thousand: 4 expired, 2 tombstones, 1 ended and not yet removed, 1 in the hands of expiry handlers (of each
# second the replica died since), 50 that never expire. A third is anonymous, one owner has 30,000, others three each.
# Numbers that end in 5 live.
FILL_SESSIONS = """
INSERT INTO mcpsession.sessions
    (namespace, id, owner, status, protocol_version, client_params, initialized, metadata, state, ttl, created_at,
     last_active_at, expires_at, ended_at, end_reason, claimed_by, claimed_at)
SELECT $1, md5(n::text),
    CASE WHEN n % 3 = 0 THEN '' WHEN n % 20 = 7 THEN 'big' ELSE 'user-' || n % 200000 END,
    CASE WHEN n % 500 = 10 THEN 'terminated' WHEN n % 1000 = 21 THEN 'removed' ELSE 'live' END,
    '2025-11-25',
    '{"protocolVersion":"2025-11-25","capabilities":{"elicitation":{}},"clientInfo":{"name":"client","version":"1"}}',
    n % 50 <> 1,
    '{}',
    CASE WHEN n % 5 = 0 THEN '{"cart":[1,2,3],"note":"' || repeat('x', 100) || '"}' ELSE '{}' END,
    CASE WHEN n % 20 = 14 THEN NULL ELSE 3600 END,
    now() - interval '1 day' * random(),
    now() - interval '1 hour' * random(),
    CASE WHEN n % 500 = 10 THEN now() + interval '1 day' * random()
        WHEN n % 1000 = 21 OR n % 250 = 32 OR n % 1000 = 43 THEN now() - interval '1 minute' * random()
        WHEN n % 20 = 14 THEN 'infinity'
        ELSE now() + interval '30 minutes' + interval '30 minutes' * random() END,
    CASE WHEN n % 500 = 10 OR n % 1000 = 21 THEN now() - interval '1 hour' * random() END,
    CASE WHEN n % 500 = 10 THEN 'terminated' WHEN n % 1000 = 21 THEN 'deleted' END,
    CASE WHEN n % 2000 = 43 THEN 'dead-replica' WHEN n % 1000 = 43 THEN 'live-replica' END,
    CASE WHEN n % 1000 = 43 THEN now() - interval '1 minute' END
FROM generate_series(1, $2::int) AS n
"""

FILL = (
    # Of another server in the same schema, which was switched off: its dead are older than any of ours.
    """
    INSERT INTO mcpsession.sessions (namespace, id, ttl, expires_at)
    SELECT 'other', md5(n::text), 3600,
        now() + interval '1 hour' * CASE WHEN n <= 20000 THEN -24 ELSE 1 END * (0.5 + random())
    FROM generate_series(1, 50000) AS n
    """,
    """
    INSERT INTO mcpsession.replicas (namespace, id, label, dead_at)
    SELECT 'plans', CASE n WHEN 1 THEN 'live-replica' WHEN 2 THEN 'dead-replica' ELSE 'replica-' || n END, n,
        CASE WHEN n = 2 OR n > 5 THEN now() - interval '1 minute' * n END
    FROM generate_series(1, 90) AS n
    """,
    """
    INSERT INTO mcpsession.streams (namespace, session_id, id, kind, last_seq, delivered_news)
    SELECT 'plans', md5(n::text), 's', 'standalone', CASE WHEN n = 100085 THEN 1001 ELSE 1 END, '100:100:@1'
    FROM generate_series(1, 200000) AS n
    """,
    # The application's own: some have little, one has as many events as it may, one as many bytes and a few more.
    """
    INSERT INTO mcpsession.streams (namespace, session_id, id, kind, last_seq, bytes)
    SELECT 'plans', md5(n::text), 'a:log', 'application', CASE n WHEN 100085 THEN 1001 WHEN 100095 THEN 900 ELSE 5 END,
        CASE n WHEN 100095 THEN 8388708 ELSE 100 END
    FROM generate_series(100005, 200000, 10) AS n
    """,
    # What it tracks: of a hundred one is over, and one is of a replica that is dead.
    """
    INSERT INTO mcpsession.streams (namespace, session_id, id, kind, request_ids, method, producer, expires_at)
    SELECT 'plans', md5((n * 10 + 5)::text), 'tracked-' || n, 'tracked', ARRAY['"t' || n || '"'], 'work',
        CASE WHEN n % 100 = 1 THEN 'dead-replica' ELSE 'live-replica' END,
        now() + CASE WHEN n % 100 = 2 THEN interval '-1 minute' ELSE interval '5 minutes' END
    FROM generate_series(1, 300) AS n
    """,
    # Of each ten thousand calls: 10 run (one of them on a replica that is dead), 100 ended too long ago.
    """
    INSERT INTO mcpsession.streams
        (namespace, session_id, id, request_ids, producer, last_seq, finished_at, expires_at)
    SELECT 'plans', md5(n::text), 'stream-' || n, ARRAY[n::text],
        CASE WHEN n % 10000 = 7 THEN 'dead-replica' WHEN n % 2 = 0 THEN 'live-replica' ELSE 'replica-3' END, 5,
        CASE WHEN n % 1000 <> 7 THEN now() END,
        CASE WHEN n % 1000 = 7 THEN NULL WHEN n % 100 = 8 THEN now() - interval '1 minute' * random()
            ELSE now() + interval '10 minutes' * random() END
    FROM generate_series(1, 100000) AS n
    """,
    # Those of a server that was switched off.
    """
    INSERT INTO mcpsession.streams (namespace, session_id, id, last_seq, finished_at, expires_at)
    SELECT 'other', md5(n::text), 'stream-' || n, 0, now(), now() - interval '1 day' FROM generate_series(1, 20000) AS n
    """,
    """
    INSERT INTO mcpsession.events (namespace, session_id, stream_id, seq, message, request_of, event_id, type)
    SELECT namespace, session_id, id, seq, '{"jsonrpc":"2.0","method":"notifications/message","params":{}}',
        CASE WHEN seq = 2 THEN 'live-replica' END,
        CASE WHEN kind = 'application' THEN 'event-' || seq END, CASE WHEN kind = 'application' THEN 'message' END
    FROM mcpsession.streams, generate_series(1, last_seq) AS seq
    """,
    """
    INSERT INTO mcpsession.mail
        (namespace, sender, recipient, kind, session_id, topic, uri, newest_of, body, expires_at)
    SELECT CASE WHEN n % 10 = 1 THEN 'other' ELSE 'plans' END, 'live-replica',
        CASE WHEN n % 40 = 0 THEN CASE WHEN n % 80 = 0 THEN 'live-replica' ELSE 'replica-3' END END, 'news',
        CASE WHEN n % 3 = 0 THEN md5(n::text) END, CASE WHEN n % 7 = 0 THEN 'topic-' || n % 100 END,
        CASE WHEN n % 2 = 0 THEN 'file:///' || n % 1000 END, CASE WHEN n % 2 = 0 THEN 'updated ' || n % 1000 END, '{}',
        now() + interval '1 hour' * (random() - CASE WHEN n % 10 = 2 OR n % 10 = 1 THEN 1 ELSE 0 END)
    FROM generate_series(1, 200000) AS n
    """,
    # Sent a second apart; the newest 2,000 are of as many methods and keys, the oldest 8,000 were replaced long ago.
    """
    INSERT INTO mcpsession.control (namespace, version, method, key, params, sender, expires_at)
    SELECT 'plans', n, 'method-' || n % 20, 'key-' || n % 2000 + 98000, '{}', 'live-replica',
        CASE WHEN n > 98000 THEN 'infinity' ELSE now() + interval '1 second' * (n - 8000) END
    FROM generate_series(1, 100000) AS n
    """,
    """
    INSERT INTO mcpsession.control (namespace, version, method, params, sender, expires_at)
    SELECT 'other', n, 'method', '{}', 'gone', now() - interval '1 day' FROM generate_series(1, 20000) AS n
    """,
    "INSERT INTO mcpsession.control_heads (namespace, version) VALUES ('plans', 100000), ('other', 20000)",
    """
    INSERT INTO mcpsession.subscriptions (namespace, session_id, uri)
    SELECT 'plans', md5(n::text), CASE WHEN n % 5 = 0 THEN 'file:///hot' ELSE 'file:///' || n % 1000 END
    FROM generate_series(1, 100000) AS n
    """,
)


async def build(url: str) -> None:
    """Fill a migrated database."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("SET synchronous_commit = off")
        await connection.execute("SET maintenance_work_mem = '512MB'")
        await connection.execute(FILL_SESSIONS.replace("$1", f"'{NAMESPACE}'").replace("$2", str(SESSIONS)))
        for statement in FILL:
            await connection.execute(statement)
        await connection.execute("VACUUM ANALYZE")
    finally:
        await connection.close()

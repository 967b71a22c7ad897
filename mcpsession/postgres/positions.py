"""Positions in the broadcast mail, and pages of it.

A position is a `pg_snapshot` and a time, `xmin:xmax:xip,…@seconds`. What a snapshot does not see is news, whenever it
commits: exactly once, however long a publisher's transaction was open. (Ids and overlap windows lost mail in the
experiment.)

A page ends between two transactions. They come in the order of their last mails' numbers: whatever was posted after a
transaction had been committed has a higher one, while a transaction's own number may be old when it posts. The position
with a page is a snapshot that never was: it sees what was seen before and what is in the page.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from asyncpg import Record

from mcpsession.model import Mail, NewsPage

# xmin:xmax:xip,… @ seconds. Clients send it back to us, so it is checked before Postgres sees it.
_POSITION = re.compile(r"(\d{1,19}):(\d{1,19}):((?:\d{1,19}(?:,\d{1,19})*)?)@(\d{1,12}(?:\.\d{1,9})?)", re.ASCII)
_LONGEST = 16_384
_LARGEST = 2**63 - 1

# Mail can be reaped a little earlier than `mail_ttl` after it became visible: the insert comes before the commit.
TRUSTED = 0.9

# Shared by the statements that read a page. $1 is the namespace, $2 the snapshot, $3 its time, $4 how old that may be,
# $5 and $6 are the mails and bytes that fill a page.

# The broadcast mail past a position. Its numbers are in sub-selects and between two bounds (the upper one says nothing
# new), because then Postgres plans once for all positions, along the index: planning cost more than reading.
PAST = """m.namespace = $1 AND m.recipient IS NULL
        AND m.xid >= (SELECT pg_snapshot_xmin($2::text::pg_snapshot))
        AND m.xid < (SELECT pg_snapshot_xmax(pg_current_snapshot()))
        AND NOT pg_visible_in_snapshot(m.xid, (SELECT $2::text::pg_snapshot))"""

# The first page of `unread (id, xid, size)`; only the bodies in it are fetched. One row with the new position always
# comes, unless the old one cannot be used: it is too old, or its snapshot is ahead of this server's, which then is
# another timeline (a standby that was promoted without the last transactions).
# However much is unread, a page and as many transactions more are looked at as there can be connections (Postgres stops
# there, since 15). One past them cannot belong into the page: those with lower numbers that posted after it were all
# running when it began.
PAGED = f""", numbered AS (
    SELECT id, xid, size, dense_rank() OVER (ORDER BY xid) AS place FROM unread
), ended AS (
    SELECT id, xid, size, max(id) OVER (PARTITION BY xid) AS last_id
    FROM numbered
    WHERE place <= $5::bigint + current_setting('max_connections')::bigint
), counted AS (
    SELECT id, xid, count(*) OVER earlier < $5::bigint AND coalesce(sum(size) OVER earlier, 0) < $6::bigint AS fits
    FROM ended
    WINDOW earlier AS (ORDER BY last_id GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
)
SELECT pg_current_snapshot()::text AS snapshot, extract(epoch FROM now())::text AS taken_at,
    EXISTS (SELECT FROM counted WHERE NOT fits) AS more,
    ARRAY(
        SELECT DISTINCT xid::text::bigint
        FROM counted
        WHERE NOT fits AND xid < greatest(
            pg_snapshot_xmax($2::text::pg_snapshot), (SELECT xid FROM counted WHERE fits ORDER BY xid DESC LIMIT 1))
    ) AS skipped,
    (SELECT m.xid FROM mcpsession.mail m WHERE {PAST} ORDER BY m.xid DESC LIMIT 1) AS last_xid,
    extract(epoch FROM m.created_at)::float8 AS posted_at,
    m.id, m.xid, m.sender, m.kind, m.session_id, m.incarnation, m.topic, m.body
FROM (SELECT $2::text::pg_snapshot AS snapshot) AS seen
LEFT JOIN mcpsession.mail m ON m.id = ANY(ARRAY(SELECT id FROM counted WHERE fits))
WHERE pg_snapshot_xmax(seen.snapshot) <= pg_snapshot_xmax(pg_current_snapshot())
    AND to_timestamp($3::float8) > now() - make_interval(secs => $4::float8)
ORDER BY max(m.id) OVER (PARTITION BY m.xid), m.id
"""


def paged(which: str) -> str:
    """The statement that reads the first page of the mails `m` of which this is true."""
    return f"""
WITH unread AS (
    SELECT m.id, m.xid, octet_length(m.body) AS size
    FROM mcpsession.mail m
    WHERE {which}
){PAGED}"""


class Snapshot(NamedTuple):
    """Which transactions a reader has seen: those below `xmax` that are not among `running`."""

    xmax: int
    running: Sequence[int]

    def __str__(self) -> str:
        xmin = self.running[0] if self.running else self.xmax
        return f"{xmin}:{self.xmax}:{','.join(map(str, self.running))}"


def parse_position(position: str) -> tuple[str, float] | None:
    """The snapshot and the time of a position; None if it cannot be one."""
    match = _POSITION.fullmatch(position) if len(position) <= _LONGEST else None
    if match is None:
        return None
    xmin, xmax = int(match[1]), int(match[2])
    running = [int(xid) for xid in match[3].split(",")] if match[3] else []
    if not 0 < xmin <= xmax <= _LARGEST or running != sorted(set(running)):
        return None
    if not all(map(_can_be, (xmin, xmax, *running))):
        return None
    if running and not xmin <= running[0] <= running[-1] < xmax:
        return None
    return f"{xmin}:{xmax}:{match[3]}", float(match[4])


def parse_snapshot(text: str) -> Snapshot:
    """A snapshot as Postgres writes it."""
    _, xmax, running = text.split(":")
    return Snapshot(int(xmax), [int(xid) for xid in running.split(",")] if running else [])


def advanced(seen: Snapshot, current: Snapshot, read: Sequence[int], skipped: Sequence[int]) -> Snapshot:
    """What is seen after a page: as `seen`, and the transactions `read`.

    `skipped`: those that have mail past the page, though their numbers are below that of `seen` or of one in the page.
    There are not many: they were all running at one time.
    """
    xmax = max([seen.xmax, *(xid + 1 for xid in read)])
    while not _can_be(xmax):
        xmax += 1
    # Of the others below xmax, each one was seen, was read, has no mail for this reader, or is running.
    return Snapshot(xmax, sorted({*skipped, *(xid for xid in current.running if xid < xmax)}))


def _can_be(xid: int) -> bool:
    """Whether a snapshot may have this number: of each 2^32 the first is no transaction, and Postgres refuses it."""
    return xid & 0xFFFFFFFF != 0


def page_of(rows: Sequence[Record], old: tuple[str, float]) -> NewsPage | None:
    """The page that a statement with `PAGED` has found past a position."""
    if not rows:
        return None
    first, last = rows[0], rows[-1]
    mails = [_mail(row) for row in rows if row["id"] is not None]
    seen, taken_at = old
    if first["more"]:
        read = [mail.xid for mail in mails]
        # What is left was posted after the last transaction of the page had begun, so it lasts longer.
        time = f"{max(taken_at, last['posted_at']):.6f}"
    else:
        # Not all that the present snapshot sees: a crash of the server takes back transactions that did not wait for
        # the disk, and gives their numbers again, to mail perhaps. What is up to some mail's number is on the disk with
        # that mail.
        read = [] if first["last_xid"] is None else [first["last_xid"]]
        time = first["taken_at"]
    snapshot = advanced(parse_snapshot(seen), parse_snapshot(first["snapshot"]), read, first["skipped"])
    return NewsPage(mails, f"{snapshot}@{time}", first["more"])


def _mail(row: Record) -> Mail:
    return Mail(
        kind=row["kind"],
        sender=row["sender"],
        session_id=row["session_id"],
        body=row["body"],
        id=row["id"],
        xid=row["xid"],
        topic=row["topic"],
        incarnation=row["incarnation"],
    )

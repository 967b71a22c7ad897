"""The schema, described once: for Alembic and for the test that compares it with the migrated database."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Identity,
    Index,
    MetaData,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, TIMESTAMP
from sqlalchemy.types import UserDefinedType

SCHEMA = "mcpsession"
METADATA = MetaData(schema=SCHEMA)


class Xid8(UserDefinedType[str]):
    """A transaction's number, with its epoch."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "xid8"


def _time(name: str, *, default: str | None = None, nullable: bool = False) -> Column[Any]:
    server_default = text(default) if default else None
    return Column(name, TIMESTAMP(timezone=True), server_default=server_default, nullable=nullable)


def _text(name: str, *, default: str | None = None, nullable: bool = False, key: bool = False) -> Column[Any]:
    server_default = text(f"'{default}'") if default is not None else None
    return Column(name, Text, server_default=server_default, nullable=nullable, primary_key=key)


def _number(name: str, *, default: int | None = None, nullable: bool = False, key: bool = False) -> Column[Any]:
    server_default = text(str(default)) if default is not None else None
    return Column(name, BigInteger, server_default=server_default, nullable=nullable, primary_key=key)


# No foreign keys: a batch of the journal must not wait for, or fail with, somebody else's row. Payloads are text,
# because jsonb refuses some valid JSON and one such row would fail its whole batch.

SESSIONS = Table(
    "sessions",
    METADATA,
    _text("namespace", key=True),
    _text("id", key=True),
    _number("incarnation", default=1),
    _text("owner", default=""),
    _text("status", default="live"),
    _text("protocol_version", default=""),
    _text("client_params", nullable=True),
    Column("initialized", Boolean, server_default=text("false"), nullable=False),
    _text("log_level", nullable=True),
    _text("transport", default="streamable-http"),
    _text("metadata", default="{}"),
    _text("state", default="{}"),
    _number("version", default=1),
    Column("ttl", Double, nullable=True),
    _time("created_at", default="now()"),
    _time("last_active_at", default="now()"),
    _time("expires_at", default="'infinity'"),
    _time("ended_at", nullable=True),
    _text("end_reason", nullable=True),
    _text("claimed_by", nullable=True),
    _time("claimed_at", nullable=True),
    _text("failure", nullable=True),
    _text("init_claim", nullable=True),
    _time("init_claim_until", nullable=True),
    CheckConstraint("status IN ('live', 'terminated', 'removed')", name="sessions_status_known"),
    # The reaper's way in. last_active_at is in no index, so that most touches stay HOT.
    Index("sessions_expiry", "namespace", "expires_at"),
    Index("sessions_owner", "namespace", "owner", "id", postgresql_where=text("status = 'live'")),
    Index("sessions_claimed", "namespace", "claimed_by", postgresql_where=text("claimed_by IS NOT NULL")),
    postgresql_with={
        "fillfactor": 75,
        "autovacuum_vacuum_scale_factor": 0.02,
        "autovacuum_vacuum_cost_delay": 0,
    },
)

STREAMS = Table(
    "streams",
    METADATA,
    _text("namespace", key=True),
    _text("session_id", key=True),
    _text("id", key=True),
    _text("kind", default="request"),
    # JSON texts, so that 1 and "1" differ; several in a batch of 2025-03-26.
    Column("request_ids", ARRAY(Text), server_default=text("'{}'"), nullable=False),
    Column("answered_ids", ARRAY(Text), server_default=text("'{}'"), nullable=False),
    _text("producer", nullable=True),
    _text("reader", nullable=True),
    _number("last_seq", default=0),
    _number("trimmed_seq", default=0),
    _text("holder", nullable=True),
    _text("previous_holder", nullable=True),
    _number("holder_epoch", default=0),
    _number("released_epoch", default=0),
    Column("takes", ARRAY(TIMESTAMP(timezone=True)), server_default=text("'{}'"), nullable=False),
    _number("delivered_seq", default=0),
    _text("delivered_news", default=""),
    Column("taken_over", Boolean, server_default=text("false"), nullable=False),
    _time("created_at", default="now()"),
    _time("finished_at", nullable=True),
    _time("expires_at", nullable=True),
    # Of a call, or of a request that the application tracks.
    _text("method", default=""),
    # Of the application's own streams: in which replicas somebody follows it.
    Column("followers", ARRAY(Text), server_default=text("'{}'"), nullable=False),
    # Of these, and of standalone ones: how much it holds. (A call's stream is counted by its producer.)
    _number("bytes", default=0),
    CheckConstraint("kind IN ('request', 'standalone', 'application', 'tracked')", name="streams_kind_known"),
    # Two replicas that run the same request of one session at once: the later batch is refused.
    Index(
        "streams_live_request",
        "namespace",
        "session_id",
        "request_ids",
        unique=True,
        postgresql_where=text("finished_at IS NULL AND kind IN ('request', 'tracked')"),
    ),
    Index(
        "streams_live_producer",
        "namespace",
        "producer",
        postgresql_where=text("finished_at IS NULL AND producer IS NOT NULL"),
    ),
    Index("streams_expiry", "namespace", "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
    postgresql_with={
        "fillfactor": 75,
        "autovacuum_vacuum_scale_factor": 0.02,
        "autovacuum_vacuum_cost_delay": 0,
    },
)

EVENTS = Table(
    "events",
    METADATA,
    _text("namespace", key=True),
    _text("session_id", key=True),
    _text("stream_id", key=True),
    _number("seq", key=True),
    _text("message"),
    _text("request_of", nullable=True),
    _time("created_at", default="now()"),
    # The application's own events only.
    _text("event_id", nullable=True),
    _text("type", nullable=True),
    _time("occurred_at", nullable=True),
    Index(
        "events_own_id",
        "namespace",
        "session_id",
        "stream_id",
        "event_id",
        unique=True,
        postgresql_where=text("event_id IS NOT NULL"),
    ),
    postgresql_with={
        "autovacuum_vacuum_scale_factor": 0.02,
        "autovacuum_vacuum_insert_scale_factor": 0.05,
        "autovacuum_vacuum_cost_delay": 0,
    },
)

MAIL = Table(
    "mail",
    METADATA,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    _text("namespace"),
    Column("xid", Xid8, server_default=text("pg_current_xact_id()"), nullable=False),
    _text("recipient", nullable=True),
    _text("sender"),
    _text("kind"),
    _text("session_id", nullable=True),
    _text("body", default=""),
    _time("created_at", default="now()"),
    _time("expires_at"),
    # News only: whose session, the topic and the resource that it is for, and what it is the newest of.
    _number("incarnation", nullable=True),
    _text("topic", nullable=True),
    _text("uri", nullable=True),
    _text("newest_of", nullable=True),
    Index("mail_inbox", "namespace", "recipient", "id", postgresql_where=text("recipient IS NOT NULL")),
    Index("mail_broadcast", "namespace", "xid", postgresql_where=text("recipient IS NULL")),
    # A session that is given a new id takes its news along.
    Index(
        "mail_of_session",
        "namespace",
        "session_id",
        postgresql_where=text("kind = 'news' AND session_id IS NOT NULL"),
    ),
    Index("mail_expiry", "namespace", "expires_at"),
    postgresql_with={"autovacuum_vacuum_scale_factor": 0.01, "autovacuum_vacuum_cost_delay": 0},
)

REPLICAS = Table(
    "replicas",
    METADATA,
    _text("namespace", key=True),
    _text("id", key=True),
    _text("label", default=""),
    _number("beats", default=0),
    _time("started_at", default="now()"),
    _time("beaten_at", default="now()"),
    _time("dead_at", nullable=True),
    postgresql_with={"fillfactor": 50, "autovacuum_vacuum_scale_factor": 0.01},
)

SUBSCRIPTIONS = Table(
    "subscriptions",
    METADATA,
    _text("namespace", key=True),
    _text("session_id", key=True),
    _text("uri", key=True),
    _time("created_at", default="now()"),
    Index("subscriptions_by_uri", "namespace", "uri", "session_id"),
)

CONTROL = Table(
    "control",
    METADATA,
    _text("namespace", key=True),
    _number("version", key=True),
    _text("method"),
    _text("key", default=""),
    _text("params"),
    _text("sender"),
    _time("created_at", default="now()"),
    _time("expires_at", default="'infinity'"),
    # A message is current until a later one of its method and key replaces it.
    Index("control_current", "namespace", "method", "key", postgresql_where=text("expires_at = 'infinity'")),
    # For replicas that start: what was replaced since yesterday may be much more.
    Index("control_newest", "namespace", "version", postgresql_where=text("expires_at = 'infinity'")),
    Index("control_expiry", "namespace", "expires_at", postgresql_where=text("expires_at < 'infinity'")),
)

CONTROL_HEADS = Table("control_heads", METADATA, _text("namespace", key=True), _number("version"))

"""The first tables.

`pre`: nothing runs on this schema yet, so this is applied before the first replica starts.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Written out, and never changed after its release: tables.py moves on, this file stays what was applied.
# Sessions, streams and replicas are updated in place: fillfactor leaves room on the page, which keeps those updates out
# of the indexes. Rows come and go all the time, so vacuum comes early, by a small share of them.
UPGRADE = """
CREATE TABLE mcpsession.sessions (
    namespace text NOT NULL,
    id text NOT NULL,
    incarnation bigint DEFAULT 1 NOT NULL,
    owner text DEFAULT '' NOT NULL,
    status text DEFAULT 'live' NOT NULL,
    protocol_version text DEFAULT '' NOT NULL,
    client_params text,
    initialized boolean DEFAULT false NOT NULL,
    log_level text,
    transport text DEFAULT 'streamable-http' NOT NULL,
    metadata text DEFAULT '{}' NOT NULL,
    state text DEFAULT '{}' NOT NULL,
    version bigint DEFAULT 1 NOT NULL,
    ttl double precision,
    created_at timestamptz DEFAULT now() NOT NULL,
    last_active_at timestamptz DEFAULT now() NOT NULL,
    expires_at timestamptz DEFAULT 'infinity' NOT NULL,
    ended_at timestamptz,
    end_reason text,
    claimed_by text,
    claimed_at timestamptz,
    PRIMARY KEY (namespace, id),
    CONSTRAINT sessions_status_known CHECK (status IN ('live', 'terminated'))
) WITH (
    fillfactor = 75,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_cost_delay = 0
);

CREATE INDEX sessions_expiry
    ON mcpsession.sessions (expires_at);

CREATE TABLE mcpsession.streams (
    namespace text NOT NULL,
    session_id text NOT NULL,
    id text NOT NULL,
    kind text DEFAULT 'request' NOT NULL,
    request_ids text[] DEFAULT '{}' NOT NULL,
    answered_ids text[] DEFAULT '{}' NOT NULL,
    producer text,
    reader text,
    last_seq bigint DEFAULT 0 NOT NULL,
    trimmed_seq bigint DEFAULT 0 NOT NULL,
    holder text,
    previous_holder text,
    holder_epoch bigint DEFAULT 0 NOT NULL,
    released_epoch bigint DEFAULT 0 NOT NULL,
    takes timestamptz[] DEFAULT '{}' NOT NULL,
    delivered_seq bigint DEFAULT 0 NOT NULL,
    delivered_news text DEFAULT '' NOT NULL,
    taken_over boolean DEFAULT false NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    finished_at timestamptz,
    expires_at timestamptz,
    PRIMARY KEY (namespace, session_id, id),
    CONSTRAINT streams_kind_known CHECK (kind IN ('request', 'standalone'))
) WITH (
    fillfactor = 75,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_cost_delay = 0
);

CREATE INDEX streams_expiry
    ON mcpsession.streams (expires_at)
    WHERE expires_at IS NOT NULL;

CREATE INDEX streams_live_producer
    ON mcpsession.streams (namespace, producer)
    WHERE finished_at IS NULL AND producer IS NOT NULL;

CREATE UNIQUE INDEX streams_live_request
    ON mcpsession.streams (namespace, session_id, request_ids)
    WHERE finished_at IS NULL AND kind = 'request';

CREATE TABLE mcpsession.events (
    namespace text NOT NULL,
    session_id text NOT NULL,
    stream_id text NOT NULL,
    seq bigint NOT NULL,
    message text NOT NULL,
    request_of text,
    created_at timestamptz DEFAULT now() NOT NULL,
    PRIMARY KEY (namespace, session_id, stream_id, seq)
) WITH (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 0
);

CREATE TABLE mcpsession.mail (
    id bigint GENERATED ALWAYS AS IDENTITY,
    namespace text NOT NULL,
    xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
    recipient text,
    sender text NOT NULL,
    kind text NOT NULL,
    session_id text,
    body text DEFAULT '' NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (id)
) WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_cost_delay = 0
);

CREATE INDEX mail_broadcast
    ON mcpsession.mail (namespace, xid)
    WHERE recipient IS NULL;

CREATE INDEX mail_expiry
    ON mcpsession.mail (expires_at);

CREATE INDEX mail_inbox
    ON mcpsession.mail (namespace, recipient, id)
    WHERE recipient IS NOT NULL;

CREATE TABLE mcpsession.replicas (
    namespace text NOT NULL,
    id text NOT NULL,
    label text DEFAULT '' NOT NULL,
    beats bigint DEFAULT 0 NOT NULL,
    started_at timestamptz DEFAULT now() NOT NULL,
    beaten_at timestamptz DEFAULT now() NOT NULL,
    dead_at timestamptz,
    PRIMARY KEY (namespace, id)
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.01
);

CREATE TABLE mcpsession.subscriptions (
    namespace text NOT NULL,
    session_id text NOT NULL,
    uri text NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    PRIMARY KEY (namespace, session_id, uri)
);

CREATE INDEX subscriptions_by_uri
    ON mcpsession.subscriptions (namespace, uri)
"""

# The schema itself stays: it has Alembic's version table.
DOWNGRADE = """
DROP TABLE mcpsession.subscriptions,
    mcpsession.replicas,
    mcpsession.mail,
    mcpsession.events,
    mcpsession.streams,
    mcpsession.sessions
"""


def upgrade() -> None:
    # One at a time: a prepared statement holds only one command.
    for statement in UPGRADE.split(";\n"):
        op.execute(statement)


def downgrade() -> None:
    op.execute(DOWNGRADE)

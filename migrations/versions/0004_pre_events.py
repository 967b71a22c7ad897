"""The application's own events and tracked requests; the method of a call.

`pre`: the release before runs on it; what it does not know has a default, and it makes no streams of the new kinds.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Constant defaults: the tables are not rewritten.
UPGRADE = """
ALTER TABLE mcpsession.streams
    ADD COLUMN method text DEFAULT '' NOT NULL,
    ADD COLUMN followers text[] DEFAULT '{}' NOT NULL,
    ADD COLUMN bytes bigint DEFAULT 0 NOT NULL,
    DROP CONSTRAINT streams_kind_known,
    ADD CONSTRAINT streams_kind_known CHECK (kind IN ('request', 'standalone', 'application', 'tracked'));

DROP INDEX mcpsession.streams_live_request;

CREATE UNIQUE INDEX streams_live_request
    ON mcpsession.streams (namespace, session_id, request_ids)
    WHERE finished_at IS NULL AND kind IN ('request', 'tracked');

ALTER TABLE mcpsession.events
    ADD COLUMN event_id text,
    ADD COLUMN type text,
    ADD COLUMN occurred_at timestamptz;

CREATE UNIQUE INDEX events_own_id
    ON mcpsession.events (namespace, session_id, stream_id, event_id)
    WHERE event_id IS NOT NULL
"""

# The release before would show the application's streams to nobody, and never remove them but with their session.
DOWNGRADE = """
DELETE FROM mcpsession.events e
USING mcpsession.streams t
WHERE t.kind IN ('application', 'tracked')
    AND e.namespace = t.namespace AND e.session_id = t.session_id AND e.stream_id = t.id;

DELETE FROM mcpsession.streams
WHERE kind IN ('application', 'tracked');

DROP INDEX mcpsession.events_own_id;

ALTER TABLE mcpsession.events
    DROP COLUMN event_id,
    DROP COLUMN type,
    DROP COLUMN occurred_at;

DROP INDEX mcpsession.streams_live_request;

CREATE UNIQUE INDEX streams_live_request
    ON mcpsession.streams (namespace, session_id, request_ids)
    WHERE finished_at IS NULL AND kind = 'request';

ALTER TABLE mcpsession.streams
    DROP COLUMN method,
    DROP COLUMN followers,
    DROP COLUMN bytes,
    DROP CONSTRAINT streams_kind_known,
    ADD CONSTRAINT streams_kind_known CHECK (kind IN ('request', 'standalone'))
"""


def upgrade() -> None:
    _run(UPGRADE)


def downgrade() -> None:
    _run(DOWNGRADE)


def _run(statements: str) -> None:
    # One at a time: a prepared statement holds only one command.
    for statement in statements.split(";\n"):
        op.execute(statement)

"""Sessions as a library: failed and claimed initializations, ids that are free again, ways in by owner and claim.

`pre`: the release before runs on it; what it does not know has a default, and every index that it uses stays or has a
better one in its place.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

UPGRADE = """
ALTER TABLE mcpsession.sessions
    ADD COLUMN failure text,
    ADD COLUMN init_claim text,
    ADD COLUMN init_claim_until timestamptz,
    DROP CONSTRAINT sessions_status_known,
    ADD CONSTRAINT sessions_status_known CHECK (status IN ('live', 'terminated', 'removed'));

DROP INDEX mcpsession.sessions_expiry;

CREATE INDEX sessions_expiry
    ON mcpsession.sessions (namespace, expires_at);

CREATE INDEX sessions_owner
    ON mcpsession.sessions (namespace, owner, id)
    WHERE status = 'live';

CREATE INDEX sessions_claimed
    ON mcpsession.sessions (namespace, claimed_by)
    WHERE claimed_by IS NOT NULL;

DROP INDEX mcpsession.streams_expiry;

CREATE INDEX streams_expiry
    ON mcpsession.streams (namespace, expires_at)
    WHERE expires_at IS NOT NULL;

DROP INDEX mcpsession.mail_expiry;

CREATE INDEX mail_expiry
    ON mcpsession.mail (namespace, expires_at);

DROP INDEX mcpsession.subscriptions_by_uri;

CREATE INDEX subscriptions_by_uri
    ON mcpsession.subscriptions (namespace, uri, session_id)
"""

DOWNGRADE = """
DROP INDEX mcpsession.subscriptions_by_uri;

CREATE INDEX subscriptions_by_uri
    ON mcpsession.subscriptions (namespace, uri);

DROP INDEX mcpsession.mail_expiry;

CREATE INDEX mail_expiry
    ON mcpsession.mail (expires_at);

DROP INDEX mcpsession.streams_expiry;

CREATE INDEX streams_expiry
    ON mcpsession.streams (expires_at)
    WHERE expires_at IS NOT NULL;

DROP INDEX mcpsession.sessions_claimed;

DROP INDEX mcpsession.sessions_owner;

DROP INDEX mcpsession.sessions_expiry;

CREATE INDEX sessions_expiry
    ON mcpsession.sessions (expires_at);

DELETE FROM mcpsession.sessions WHERE status = 'removed';

ALTER TABLE mcpsession.sessions
    DROP COLUMN failure,
    DROP COLUMN init_claim,
    DROP COLUMN init_claim_until,
    DROP CONSTRAINT sessions_status_known,
    ADD CONSTRAINT sessions_status_known CHECK (status IN ('live', 'terminated'))
"""


def upgrade() -> None:
    _run(UPGRADE)


def downgrade() -> None:
    _run(DOWNGRADE)


def _run(statements: str) -> None:
    # One at a time: a prepared statement holds only one command.
    for statement in statements.split(";\n"):
        op.execute(statement)

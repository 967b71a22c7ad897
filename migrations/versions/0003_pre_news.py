"""News for one session or topic, what it is about and what it replaces; the control log.

`pre`: the release before runs on it; what it does not know is null, and it leaves the new tables alone. What it
publishes meanwhile is for all, and replaces nothing.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Nullable and without defaults: the table is not rewritten.
UPGRADE = """
ALTER TABLE mcpsession.mail
    ADD COLUMN incarnation bigint,
    ADD COLUMN topic text,
    ADD COLUMN uri text,
    ADD COLUMN newest_of text;

CREATE INDEX mail_of_session
    ON mcpsession.mail (namespace, session_id)
    WHERE kind = 'news' AND session_id IS NOT NULL;

CREATE TABLE mcpsession.control (
    namespace text NOT NULL,
    version bigint NOT NULL,
    method text NOT NULL,
    key text DEFAULT '' NOT NULL,
    params text NOT NULL,
    sender text NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    expires_at timestamptz DEFAULT 'infinity' NOT NULL,
    PRIMARY KEY (namespace, version)
);

CREATE INDEX control_current
    ON mcpsession.control (namespace, method, key)
    WHERE expires_at = 'infinity';

CREATE INDEX control_newest
    ON mcpsession.control (namespace, version)
    WHERE expires_at = 'infinity';

CREATE INDEX control_expiry
    ON mcpsession.control (namespace, expires_at)
    WHERE expires_at < 'infinity';

CREATE TABLE mcpsession.control_heads (
    namespace text NOT NULL,
    version bigint NOT NULL,
    PRIMARY KEY (namespace)
)
"""

# News for a topic would be for all without it, and news for a session for every listener of the release before.
DOWNGRADE = """
DROP TABLE mcpsession.control_heads,
    mcpsession.control;

DELETE FROM mcpsession.mail
WHERE kind = 'news' AND (topic IS NOT NULL OR session_id IS NOT NULL);

DROP INDEX mcpsession.mail_of_session;

ALTER TABLE mcpsession.mail
    DROP COLUMN incarnation,
    DROP COLUMN topic,
    DROP COLUMN uri,
    DROP COLUMN newest_of
"""


def upgrade() -> None:
    _run(UPGRADE)


def downgrade() -> None:
    _run(DOWNGRADE)


def _run(statements: str) -> None:
    # One at a time: a prepared statement holds only one command.
    for statement in statements.split(";\n"):
        op.execute(statement)

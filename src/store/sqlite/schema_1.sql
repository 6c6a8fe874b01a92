-- Times are milliseconds since the Unix epoch. Ids are the 16 bytes of a UUID.

CREATE TABLE sessions (
    id         BLOB    NOT NULL PRIMARY KEY,
    token      BLOB    NOT NULL UNIQUE, -- SHA-256 of the token
    name       TEXT    NOT NULL,
    epoch      TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    ends_at    INTEGER NOT NULL,
    head_seq   INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE INDEX sessions_by_deadline ON sessions (expires_at);

-- The logs, each in one piece and in order.
CREATE TABLE messages (
    session           BLOB    NOT NULL,
    seq               INTEGER NOT NULL,
    id                BLOB    NOT NULL,
    text              TEXT    NOT NULL,
    created_at        INTEGER NOT NULL,
    client_message_id TEXT,             -- of a user's message, if it has one
    in_reply_to       BLOB,             -- of a reply: what it answers
    status            TEXT,             -- of a reply: complete, stopped, interrupted, failed
    finish_reason     TEXT,
    failure_code      TEXT,
    failure_message   TEXT,
    input_tokens      INTEGER,
    output_tokens     INTEGER,
    usage_estimated   INTEGER,
    PRIMARY KEY (session, seq)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX messages_by_client_id ON messages (session, client_message_id)
    WHERE client_message_id IS NOT NULL;

-- User messages that have not been answered.
CREATE TABLE turns (
    session BLOB    NOT NULL,
    seq     INTEGER NOT NULL,
    message BLOB    NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 1, -- the last one that began
    text    TEXT    NOT NULL DEFAULT '', -- what it had produced when that was last noted
    PRIMARY KEY (session, seq)
) STRICT, WITHOUT ROWID;

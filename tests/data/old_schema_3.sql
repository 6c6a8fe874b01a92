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
-- Tokens of all replies of a session, so that a read of the session needs no read of its messages.
-- Each sum is at most 4294967295. It is an estimate if one reply is an estimate or was not counted.

ALTER TABLE sessions ADD COLUMN input_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN output_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN usage_estimated INTEGER NOT NULL DEFAULT 0;

UPDATE sessions SET (input_tokens, output_tokens, usage_estimated) = (
    SELECT min(coalesce(sum(input_tokens), 0), 4294967295),
           min(coalesce(sum(output_tokens), 0), 4294967295),
           coalesce(max(coalesce(usage_estimated, 1)), 0)
    FROM messages
    WHERE messages.session = sessions.id AND messages.in_reply_to IS NOT NULL
);
-- The number of sessions, so that the check of the limit does not count rows. Triggers maintain it
-- for every program that writes to the file.
CREATE TABLE totals (
    only_row INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
    sessions INTEGER NOT NULL
) STRICT;

INSERT INTO totals SELECT 1, count(*) FROM sessions;

CREATE TRIGGER sessions_come AFTER INSERT ON sessions
BEGIN
    UPDATE totals SET sessions = sessions + 1;
END;

CREATE TRIGGER sessions_go AFTER DELETE ON sessions
BEGIN
    UPDATE totals SET sessions = sessions - 1;
END;

-- Times are milliseconds since the Unix epoch. Ids are the 16 bytes of a UUID. Parts, metadata and
-- options are JSON.

CREATE TABLE sessions (
    id                  BLOB    NOT NULL PRIMARY KEY,
    name                TEXT    NOT NULL,
    epoch               TEXT    NOT NULL,
    created_at          INTEGER NOT NULL,
    -- Deadlines that its tokens share, unless they have own ones. With a subject: the time of its
    -- deletion, or the end of the year 9999.
    expires_at          INTEGER NOT NULL,
    ends_at             INTEGER NOT NULL,
    delete_at           INTEGER,          -- NULL: not by itself
    active_at           INTEGER NOT NULL, -- time of the last message, or of the creation
    title               TEXT,
    metadata            TEXT,
    subject             TEXT,             -- the identity of the owner
    origin              BLOB,             -- hash of the address of its creator, without an owner
    size                INTEGER NOT NULL DEFAULT 0, -- bytes of its messages
    head_seq            INTEGER NOT NULL DEFAULT 0,
    newest_turn         INTEGER NOT NULL DEFAULT 0, -- number of the newest user message
    -- Tokens of all replies, so that a read of the session needs no read of its messages. Each sum
    -- is at most 4294967295.
    input_tokens        INTEGER NOT NULL DEFAULT 0,
    output_tokens       INTEGER NOT NULL DEFAULT 0,
    usage_estimated     INTEGER NOT NULL DEFAULT 0,
    cached_input_tokens INTEGER,
    cache_write_tokens  INTEGER,
    reasoning_tokens    INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX sessions_by_deadline ON sessions (expires_at);

-- The list of an owner's sessions.
CREATE INDEX sessions_by_subject ON sessions (subject, active_at, id) WHERE subject IS NOT NULL;

CREATE INDEX sessions_by_origin ON sessions (origin) WHERE origin IS NOT NULL;

CREATE TABLE secrets (
    name  TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- The key of the hashes in `origin`.
INSERT INTO secrets VALUES ('origin', randomblob(32));

CREATE TABLE tokens (
    hash       BLOB    NOT NULL PRIMARY KEY, -- SHA-256 of the token
    id         BLOB    NOT NULL,
    session    BLOB    NOT NULL,
    scope      TEXT    NOT NULL,             -- read, write
    label      TEXT,
    expires_at INTEGER,                      -- NULL: the deadlines of the session
    ends_at    INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX tokens_by_session ON tokens (session, id);

CREATE INDEX tokens_by_deadline ON tokens (expires_at) WHERE expires_at IS NOT NULL;

-- The logs, each in one piece and in order. Long columns come last: a read of the others needs no
-- further pages.
CREATE TABLE messages (
    session             BLOB    NOT NULL,
    seq                 INTEGER NOT NULL,
    id                  BLOB    NOT NULL,
    created_at          INTEGER NOT NULL,
    -- Of a user message:
    client_message_id   TEXT,
    parent_seq          INTEGER,          -- the user message before it on its branch; 0: none
    regenerates_seq     INTEGER,
    -- Of a reply:
    in_reply_to         BLOB,             -- the user message that it answers
    turn_seq            INTEGER,          -- its number
    status              TEXT,             -- complete, stopped, interrupted, failed
    finish_reason       TEXT,
    failure_code        TEXT,
    failure_message     TEXT,
    input_tokens        INTEGER,
    output_tokens       INTEGER,
    usage_estimated     INTEGER,
    cached_input_tokens INTEGER,
    cache_write_tokens  INTEGER,
    reasoning_tokens    INTEGER,
    model               TEXT,
    first_content_ms    INTEGER,
    duration_ms         INTEGER,
    -- Of both; options of a user message, provider_data of a reply:
    metadata            TEXT,
    text                TEXT    NOT NULL,
    parts               TEXT,             -- NULL: the text is the whole content
    options             TEXT,
    provider_data       TEXT,
    PRIMARY KEY (session, seq)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX messages_by_client_id ON messages (session, client_message_id)
    WHERE client_message_id IS NOT NULL;

-- User messages without a reply.
CREATE TABLE turns (
    session BLOB    NOT NULL,
    seq     INTEGER NOT NULL,
    message BLOB    NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 1,  -- the last one that began
    text    TEXT    NOT NULL DEFAULT '', -- its content at the last checkpoint
    parts   TEXT,
    PRIMARY KEY (session, seq)
) STRICT, WITHOUT ROWID;

-- Model tokens that replies of a day have used: of each owner, and of all sessions ('').
CREATE TABLE spent (
    day     INTEGER NOT NULL, -- since the Unix epoch
    subject TEXT    NOT NULL,
    tokens  INTEGER NOT NULL,
    PRIMARY KEY (day, subject)
) STRICT, WITHOUT ROWID;

-- The number of sessions, so that the check of the limit does not count rows. Triggers maintain it
-- for every program that writes to the file.
CREATE TABLE totals (
    only_row INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
    sessions INTEGER NOT NULL
) STRICT;

INSERT INTO totals VALUES (1, 0);

CREATE TRIGGER session_inserted AFTER INSERT ON sessions
BEGIN
    UPDATE totals SET sessions = sessions + 1;
END;

CREATE TRIGGER session_deleted AFTER DELETE ON sessions
BEGIN
    UPDATE totals SET sessions = sessions - 1;
END;

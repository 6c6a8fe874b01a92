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

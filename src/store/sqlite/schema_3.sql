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

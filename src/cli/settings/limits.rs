use crate::cli::{
    setting::{Group, SETTING, Setting, field},
    value::{Number, Size},
};

pub(super) const GROUP: Group = Group {
    heading: "Limits",
    introduction: "[PROTOCOL.md](PROTOCOL.md#limits) lists the error that a client gets when a \
        limit is reached.",
    settings: SETTINGS,
};

const SETTINGS: &[Setting] = &[
    Setting {
        name: "max-message-size",
        variable: "DUOLOGUE_MAX_MESSAGE_SIZE",
        field: field!(Size, session.max_message_size),
        summary: "Longest user message",
        ..SETTING
    },
    Setting {
        name: "max-reply-size",
        variable: "DUOLOGUE_MAX_REPLY_SIZE",
        field: field!(Size, session.max_reply_size),
        summary: "Longest reply",
        details: "A longer reply is cut and committed as interrupted.",
        ..SETTING
    },
    Setting {
        name: "max-queued-turns",
        variable: "DUOLOGUE_MAX_QUEUED_TURNS",
        field: field!(Number<u32>, session.max_queued_turns),
        summary: "User messages per session that wait for their reply",
        details: "The message that is being answered counts.",
        ..SETTING
    },
    Setting {
        name: "max-session-messages",
        variable: "DUOLOGUE_MAX_SESSION_MESSAGES",
        field: field!(Number<u32>, session.max_session_messages),
        summary: "Messages per session, replies included",
        ..SETTING
    },
    Setting {
        name: "max-session-streams",
        variable: "DUOLOGUE_MAX_SESSION_STREAMS",
        field: field!(Number<usize>, session.max_session_streams),
        summary: "Streams attached to one session",
        ..SETTING
    },
    Setting {
        name: "max-backlog-size",
        variable: "DUOLOGUE_MAX_BACKLOG_SIZE",
        field: field!(Size, session.max_backlog_size),
        summary: "Unread bytes per stream before the gateway closes it",
        details: "The client receives `slow_consumer` and can reconnect.",
        ..SETTING
    },
    Setting {
        name: "max-sessions",
        variable: "DUOLOGUE_MAX_SESSIONS",
        field: field!(Number<usize>, max_sessions),
        summary: "Sessions in the store",
        details: "Beyond the limit, new sessions are refused until others have expired.",
        ..SETTING
    },
    Setting {
        name: "max-store-size",
        variable: "DUOLOGUE_MAX_STORE_SIZE",
        field: field!(Size, max_store_size),
        summary: "Bytes of messages in the memory store",
        ..SETTING
    },
    Setting {
        name: "max-connections",
        variable: "DUOLOGUE_MAX_CONNECTIONS",
        field: field!(Number<usize>, server.max_connections),
        summary: "Concurrent connections",
        ..SETTING
    },
    Setting {
        name: "max-connection-streams",
        variable: "DUOLOGUE_MAX_CONNECTION_STREAMS",
        field: field!(Number<u32>, server.max_connection_streams),
        summary: "Concurrent HTTP/2 streams per connection",
        ..SETTING
    },
];

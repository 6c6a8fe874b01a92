use crate::cli::{
    lists::{MediaTypes, OptionNames},
    setting::{Group, SETTING, Setting, field},
    value::{Number, Size, Switch},
};

pub(super) const GROUP: Group = Group {
    heading: "Limits",
    introduction: "[PROTOCOL.md](PROTOCOL.md#limits) lists the error that a client gets when a \
        limit is reached.",
    settings: SETTINGS,
};

const SETTINGS: &[Setting] = &[
    Setting {
        name: "max-text-size",
        variable: "DUOLOGUE_MAX_TEXT_SIZE",
        field: field!(Size, session.messages.content.max_text_size),
        summary: "Text of a user message",
        ..SETTING
    },
    Setting {
        name: "max-message-size",
        variable: "DUOLOGUE_MAX_MESSAGE_SIZE",
        field: field!(Size, session.messages.content.max_size),
        summary: "Longest user message, with all its parts",
        ..SETTING
    },
    Setting {
        name: "max-message-parts",
        variable: "DUOLOGUE_MAX_MESSAGE_PARTS",
        field: field!(Number<usize>, session.messages.content.max_parts),
        summary: "Parts of a user message",
        ..SETTING
    },
    Setting {
        name: "max-inline-file-size",
        variable: "DUOLOGUE_MAX_INLINE_FILE_SIZE",
        field: field!(Size, session.messages.content.max_inline_file_size),
        summary: "Longest `data:` URL of a file; 0 accepts none",
        details: "A file of a reply with a longer URL is kept without its content.",
        ..SETTING
    },
    Setting {
        name: "file-types",
        variable: "DUOLOGUE_FILE_TYPES",
        field: field!(MediaTypes, session.messages.content.media_types),
        summary: "Media types of files in user messages, comma-separated, or `none`",
        ..SETTING
    },
    Setting {
        name: "turn-options",
        variable: "DUOLOGUE_TURN_OPTIONS",
        field: field!(OptionNames, session.messages.options),
        summary: "Options that clients may set for a turn, comma-separated, or `none`",
        details: "Of `model`, `instructions`, `tools`, `max_output_tokens`, `temperature` and \
            `extra`.",
        ..SETTING
    },
    Setting {
        name: "max-reply-size",
        variable: "DUOLOGUE_MAX_REPLY_SIZE",
        field: field!(Size, session.max_reply_size),
        summary: "Longest reply, with all its parts",
        details: "A longer reply is cut and committed as interrupted.",
        ..SETTING
    },
    Setting {
        name: "max-reply-text-size",
        variable: "DUOLOGUE_MAX_REPLY_TEXT_SIZE",
        field: field!(Size, session.max_reply_text_size),
        summary: "Text of a reply",
        details: "A longer reply is cut and committed as interrupted.",
        ..SETTING
    },
    Setting {
        name: "show-provider-data",
        variable: "DUOLOGUE_SHOW_PROVIDER_DATA",
        field: field!(Switch, session.show_provider_data),
        summary: "Show clients that ask for it the data that model providers keep with messages",
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
        name: "max-session-tokens",
        variable: "DUOLOGUE_MAX_SESSION_TOKENS",
        field: field!(Number<u32>, session.max_session_tokens),
        summary: "Tokens per session",
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
        name: "max-file-size",
        variable: "DUOLOGUE_MAX_FILE_SIZE",
        field: field!(Size, max_file_size),
        summary: "Size of the SQLite file; 0 is no limit",
        details: "Beyond the limit, new sessions and messages are refused with `store_full` until \
            others are deleted. Replies to accepted messages are stored.",
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

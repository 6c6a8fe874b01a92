use crate::cli::{
    setting::{Group, SETTING, Setting, field},
    value::{Number, Size},
};

pub(super) const GROUP: Group = Group {
    heading: "Limits per caller",
    introduction: "0 is no limit. A refusal is `rate_limited` and says when to try again. An address \
        is one of IPv4, or a /64 of IPv6. Behind a proxy, set `--trusted-proxies`. See [Who may \
        use it](OPERATIONS.md#who-may-use-it).",
    settings: SETTINGS,
};

const SETTINGS: &[Setting] = &[
    Setting {
        name: "address-sessions-per-minute",
        variable: "DUOLOGUE_ADDRESS_SESSIONS_PER_MINUTE",
        field: field!(Number<u32>, session.limits.address.sessions_per_minute),
        summary: "New sessions and tokens of an address in a minute",
        ..SETTING
    },
    Setting {
        name: "address-messages-per-second",
        variable: "DUOLOGUE_ADDRESS_MESSAGES_PER_SECOND",
        field: field!(Number<u32>, session.limits.address.messages_per_second),
        summary: "Messages of an address in a second",
        details: "Ten seconds' worth may come at once.",
        ..SETTING
    },
    Setting {
        name: "address-messages-per-day",
        variable: "DUOLOGUE_ADDRESS_MESSAGES_PER_DAY",
        field: field!(Number<u32>, session.limits.address.messages_per_day),
        summary: "Messages of an address in a day",
        ..SETTING
    },
    Setting {
        name: "address-bytes-per-minute",
        variable: "DUOLOGUE_ADDRESS_BYTES_PER_MINUTE",
        field: field!(Size, session.limits.address.bytes_per_minute),
        summary: "Bytes of messages of an address in a minute",
        ..SETTING
    },
    Setting {
        name: "address-stored-sessions",
        variable: "DUOLOGUE_ADDRESS_STORED_SESSIONS",
        field: field!(Number<u32>, session.limits.address.stored_sessions),
        summary: "Sessions of an address in the store",
        details: "Those of an address are the ones without an owner.",
        ..SETTING
    },
    Setting {
        name: "address-stored-bytes",
        variable: "DUOLOGUE_ADDRESS_STORED_BYTES",
        field: field!(Size, session.limits.address.stored_bytes),
        summary: "Bytes of messages of an address in the store",
        ..SETTING
    },
    Setting {
        name: "address-streams",
        variable: "DUOLOGUE_ADDRESS_STREAMS",
        field: field!(Number<u32>, session.limits.address.streams),
        summary: "Streams of an address at a time",
        ..SETTING
    },
    Setting {
        name: "address-connections",
        variable: "DUOLOGUE_ADDRESS_CONNECTIONS",
        field: field!(Number<u32>, session.limits.address.connections),
        summary: "Connections of an address at a time",
        ..SETTING
    },
    Setting {
        name: "address-failures-per-minute",
        variable: "DUOLOGUE_ADDRESS_FAILURES_PER_MINUTE",
        field: field!(Number<u32>, session.limits.address.failures_per_minute),
        summary: "Wrong tokens and credentials of an address in a minute",
        ..SETTING
    },
    Setting {
        name: "subject-sessions-per-minute",
        variable: "DUOLOGUE_SUBJECT_SESSIONS_PER_MINUTE",
        field: field!(Number<u32>, session.limits.subject.sessions_per_minute),
        summary: "New sessions and tokens of an owner in a minute",
        ..SETTING
    },
    Setting {
        name: "subject-messages-per-second",
        variable: "DUOLOGUE_SUBJECT_MESSAGES_PER_SECOND",
        field: field!(Number<u32>, session.limits.subject.messages_per_second),
        summary: "Messages of an owner in a second",
        details: "Ten seconds' worth may come at once.",
        ..SETTING
    },
    Setting {
        name: "subject-messages-per-day",
        variable: "DUOLOGUE_SUBJECT_MESSAGES_PER_DAY",
        field: field!(Number<u32>, session.limits.subject.messages_per_day),
        summary: "Messages of an owner in a day",
        ..SETTING
    },
    Setting {
        name: "subject-bytes-per-minute",
        variable: "DUOLOGUE_SUBJECT_BYTES_PER_MINUTE",
        field: field!(Size, session.limits.subject.bytes_per_minute),
        summary: "Bytes of messages of an owner in a minute",
        ..SETTING
    },
    Setting {
        name: "subject-stored-sessions",
        variable: "DUOLOGUE_SUBJECT_STORED_SESSIONS",
        field: field!(Number<u32>, session.limits.subject.stored_sessions),
        summary: "Sessions of an owner in the store",
        ..SETTING
    },
    Setting {
        name: "subject-stored-bytes",
        variable: "DUOLOGUE_SUBJECT_STORED_BYTES",
        field: field!(Size, session.limits.subject.stored_bytes),
        summary: "Bytes of messages of an owner in the store",
        ..SETTING
    },
    Setting {
        name: "subject-streams",
        variable: "DUOLOGUE_SUBJECT_STREAMS",
        field: field!(Number<u32>, session.limits.subject.streams),
        summary: "Streams of an owner at a time",
        ..SETTING
    },
    Setting {
        name: "key-sessions-per-minute",
        variable: "DUOLOGUE_KEY_SESSIONS_PER_MINUTE",
        field: field!(Number<u32>, session.limits.key.sessions_per_minute),
        summary: "New sessions and tokens of an API key in a minute",
        details: "All users of a service share the limits of its key.",
        ..SETTING
    },
    Setting {
        name: "key-messages-per-second",
        variable: "DUOLOGUE_KEY_MESSAGES_PER_SECOND",
        field: field!(Number<u32>, session.limits.key.messages_per_second),
        summary: "Messages of an API key in a second",
        details: "Ten seconds' worth may come at once.",
        ..SETTING
    },
    Setting {
        name: "key-messages-per-day",
        variable: "DUOLOGUE_KEY_MESSAGES_PER_DAY",
        field: field!(Number<u32>, session.limits.key.messages_per_day),
        summary: "Messages of an API key in a day",
        ..SETTING
    },
    Setting {
        name: "key-bytes-per-minute",
        variable: "DUOLOGUE_KEY_BYTES_PER_MINUTE",
        field: field!(Size, session.limits.key.bytes_per_minute),
        summary: "Bytes of messages of an API key in a minute",
        ..SETTING
    },
    Setting {
        name: "key-streams",
        variable: "DUOLOGUE_KEY_STREAMS",
        field: field!(Number<u32>, session.limits.key.streams),
        summary: "Streams of an API key at a time",
        ..SETTING
    },
];

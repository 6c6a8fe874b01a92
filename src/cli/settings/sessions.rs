use crate::{
    cli::{
        setting::{Field, Group, SETTING, Setting, field},
        value::{Length, Text, Word},
    },
    store,
};

pub(super) const GROUP: Group = Group {
    heading: "Sessions",
    introduction: "See [the file](OPERATIONS.md#the-file) for the data that the store keeps.",
    settings: SETTINGS,
};

const SETTINGS: &[Setting] = &[
    Setting {
        name: "store",
        variable: "DUOLOGUE_STORE",
        field: Field { value_name: "STORE", ..field!(Word<store::Settings>, store) },
        summary: "Store: `sqlite:PATH`, `memory` or `redis://HOST:PORT`",
        details: "The SQLite file is created if it does not exist. Sessions in memory end with the \
            process. Several gateways share a Redis or Valkey server; `rediss://` uses TLS. Its \
            address is `redis://USER:PASSWORD@HOST:PORT/DATABASE`.",
        common: true,
        global: true,
        sensitive: true,
        ..SETTING
    },
    Setting {
        name: "redis-key-prefix",
        variable: "DUOLOGUE_REDIS_KEY_PREFIX",
        field: field!(Text, redis_key_prefix),
        summary: "Beginning of the name of every key on a Redis or Valkey server",
        details: "Gateways with the same prefix share their sessions.",
        ..SETTING
    },
    Setting {
        name: "durability",
        variable: "DUOLOGUE_DURABILITY",
        field: Field { value_name: "LEVEL", ..field!(Word<store::Durability>, durability) },
        summary: "When an acknowledged message is on disk: `full` or `relaxed`",
        details: "With `full` a message is on disk before it is acknowledged. With `relaxed` it \
            follows soon after: a message survives the death of the process, but perhaps not a \
            loss of power.",
        ..SETTING
    },
    Setting {
        name: "session-ttl",
        variable: "DUOLOGUE_SESSION_TTL",
        field: field!(Length, session.session_ttl),
        summary: "Idle time after which a session expires",
        details: "A message and a refresh count as activity. An expired conversation is deleted.",
        ..SETTING
    },
    Setting {
        name: "unused-session-ttl",
        variable: "DUOLOGUE_UNUSED_SESSION_TTL",
        field: field!(Length, session.unused_session_ttl),
        summary: "Time after which a session expires that was never used",
        details: "A stream, a message or a refresh is a use. Sessions with an owner do not expire.",
        ..SETTING
    },
    Setting {
        name: "session-max-age",
        variable: "DUOLOGUE_SESSION_MAX_AGE",
        field: field!(Length, session.session_max_age),
        summary: "Age at which a session expires, active or not",
        ..SETTING
    },
];

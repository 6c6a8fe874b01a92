use crate::{
    cli::{
        setting::{Field, Group, HIDDEN, SETTING, Setting, field},
        value::{File, Length, Text, Word},
    },
    store,
};

pub(super) const GROUP: Group = Group {
    heading: "Sessions",
    introduction: "See [the file](OPERATIONS.md#the-file) for the data that the store keeps.",
    settings: SETTINGS,
};

/// A password of the servers. It is never shown.
macro_rules! password {
    ($field:ident) => {
        Field {
            value_name: "PASSWORD",
            set: |values, text| {
                let password = text.trim();
                values.redis.$field = (!password.is_empty()).then(|| password.to_owned());
                Ok(())
            },
            show: |values| values.redis.$field.as_ref().map(|_| HIDDEN.into()),
        }
    };
}

const SETTINGS: &[Setting] = &[
    Setting {
        name: "store",
        variable: "DUOLOGUE_STORE",
        field: Field { value_name: "STORE", ..field!(Word<store::Settings>, store) },
        summary: "Store: `sqlite:PATH`, `memory` or `redis://HOST:PORT`",
        details: "The SQLite file is created if it does not exist. Sessions in memory end with the \
            process. Several gateways share Redis or Valkey: \
            `redis://USER:PASSWORD@HOST:PORT/DATABASE` is one server, \
            `redis+sentinel://HOST:PORT,HOST:PORT/NAME` a master that Sentinel watches, \
            `redis+cluster://HOST:PORT,HOST:PORT` a cluster. With `rediss` they use TLS.",
        common: true,
        global: true,
        sensitive: true,
        ..SETTING
    },
    Setting {
        name: "redis-key-prefix",
        variable: "DUOLOGUE_REDIS_KEY_PREFIX",
        field: field!(Text, redis.key_prefix),
        summary: "Beginning of the name of every key in Redis or Valkey",
        details: "Gateways with the same prefix share their sessions.",
        global: true,
        ..SETTING
    },
    Setting {
        name: "redis-username",
        variable: "DUOLOGUE_REDIS_USERNAME",
        field: field!(optional Text, redis.username),
        summary: "User for Redis or Valkey, unless the address has one",
        default: Some("the default user"),
        example: Some("gateway"),
        global: true,
        ..SETTING
    },
    Setting {
        name: "redis-password",
        variable: "DUOLOGUE_REDIS_PASSWORD",
        field: password!(password),
        summary: "Password for Redis or Valkey, unless the address has one",
        details: "It is never shown and never logged. Every user of the machine can read flags: \
            prefer the variable.",
        default: Some("none"),
        example: Some("secret"),
        global: true,
        sensitive: true,
        ..SETTING
    },
    Setting {
        name: "redis-sentinel-password",
        variable: "DUOLOGUE_REDIS_SENTINEL_PASSWORD",
        field: password!(sentinel_password),
        summary: "Password of the sentinels",
        default: Some("none"),
        example: Some("secret"),
        global: true,
        sensitive: true,
        ..SETTING
    },
    Setting {
        name: "redis-ack",
        variable: "DUOLOGUE_REDIS_ACK",
        field: Field {
            value_name: "SERVERS",
            ..field!(Word<store::Acknowledgement>, redis.acknowledgement)
        },
        summary: "Servers that have a message when it is acknowledged: `master` or `replica`",
        details: "With `replica` a message is acknowledged once the master and one replica have it, so \
            that it survives the failure of the master. Without a replica that answers within a \
            second, messages are refused with `store_unavailable`.",
        ..SETTING
    },
    Setting {
        name: "redis-timeout",
        variable: "DUOLOGUE_REDIS_TIMEOUT",
        field: field!(Length, redis.timeout),
        summary: "Longest time that an operation waits for a server of Redis or Valkey",
        details: "It then fails with `store_unavailable`.",
        global: true,
        ..SETTING
    },
    Setting {
        name: "redis-connect-timeout",
        variable: "DUOLOGUE_REDIS_CONNECT_TIMEOUT",
        field: field!(Length, redis.connect_timeout),
        summary: "Longest time to connect to a server of Redis or Valkey, TLS included",
        global: true,
        ..SETTING
    },
    Setting {
        name: "redis-ca-cert",
        variable: "DUOLOGUE_REDIS_CA_CERT",
        field: field!(optional File, redis.ca_cert),
        summary: "CA certificates to trust for `rediss`, PEM",
        default: Some("those of the system"),
        example: Some("ca.pem"),
        global: true,
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
